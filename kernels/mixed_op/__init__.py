"""The mixed operation of all edges of a state: contract.py, and triton/ for CUDA tensors; C++ in csrc/cpu/mixed_op."""
