"""Triton kernels for CUDA tensors, imported at the first launch only."""
