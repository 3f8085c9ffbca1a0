"""When a search has found its cell: the stop rules of DARTS+ (Liang et al. 2019, arXiv:1909.06035)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastdarts.policies.base import Next, Row, Search, Stopper
from fastdarts.spaces import Table

WEIGHTLESS = {"none", "noise", "skip_connect", "max_pool_3x3", "avg_pool_3x3"}
"""Operations that have nothing to learn."""


class ManySkips(Stopper):
    """Ends a search after the first epoch whose derived cell of the first kind, normal where there are two, has
    ``most`` skip connections or more. Its supernet is the result.

    ``begin`` is the first epoch, counted from 0, after which it may end.
    """

    def __init__(self, most: int, begin: int = 0):
        self.most, self.begin = most, begin
        self.stopped: Row = {}

    def state_dict(self) -> dict[str, Any]:
        return {"stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stopped = dict(state["stopped"])

    def after(self, search: Search) -> Next:
        """The end, if there are so many."""
        kind = next(iter(search.space.kinds))
        entries, _ = search.space.cells(search.derive())[kind]
        skips = sum(entry[0] == "skip_connect" for entry in entries)
        if search.epoch < self.begin or skips < self.most:
            return Next(search.epoch + 1)
        self.stopped = {"epoch": search.epoch, "skips": skips}
        return Next(search.epochs)

    def events(self) -> Row:
        """The epoch after which it ended early."""
        return {"stopped": self.stopped}


def ranking(strengths: Sequence[Sequence[float]], names: Table) -> list[list[int]]:
    """For each edge, the columns of the operations that learn, from strong to weak; ties keep the lower index.

    strengths: [E, K].
    """
    learning = ([k for k, name in enumerate(row) if name not in WEIGHTLESS] for row in names)
    return [sorted(own, key=lambda k: -row[k]) for own, row in zip(learning, strengths, strict=True)]


class SameRanking(Stopper):
    """Ends a search after the first epoch whose :func:`ranking`, on all edges of all kinds of cells, has been the same
    in ``epochs`` epochs in a row, that one included."""

    def __init__(self, epochs: int):
        self.epochs = epochs
        self.last: list[list[list[int]]] = []
        self.same = 0
        self.stopped: Row = {}

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last, "same": self.same, "stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last, self.same, self.stopped = state["last"], state["same"], dict(state["stopped"])

    def after(self, search: Search) -> Next:
        """The end, if it has been the same for so long."""
        tables = zip(search.model.mixing_weights(), search.model.primitives.values(), strict=True)
        found = [ranking(weights.tolist(), names) for weights, names in tables]
        self.same = self.same + 1 if found == self.last else 1
        self.last = found
        if self.same < self.epochs:
            return Next(search.epoch + 1)
        self.stopped = {"epoch": search.epoch, "same": self.same}
        return Next(search.epochs)

    def events(self) -> Row:
        """The epoch after which it ended early."""
        return {"stopped": self.stopped}
