"""The report of a run: what is read from its folder, and the page made of it."""

from fastdarts.moved import names

__getattr__ = names("report")
