"""The names of rnn/genotypes.py of the public DARTS code."""

from fastdarts.moved import names
from fastdarts.spaces.recurrent.genotype import DARTS, DARTS_V1, DARTS_V2, ENAS, PRIMITIVES, STEPS, Genotype

__all__ = ["DARTS", "DARTS_V1", "DARTS_V2", "ENAS", "PRIMITIVES", "STEPS", "Genotype"]

__getattr__ = names("rnn.genotypes")
