"""Code of users that descends from the public DARTS code: its own mixed operations on the fused kernels."""
