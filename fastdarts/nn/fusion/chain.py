"""Cells whose calls of `mixed_op` are all known: planned at once, and one node of the graph of autograd."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from operator import is_
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts.functional import ChainPlan, Given, Pool, world
from fastdarts.nn.fusion.kinks import active
from fastdarts.nn.fusion.plan import Constants, Fused, lasting, stacked, wide
from fastdarts.nn.fusion.recognise import STATISTICS, settled_things
from fastdarts.nn.fusion.tracking import Statistics, moving_together, track
from fastdarts.nn.operations import drop_path_factors


class Planned(NamedTuple):
    """A call in a cell: the state that it reads, those that it makes or adds to, and whether it mixes candidates.

    ``drops``: its last edges are dropped per sample, each by the mask of this number.
    """

    fused: Fused
    source: int
    targets: Sequence[int]
    mixes: bool
    drops: Sequence[int] = ()


class _Seen(NamedTuple):
    """What a chain found fit, while modules are settled."""

    weights: list[Tensor]
    statistics: list[Statistics | None]

    def hold(self) -> bool:
        """Whether the layers seem to have these statistics still."""
        first = self.statistics[0]
        return first is not None and first.seems_to_hold()


class FusedChain:
    """The calls of a cell. Either some of them mix, and no layer is affine; or none does. ``concat``: states that are
    its output. ``masks``: how many masks are drawn for what is dropped.

    The first ``inputs`` states are given; calls that mix follow those that do not.
    """

    def __init__(self, steps: Sequence[Planned | Pool], inputs: int, concat: Sequence[int], masks: int = 0):
        calls = [step for step in steps if isinstance(step, Planned)]
        self.fused, self._masks = [call.fused for call in calls], masks
        planned = [s if isinstance(s, Pool) else (s.fused.plan, s.source, s.targets, s.drops) for s in steps]
        self.plan = ChainPlan(planned, [isinstance(s, Planned) and s.mixes for s in steps], inputs, concat)
        self.mixing = [call.fused for call in calls if call.mixes]
        self.plain = [call.fused for call in calls if not call.mixes]
        self._norms = [] if self.mixing else [bn for fused in self.fused for bn in fused.norms]
        self._rows = [len(fused.norms) for fused in self.mixing or self.fused]
        self._places = tuple(place for fused in self.mixing for place in fused.places)
        self._convolutions = [held for fused in self.fused for held in fused.convolutions]
        self._constants = Constants()
        self._joined = any(fused.joined for fused in self.fused)

    @staticmethod
    def takes(steps: Sequence[Planned | Pool]) -> bool:
        """Whether these calls can be a chain."""
        calls = [step for step in steps if isinstance(step, Planned)]
        mixes = any(call.mixes for call in calls)
        widths = {(call.fused.channels, call.fused.partial) for call in calls if call.mixes or not mixes}
        return len(widths) == 1 and not (mixes and any(call.fused.affine for call in calls))

    def holds(self) -> bool:
        """Whether the layers have the parameters and buffers that they had, with whatever values."""
        return all(fused.holds() for fused in self.fused)

    def suits(self) -> bool:
        """Whether the layers, which are what they were, normalise as they did."""
        return all(fused.suits() for fused in self.fused)

    @property
    def partial(self) -> int:
        """One of how many channels the candidates take."""
        return self.mixing[0].partial

    def __call__(
        self,
        inputs: Sequence[Tensor],
        mixing: Tensor | None = None,
        bypass: Tensor | None = None,
        drop_prob: float = 0.0,
    ) -> Tensor | None:
        """The output; ``mixing`` [E, K] are the weights of the candidates, ``bypass`` those of what bypasses them, by
        edge in the order of the calls. None where the calls have to be made one by one."""
        if _apart.get() or active() is not None or (self._joined and world() > 1):
            return None
        weights, settled = [held["weight"] for held in self._convolutions], settled_things()
        seen = None if settled is None else settled.get(id(self))
        known = seen is not None and all(map(is_, weights, seen.weights))
        arguments = self.plan.fitting(inputs, weights, known)
        if arguments is None:
            return None
        x = arguments[0][0]
        if mixing is None:
            gains, offsets = layers = [stacked(self._norms, name, x) for name in ("weight", "bias")]
            tables = [*zip(*(table.detach().split(self._rows) for table in layers), strict=True)]
        else:
            (gains, table), offsets = self._tables(x, mixing), None
            tables = [(gain, None) for gain in (*(f.ones(x) for f in self.plain), *table.split(self._rows))]
        factors = drop_path_factors(x, self._masks, drop_prob) if self._masks else None
        given = [
            Given(gain, offset, fused.seeds(x), running)
            for fused, (gain, offset), running in zip(self.fused, tables, self._running(x), strict=True)
        ]
        if known and seen.hold() and self.fused[0].tracks():
            statistics = seen.statistics
        else:
            statistics = [fused.statistics(x) for fused in self.fused]
            if settled is not None and lasting(x):
                settled[id(self)] = _Seen(weights, statistics)
        bypass = None if bypass is None else bypass.to(gains.dtype)
        out, batches = self.plan(*arguments, given, gains, offsets, bypass, factors)
        for fused, running, (mean, var) in zip(self.fused, statistics, batches, strict=True):
            if fused.training:
                track(fused.norms, mean, var) if running is None else running.track(mean, var)
        return out

    def _tables(self, x: Tensor, mixing: Tensor) -> tuple[Tensor, Tensor]:
        """The mixing weights of all rows, and the same for every channel, without a graph."""
        known, key = _shared.get(), (id(mixing), self._places)
        width = self.mixing[0].channels
        if known is None:
            rows = self._spread(x, mixing)
            return rows, _wide(rows, width)
        if key not in known:
            known[key] = mixing, self._spread(x, mixing), {}  # mixing: while it lives, nothing else has its id
        _, rows, tables = known[key]
        if width not in tables:
            tables[width] = _wide(rows, width)
        return rows, tables[width]

    def _running(self, x: Tensor) -> list[tuple[Tensor, Tensor] | None]:
        """Mean and variance that normalise each call; None where those of the batch do."""
        if not self._norms or any(fused.training and fused.normalises for fused in self.fused):
            return [fused.running(x) for fused in self.fused]
        means, variances = (stacked(self._norms, name, x).split(self._rows) for name in STATISTICS[:2])
        return [*zip(means, variances, strict=True)]

    def _spread(self, x: Tensor, mixing: Tensor) -> Tensor:
        flat = mixing.to(wide(x)).flatten()
        places = self._constants.places(x, self._places, len(flat))
        return torch.cat([flat, flat.new_ones(1)]).index_select(0, places)


class NoChain:
    """Stands where the calls of a cell are no chain."""

    def holds(self) -> bool:
        """As long as the modules are what they are."""
        return True

    def suits(self) -> bool:
        """Always."""
        return True


def _wide(rows: Tensor, channels: int) -> Tensor:
    return rows.detach()[:, None].expand(-1, channels).contiguous()


_shared: ContextVar[dict[Hashable, tuple[Tensor, Tensor, dict[int, Tensor]]] | None] = ContextVar(
    "shared", default=None
)


_apart: ContextVar[bool] = ContextVar("apart", default=False)


@contextmanager
def one_by_one() -> Iterator[None]:
    """Inside, every call of a cell is a node of its own: a gradient that is differentiated again then takes less."""
    before = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(before)


def computed_alone() -> Callable[[], AbstractContextManager[None]]:
    """Gives contexts in which a cell is computed as it would be now, sharing nothing with others: so it saves the same
    for backward whenever it is computed again."""
    apart = _apart.get()

    @contextmanager
    def context() -> Iterator[None]:
        before = _shared.set(None), _apart.set(apart)
        try:
            yield
        finally:
            _shared.reset(before[0]), _apart.reset(before[1])

    return context


@contextmanager
def _one_pass() -> Iterator[None]:
    before = _shared.set({})
    try:
        with moving_together():
            yield
    finally:
        _shared.reset(before)


def one_pass() -> AbstractContextManager[None]:
    """Around a forward pass: what its cells have in common is made once, and running statistics move at its end."""
    return nullcontext() if torch.compiler.is_compiling() else _one_pass()
