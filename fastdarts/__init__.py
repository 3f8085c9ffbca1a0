"""fastdarts: a kernel-accelerated engine for differentiable architecture search.

A script written for the public DARTS code runs after changing its imports:
``from fastdarts import Network, Architect``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "OPS": "operations",
    "PRIMITIVES": "genotypes",
    "Architect": "architect",
    "Cell": "model_search",
    "FastdartsError": "errors",
    "Genotype": "genotypes",
    "MixedOp": "model_search",
    "Network": "model_search",
    "NetworkCIFAR": "model",
    "NetworkImageNet": "model",
    "early_stopping": "stopping",
}


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package, imported when it is first asked for.

    PyTorch takes seconds to import. So the command line can answer Ctrl-C in that time, and ``--version`` at once.
    """
    if name in _MODULES:
        return getattr(importlib.import_module(f"fastdarts.{_MODULES[name]}"), name)
    try:
        return importlib.import_module(f"fastdarts.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"fastdarts.{name}":
            raise
        raise AttributeError(f"module 'fastdarts' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
