"""The flat updates of the bilevel step: contract.py; C++ in csrc/cpu/flat, CUDA C++ in csrc/cuda/flat."""
