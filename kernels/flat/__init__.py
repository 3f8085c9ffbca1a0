"""The flat updates of the bilevel step: contract.py; C++ in csrc/cpu, CUDA C++ in csrc/cuda."""
