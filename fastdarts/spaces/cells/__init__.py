"""Spaces of two-input cells, as DARTS has them: genotype, supernet, network."""

from fastdarts.moved import names

__getattr__ = names("spaces.cells")
