"""The command line."""

from fastdarts.moved import names

__getattr__ = names("cli")
