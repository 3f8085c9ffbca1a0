"""Searchers: what proposes architectures and learns from how good they were, without gradients through them."""
