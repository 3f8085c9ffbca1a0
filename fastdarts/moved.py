"""Names that have moved: for two releases their old places still give them, with a warning."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def moved(module: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module of which ``places`` says where each name is now."""

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        text = f"{module}.{name} has moved to {places[name]}.{name}: import it from there"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(places[name]), name)

    return find
