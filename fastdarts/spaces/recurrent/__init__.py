"""The space of recurrent cells (DARTS, sections 2.2 and 3.1.2): genotype, supernet, network."""

from fastdarts.moved import names

__getattr__ = names("spaces.recurrent")
