"""The names of operations.py of the public DARTS code."""

from fastdarts.moved import names
from fastdarts.nn.operations import OPS, DilConv, FactorizedReduce, Identity, Noise, ReLUConvBN, SepConv, Zero

__all__ = ["OPS", "DilConv", "FactorizedReduce", "Identity", "Noise", "ReLUConvBN", "SepConv", "Zero"]

__getattr__ = names("operations")
