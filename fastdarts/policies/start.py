"""What a fresh supernet takes over from an earlier run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastdarts.policies.bilevel import Start
from fastdarts.ranks import from_first
from fastdarts.runs.checkpoint import find_checkpoint, load_checkpoint, loading

PARTS = "model", "alphas", "arch_optimizer"


class FromRun(Start):
    """The weights, the alphas and the optimizer of the alphas of a finished search; that of the weights starts anew.

    Args:
        folder: of the search.
        check: raises :class:`fastdarts.errors.FastdartsError` if its supernet does not fit. It is called again at the
            start, as a run that was stopped before its first checkpoint may name another folder where it goes on.
    """

    def __init__(self, folder: Path, check: Callable[[], None]):
        self.folder, self.check = folder, check

    def begin(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state with those parts."""
        from_first(self.check)
        path = find_checkpoint(self.folder)
        stored = from_first(lambda: load_checkpoint(path, "search"))
        with loading(path):
            return state | {name: stored["supernet"][name] for name in PARTS}
