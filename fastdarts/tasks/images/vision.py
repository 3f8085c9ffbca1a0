"""The modules of torchvision that are used, each imported when it is first used.

torchvision takes 1.2 s to import, as long as PyTorch itself. So help texts, errors and the first line of a search come
without it.
"""

import importlib
from types import ModuleType

_MODULES = {"v2": "torchvision.transforms.v2", "datasets": "torchvision.datasets"}


def __getattr__(name: str) -> ModuleType:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = module = importlib.import_module(_MODULES[name])
    return module
