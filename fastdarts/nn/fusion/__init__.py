"""The door from modules to fused kernels: which modules are recognised, and how they are called as one op."""
