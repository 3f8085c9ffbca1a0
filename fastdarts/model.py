"""The names of model.py of the public DARTS code."""

from fastdarts.moved import names
from fastdarts.nn.operations import OPS, FactorizedReduce, Identity, ReLUConvBN, drop_path
from fastdarts.spaces.cells.network import (
    AuxiliaryHeadCIFAR,
    AuxiliaryHeadImageNet,
    Cell,
    NetworkCIFAR,
    NetworkImageNet,
)

__all__ = [
    "OPS",
    "AuxiliaryHeadCIFAR",
    "AuxiliaryHeadImageNet",
    "Cell",
    "FactorizedReduce",
    "Identity",
    "NetworkCIFAR",
    "NetworkImageNet",
    "ReLUConvBN",
    "drop_path",
]

__getattr__ = names("model")
