"""The names of genotypes.py of the public DARTS code and of its forks."""

from fastdarts.moved import names
from fastdarts.nn.operations import PRIMITIVES
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.named import *  # noqa: F403 - the names of forty genotypes
from fastdarts.spaces.cells.named import NAMED

__all__ = ["NAMED", "PRIMITIVES", "Genotype"]
__all__.extend(NAMED)  # a call: the list itself may only hold strings for the tool that makes the site

__getattr__ = names("genotypes")
