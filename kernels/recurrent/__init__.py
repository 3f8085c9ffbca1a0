"""The recurrent cell of the supernet: contract.py, and triton.py for CUDA tensors; C++ in csrc/cpu/recurrent."""
