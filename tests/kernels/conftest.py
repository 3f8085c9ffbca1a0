"""Triton's interpreter, mended where a release of it does not run with the numpy that is installed."""

import importlib
import os
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="session")
def scalars_are_indices() -> Iterator[None]:
    """Triton 3.6 keeps a scalar as an array of one element, which numpy 2.4 does not take for an integer any more."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    interpreter = importlib.import_module("triton.runtime.interpreter")
    real = interpreter._patch_lang_tensor

    def mended(tensor: type, scope: Any) -> None:
        real(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", mended)
        yield
