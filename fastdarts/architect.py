"""The names of architect.py of the public DARTS code."""

from fastdarts.engine.architect import Architect
from fastdarts.moved import names

__all__ = ["Architect"]

__getattr__ = names("architect")
