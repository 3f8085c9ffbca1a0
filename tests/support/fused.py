"""Fused calls as tests count them."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from fastdarts.nn.fusion.chain import FusedChain
from fastdarts.nn.fusion.plan import Fused


def note_calls(monkeypatch: pytest.MonkeyPatch, what: Callable[[Fused], Any]) -> list[Any]:
    """``what`` says of the parts of every fused call, planned anew or not, in a list that grows."""
    noted, call, chained = [], Fused.__call__, FusedChain.__call__

    def noting(self: Fused, *args: Any, **options: Any) -> list[Tensor]:
        noted.append(what(self))
        return call(self, *args, **options)

    def noting_all(self: FusedChain, *args: Any, **options: Any) -> Tensor | None:
        out = chained(self, *args, **options)
        noted.extend(map(what, self.fused if out is not None else ()))
        return out

    monkeypatch.setattr(Fused, "__call__", noting)
    monkeypatch.setattr(FusedChain, "__call__", noting_all)
    return noted


def kinds(fused: Fused) -> list[str]:
    """Of its candidates."""
    return [part.kind for _, _, part in fused.parts]
