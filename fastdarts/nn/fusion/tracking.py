"""Running statistics of BatchNorms whose batch statistics a fused op computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.nn.fusion.recognise import STATISTICS


def track(norms: Sequence[nn.BatchNorm2d | None], mean: Tensor, var: Tensor) -> None:
    """What each BatchNorm would have done to its running statistics, given those of this batch, one row each."""
    rows = [r for r, bn in enumerate(norms) if bn is not None and bn.training and bn.track_running_stats]
    if not rows:
        return
    buffers = [[norms[r]._buffers[name] for r in rows] for name in STATISTICS]
    if any(len({*map(id, column)}) < len(rows) for column in buffers):  # what serves several candidates moves once each
        for r in rows:
            track(norms[r : r + 1], mean[r : r + 1], var[r : r + 1])
        return
    # .data: like BatchNorm itself, this must not outdate what a layer called before has kept for its backward
    means, variances, counts = ([buffer.data for buffer in column] for column in buffers)
    norms = [norms[r] for r in rows]
    mean, var = mean.to(means[0].dtype).unbind(0), var.to(means[0].dtype).unbind(0)
    # Three calls for all candidates: as many as one BatchNorm module would make.
    torch._foreach_add_(counts, 1)
    momenta = [
        1 / count.item() if bn.momentum is None else bn.momentum for bn, count in zip(norms, counts, strict=True)
    ]
    torch._foreach_lerp_(means, [mean[r] for r in rows], momenta)
    torch._foreach_lerp_(variances, [var[r] for r in rows], momenta)


_storages: WeakValueDictionary[int, Statistics] = WeakValueDictionary()
"""What is together already, by its address."""


class Statistics:
    """Running statistics of several BatchNorms in three tensors, a row for each, so that they move in three calls.

    The buffers become views of these, in place: they stay the objects they were, for modules and state dicts. Buffers
    that others have put together or share between processes are left alone.
    """

    def __init__(self, norms: Sequence[nn.BatchNorm2d | None], momentum: float):
        self.momentum = momentum
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
        self._addresses = self._now()

    @classmethod
    def of(cls, norms: Sequence[nn.BatchNorm2d | None]) -> Statistics | None:
        """Those of these layers, if all are tracked alike; None if their buffers have to be moved one by one."""
        used = [bn for bn in norms if bn is not None]
        if not used or not all(bn.training and bn.track_running_stats for bn in used):
            return None
        buffers = [bn._buffers[name] for bn in used for name in STATISTICS]
        first = buffers[0]
        alike = (
            len({bn.momentum for bn in used}) == 1
            and used[0].momentum is not None
            and len({id(b) for b in buffers}) == len(buffers)
            and all(type(b) is Tensor and b.device == first.device and not b.is_shared() for b in buffers)
            and all(b.shape == first.shape and b.dtype is first.dtype for b in buffers if b.dim())
            and all(b.untyped_storage().data_ptr() not in _storages for b in buffers)
        )
        return cls(norms, used[0].momentum) if alike else None

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
        self.count.add_(1)
        self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
        self.var.lerp_(var.to(self.var.dtype), self.momentum)

    def _now(self) -> list[Any]:
        return [*map(Tensor.data_ptr, [held[name] for held in self._norms for name in STATISTICS])]
