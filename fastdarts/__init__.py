"""fastdarts: a kernel-accelerated engine for differentiable architecture search.

A script written for the public DARTS code runs after changing its imports:
``from fastdarts import Network, Architect``.
"""

from fastdarts.architect import Architect
from fastdarts.errors import FastdartsError
from fastdarts.genotypes import PRIMITIVES, Genotype
from fastdarts.model import NetworkCIFAR, NetworkImageNet
from fastdarts.model_search import Cell, MixedOp, Network
from fastdarts.operations import OPS
from fastdarts.stopping import early_stopping

__version__ = "0.1.0"
__all__ = [
    "OPS",
    "PRIMITIVES",
    "Architect",
    "Cell",
    "FastdartsError",
    "Genotype",
    "MixedOp",
    "Network",
    "NetworkCIFAR",
    "NetworkImageNet",
    "early_stopping",
]
