"""Running statistics of BatchNorms whose batch statistics a fused op computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from operator import is_
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn as nn
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.nn.fusion.recognise import STATISTICS, settled_things

Place = tuple[int, int]
"""A storage, and where in it a tensor begins."""


def place(t: Tensor) -> Place:
    """Where a buffer lies, whether it has memory of its own or is a row of a table."""
    if torch.compiler.is_compiling():  # which knows no addresses; no plan has made tables there
        return id(t), 0
    return t.untyped_storage()._cdata, t.storage_offset()


class Moves:
    """Moves of running statistics, made in two calls whatever their number."""

    def __init__(self) -> None:
        self._seen: set[Place] = set()
        self._counts: list[Tensor] = []
        self._running: list[Tensor] = []
        self._found: list[Tensor] = []
        self._momenta: list[float] = []

    def add(
        self, buffers: Sequence[Tensor], found: Sequence[Tensor], momentum: float | None, places: set[Place]
    ) -> None:
        """Note that a running mean and variance move towards what was ``found``, and that their count grows by 1.

        ``buffers`` are ``.data``: like BatchNorm itself, this must not outdate what a layer called before has kept for
        its backward. ``places`` says where those of each layer lie: one call may not write to a place twice.
        """
        if not self._seen.isdisjoint(places):  # a second move begins where the first one ends
            self.make()
        self._seen |= places
        mean, var, count = buffers
        if momentum is None:  # the mean over all batches, which the count says
            count.add_(1)
            momentum = 1 / count.item()
        else:
            self._counts.append(count)
        self._running += mean, var
        self._found += found if found[0].dtype is mean.dtype else [t.to(mean.dtype) for t in found]
        self._momenta += momentum, momentum

    def make(self) -> None:
        """Make those that were noted."""
        if self._counts:
            torch._foreach_add_(self._counts, 1)
        if self._running:
            torch._foreach_lerp_(self._running, self._found, self._momenta)
        self.__init__()


_together: ContextVar[Moves | None] = ContextVar("together", default=None)


@contextmanager
def moving_together() -> Iterator[None]:
    """Inside, running statistics stay as they are; all that a pass moves has moved when it is left."""
    if isinstance(_together.get(), _Still):
        yield
        return
    moves = Moves()
    before = _together.set(moves)
    try:
        yield
        moves.make()
    finally:
        _together.reset(before)


class _Still(Moves):
    """Moves that are not made."""

    def add(self, *_: Any) -> None:
        """Forget it."""


@contextmanager
def standing_still(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inside, running statistics that fused calls move stay as they are; gives copies of the other buffers by name, for
    a pass that may move them."""
    before = _together.set(_Still())
    try:
        yield {name: buffer.clone() for name, buffer in _others(model)}
    finally:
        _together.reset(before)


def _others(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers that layers may move which are called; where modules are settled, those of fused calls are known."""
    seen = settled_things()
    if seen is None or is_fake(next(model.buffers(), None)):  # which have no addresses
        return [*model.named_buffers()]
    at = "others", id(model), len(_storages)
    if at not in seen:
        seen[at] = [
            name for name, buffer in model.named_buffers() if buffer.untyped_storage().data_ptr() not in _storages
        ]
    return [(name, model.get_buffer(name)) for name in seen[at]]


def track(norms: Sequence[nn.BatchNorm2d | None], mean: Tensor, var: Tensor) -> None:
    """What each BatchNorm would have done to its running statistics, given those of this batch, one row each."""
    later = _together.get()
    moves = Moves() if later is None else later
    for bn, *found in zip(norms, mean.unbind(0), var.unbind(0), strict=True):
        if bn is not None and bn.training and bn.track_running_stats:
            buffers = [bn._buffers[name] for name in STATISTICS]
            moves.add([buffer.data for buffer in buffers], found, bn.momentum, {*map(place, buffers)})
    if later is None:
        moves.make()


_storages: WeakValueDictionary[int, Statistics] = WeakValueDictionary()
"""What is together already, by its address."""


class Statistics:
    """Running statistics of several BatchNorms in three tensors, a row for each, so that they move at once.

    The buffers become views of these, in place: they stay the objects they were, for modules and state dicts. Buffers
    that others have put together or share between processes are left alone.
    """

    def __init__(self, norms: Sequence[nn.BatchNorm2d | None], momentum: float):
        self.momentum = momentum
        self._missing = [bn is None for bn in norms]
        self._norms = [bn._buffers for bn in norms if bn is not None]
        some = self._norms[0]["running_mean"]
        shape = len(norms), len(some)
        self.mean, self.var = some.new_zeros(shape), some.new_ones(shape)
        self.count = torch.zeros(len(norms), dtype=torch.int64, device=some.device)
        for table, name in zip((self.mean, self.var, self.count), STATISTICS, strict=True):
            rows = [row for row, bn in zip(table.unbind(0), norms, strict=True) if bn is not None]
            buffers = [held[name] for held in self._norms]
            torch._foreach_copy_(rows, [b.data for b in buffers])
            for buffer, row in zip(buffers, rows, strict=True):
                buffer.data = row
            _storages[table.untyped_storage().data_ptr()] = self
        self._tables = tuple(table.data for table in (self.mean, self.var, self.count))
        self._addresses, self._first = self._now(), self._norms[0]["running_mean"]
        self._places = {place(held[name]) for held in self._norms for name in STATISTICS}

    @staticmethod
    def known(norms: Sequence[nn.BatchNorm2d | None]) -> Statistics | None:
        """Those of these layers, a row for each, if they are together already."""
        mean = next((bn._buffers["running_mean"] for bn in norms if bn is not None), None)
        found = None if mean is None else _storages.get(mean.untyped_storage().data_ptr())
        return found if found is not None and found.serves(norms) else None

    @classmethod
    def of(cls, norms: Sequence[nn.BatchNorm2d | None]) -> Statistics | None:
        """Those of these layers, if all are tracked alike; None if their buffers have to be moved one by one."""
        used = [bn for bn in norms if bn is not None]
        if not used or not all(bn.training and bn.track_running_stats for bn in used):
            return None
        momentum = used[0].momentum
        if momentum is None or any(bn.momentum != momentum for bn in used):
            return None
        if (known := cls.known(norms)) is not None:
            known.momentum = momentum  # which another plan may have found to be another one
            return known
        buffers = [bn._buffers[name] for bn in used for name in STATISTICS]
        first = buffers[0]
        alike = (
            len({id(b) for b in buffers}) == len(buffers)
            and all(type(b) is Tensor and b.device == first.device and not b.is_shared() for b in buffers)
            and all(b.shape == first.shape and b.dtype is first.dtype for b in buffers if b.dim())
            and all(b.untyped_storage().data_ptr() not in _storages for b in buffers)
        )
        return cls(norms, momentum) if alike else None

    def serves(self, norms: Sequence[nn.BatchNorm2d | None]) -> bool:
        """Whether these are the statistics of these layers, a row for each."""
        rows = [None if bn is None else bn._buffers for bn in norms]
        same = len(rows) == len(self.mean) and all(map(is_, filter(None, rows), self._norms))
        return same and [row is None for row in rows] == self._missing and self.holds()

    def seems_to_hold(self) -> bool:
        """Whether a layer has the buffer that it had: others have too, where modules are settled."""
        return self._norms[0]["running_mean"] is self._first

    def holds(self) -> bool:
        """Whether the layers have these statistics still."""
        try:
            return self._now() == self._addresses
        except TypeError:  # there are none any more
            return False

    def moved(self) -> bool:
        """Whether the layers have others on another device or in another type, as after ``module.to(...)``."""
        now = self._norms[0]["running_mean"]
        return now is not None and (now.device != self.mean.device or now.dtype is not self.mean.dtype)

    def track(self, mean: Tensor, var: Tensor) -> None:
        """What :func:`track` does."""
        later = _together.get()
        moves = Moves() if later is None else later
        moves.add(self._tables, (mean, var), self.momentum, self._places)
        if later is None:
            moves.make()

    def _now(self) -> list[Any]:
        return [*map(Tensor.data_ptr, [held[name] for held in self._norms for name in STATISTICS])]
