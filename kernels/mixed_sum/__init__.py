"""The weighted sum of one edge: contract.py, and triton.py for CUDA tensors; C++ in csrc/cpu/mixed_sum."""
