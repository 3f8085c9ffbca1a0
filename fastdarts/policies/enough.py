"""When a search has found its cell: the stop rules of DARTS+ (Liang et al. 2019, arXiv:1909.06035)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastdarts.nn.operations import SKIP_CONNECTIONS
from fastdarts.policies.base import Next, Row, Search, Stopper
from fastdarts.spaces import Table

_POOLS = {f"{kind}_pool_{size}x{size}" for kind in ("max", "avg") for size in (2, 3, 5, 7)}
WEIGHTLESS = SKIP_CONNECTIONS | _POOLS | {"none", "noise"}
"""Operations that have nothing to learn at stride 1."""


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
        skips = sum(entry[0] in SKIP_CONNECTIONS for entry in entries)
        if search.epoch < self.begin or skips < self.most:
            return Next(search.epoch + 1)
        self.stopped = {"epoch": search.epoch, "skips": skips}
        return Next(search.epochs)

    def events(self) -> Row:
        """The epoch after which it ended early."""
        return {"stopped": self.stopped}


def learning(names: Sequence[str]) -> list[int]:
    """The columns of the operations of an edge that learn."""
    return [k for k, name in enumerate(names) if name not in WEIGHTLESS]


def ranking(strengths: Sequence[Sequence[float]], names: Table) -> list[list[int]]:
    """For each edge, the columns of the operations that learn, from strong to weak; ties keep the lower index.

    strengths: [E, K].
    """
    return [sorted(own, key=lambda k: -row[k]) for own, row in zip(map(learning, names), strengths, strict=True)]


class SameRanking(Stopper):
    """Ends a search after the first epoch whose :func:`ranking`, on all edges of all kinds of cells, has been the same
    in ``epochs`` epochs in a row, that one included.

    ``begin`` is the first epoch, counted from 0, that counts: in a warm-up the alphas stay as they are.
    """

    def __init__(self, epochs: int, begin: int = 0):
        self.epochs, self.begin = epochs, begin
        self.last: list[list[list[int]]] = []
        self.same = 0
        self.stopped: Row = {}

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last, "same": self.same, "stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last, self.same, self.stopped = state["last"], state["same"], dict(state["stopped"])

    def after(self, search: Search) -> Next:
        """The end, if it has been the same for so long."""
        if search.epoch < self.begin:
            return Next(search.epoch + 1)
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
