"""fastdarts: a kernel-accelerated engine for differentiable architecture search.

A script written for the public DARTS code runs after changing its imports:
``from fastdarts import Network, Architect``.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from fastdarts.moved import find_modules

if importlib.util.find_spec("fastdarts.kernels") is None:  # Python looks into the current folder first
    raise ImportError(
        f"{__path__[0]} is the folder of a checkout, without the kernels beside it: install the checkout "
        "(pip install --no-build-isolation -e .), or start Python in another folder to use what is installed."
    )

if TYPE_CHECKING:
    from fastdarts.api import evaluate, search
    from fastdarts.engine.architect import Architect
    from fastdarts.errors import FastdartsError
    from fastdarts.forks.accelerate import accelerate
    from fastdarts.nn.mixed_op import MixedOp
    from fastdarts.nn.operations import OPS, PRIMITIVES
    from fastdarts.policies.stopping import early_stopping
    from fastdarts.runs.watch import Epoch, StopSearch
    from fastdarts.spaces.cells.cell import Cell
    from fastdarts.spaces.cells.genotype import Genotype
    from fastdarts.spaces.cells.network import NetworkCIFAR, NetworkImageNet
    from fastdarts.spaces.cells.supernet import Network
    from fastdarts.trained.model import load

__version__ = "0.1.0"
__all__ = [
    "OPS",
    "PRIMITIVES",
    "Architect",
    "Cell",
    "Epoch",
    "FastdartsError",
    "Genotype",
    "MixedOp",
    "Network",
    "NetworkCIFAR",
    "NetworkImageNet",
    "StopSearch",
    "accelerate",
    "early_stopping",
    "evaluate",
    "load",
    "search",
]

_MODULES = {
    "OPS": "nn.operations",
    "PRIMITIVES": "nn.operations",
    "Architect": "engine.architect",
    "Cell": "spaces.cells.cell",
    "Epoch": "runs.watch",
    "FastdartsError": "errors",
    "Genotype": "spaces.cells.genotype",
    "MixedOp": "nn.mixed_op",
    "Network": "spaces.cells.supernet",
    "NetworkCIFAR": "spaces.cells.network",
    "NetworkImageNet": "spaces.cells.network",
    "StopSearch": "runs.watch",
    "accelerate": "forks.accelerate",
    "early_stopping": "policies.stopping",
    "evaluate": "api",
    "load": "trained.model",
    "search": "api",
}

find_modules()


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
