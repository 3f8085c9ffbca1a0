"""Partial channels: contract.py, and triton.py for CUDA tensors; C++ in csrc/cpu/interleave."""
