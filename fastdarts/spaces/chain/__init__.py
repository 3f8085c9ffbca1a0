"""Chains of blocks, each with one input: the spaces of ProxylessNAS, MnasNet and EfficientNet."""
