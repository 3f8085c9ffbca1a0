"""The names of model_search.py of the public DARTS code."""

from fastdarts.moved import names
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import OPS, PRIMITIVES, FactorizedReduce, ReLUConvBN
from fastdarts.spaces.cells.cell import Cell
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.supernet import Network

__all__ = ["OPS", "PRIMITIVES", "Cell", "FactorizedReduce", "Genotype", "MixedOp", "Network", "ReLUConvBN"]

__getattr__ = names("model_search")
