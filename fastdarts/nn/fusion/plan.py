"""Calls of `mixed_op` for modules: planned once, and again when something has changed that they depend on.

A plan is kept as long as the modules live. It is used again if every module of it has its class, no hooks, and the
very attributes and children that it had. Weights and statistics are read at every call.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
import torch.nn as nn
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.functional import Candidate, MixedOpResult, mixed_op, noise_seeds, plan, unchanged, world
from fastdarts.nn.fusion.kinks import active
from fastdarts.nn.fusion.recognise import HOOKS, STATISTICS, FusedCandidate, mode_of, settled_things
from fastdarts.nn.fusion.shapes import OWN, shape_of
from fastdarts.nn.fusion.tracking import Statistics, track

KEPT = 24
"""Plans of one owner: for training and evaluation, several widths of input, and for each the candidates that are
computed: a MixedOp whose weights are one-hot has one plan for each candidate."""
Part = tuple[int, int, FusedCandidate]
"""The edge, the place of the mixing weight, and the candidate."""


def wide(x: Tensor) -> torch.dtype:
    """The dtype of mixing weights and statistics."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


class Constants:
    """Tensors that are made once for each device and type: a copy from the host at every call would stall a GPU."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Tensor] = {}

    def get(self, x: Tensor, name: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The one of this name where ``x`` is."""
        key = name, x.device, x.dtype, type(x)
        if key in self._made:
            return self._made[key]
        made = make()
        if keepable(x):
            self._made[key] = made
        return made

    def places(self, x: Tensor, places: Sequence[int], count: int) -> Tensor:
        """These places among ``count`` mixing weights and a 1, which is at -1."""
        return self.get(
            x, count, lambda: torch.tensor([count if place < 0 else place for place in places], device=x.device)
        )


class Fused:
    """`mixed_op` of these parts, which are sorted by edge."""

    def __init__(self, parts: Sequence[Part], channels: int, stride: int, memory: str, partial: int):
        self.parts, self.stride, self.memory, self.partial = parts, stride, memory, partial
        self.edges = parts[-1][0] + 1
        self.norms = [bn for _, _, part in parts for bn in part.norms]
        used = [bn for bn in self.norms if bn is not None]
        first = used[0] if used else None
        self._first = first
        self.training, self.eps, self.joined = (True, 1e-5, False) if first is None else mode_of(first)
        self.channels = channels // partial if first is None else first.num_features
        self.affine = any(bn.weight is not None for bn in used)
        self._dropping = [(part.drops, part.drops.limit > 0) for _, _, part in parts if part.drops is not None]
        self._kinds = [
            "dropped_skip" if part.drops is not None and part.drops.limit else part.kind for _, _, part in parts
        ]
        drawing = [kind for kind in self._kinds if kind in ("noise", "dropped_skip")]
        self._seeds = len(drawing)
        # the seeds in their order, each limit behind its own; of what is drawn, then of the limits
        limits = itertools.count(self._seeds)
        self._order = [at for i, kind in enumerate(drawing) for at in ([i] if kind == "noise" else [i, next(limits)])]
        # of each row the place of its mixing weight; -1, the place of 1, in the middle of a separable convolution
        self.places = [place for _, k, part in parts for place in ([-1, k] if part.kind == "sep_conv" else [k])]
        self.plan = plan(self.candidates(), self.edges, stride, channels, self.channels, partial, self.eps, memory)
        self._flat: Statistics | None = None
        self._fresh = True
        self.convolutions = [conv._parameters for _, _, part in parts for conv in part.convs]
        self._layers = [bn._parameters for bn in used] + [bn._buffers for bn in used]
        self._known = self._missing()
        self._constants = Constants()

    def candidates(self) -> list[Candidate]:
        """What is computed, with the weights of now."""
        kinds = zip(self._kinds, self.parts, strict=True)
        return [Candidate(edge, kind, part.weights, part.dilation) for kind, (edge, _, part) in kinds]

    def seeds(self, x: Tensor) -> Tensor | None:
        """New seeds, and the limits of now, as the op takes them; None if nothing is drawn."""
        if not self._seeds:
            return None
        drawn = noise_seeds(self._seeds, x.device)
        limits = tuple(drops.limit for drops, on in self._dropping if on)
        if not limits:
            return drawn

        def table(numbers: Sequence[int]) -> Callable[[], Tensor]:
            return lambda: torch.tensor(numbers, device=x.device)

        order = self._constants.get(x, "order", table(self._order))
        return torch.cat([drawn, self._constants.get(x, limits, table(limits))]).index_select(0, order)

    def holds(self) -> bool:
        """Whether the layers have the parameters and buffers that they had, with whatever values."""
        parameters = [*chain.from_iterable(map(dict.values, self.convolutions))]
        nothing = [None] * len(self.convolutions)
        return parameters[1::2] == nothing and len(parameters) == 2 * len(nothing) and self._missing() == self._known

    @property
    def normalises(self) -> bool:
        """Whether anything is normalised."""
        return self._first is not None

    def tracks(self) -> bool:
        """Whether the first layer, and so all that are alike, moves its statistics."""
        return self._first is not None and self._first.training and self._first.track_running_stats

    def suits(self) -> bool:
        """Whether the layers, which are what they were, normalise as they did, and drop elements where they did."""
        alike = self._first is None or mode_of(self._first) == (self.training, self.eps, self.joined)
        return alike and (not self._dropping or all((drops.limit > 0) is on for drops, on in self._dropping))

    def _missing(self) -> list[bool]:
        return [value is None for value in chain.from_iterable(map(dict.values, self._layers))]

    def __call__(
        self, x: Tensor, mixing: Tensor | None, base: Sequence[Tensor] = (), bypass: Tensor | None = None
    ) -> list[Tensor]:
        """The outputs of the edges, ``mixing`` being the weights [K] of the candidates, None where all are 1; the
        BatchNorms move their statistics."""
        gain, offset, places = self._tables(x, mixing)
        weights = [held["weight"] for held in self.convolutions]
        seeds = self.seeds(x)
        bypass = None if bypass is None else bypass.to(gain.dtype)
        statistics, running = self.statistics(x), self.running(x)
        kinks, result = active(), None
        if kinks is None and not (self.joined and world() > 1):
            result = self.plan(x, base, gain, offset, weights, seeds, running, bypass, places)
        if result is None:
            if places is not None:
                gain = self._spread(mixing, places).expand(-1, self.channels)
            call = functools.partial(self._in_full, x, base, gain, offset, seeds, running, bypass)
            result = call() if kinks is None else kinks.through(call)
        if self.training:
            if statistics is None:
                track(self.norms, result.mean, result.var)
            else:
                statistics.track(result.mean, result.var)
        return result.out

    def _in_full(self, x, base, gain, offset, seeds, running, bypass, **options) -> MixedOpResult:
        """The op with all arguments checked again, which says what is wrong with them."""
        options |= {"partial": self.partial, "bypass": bypass} if self.partial > 1 else {}
        return mixed_op(
            x,
            self.candidates(),
            gain,
            offset,
            base=base,
            edges=self.edges,
            stride=self.stride,
            seeds=seeds,
            running=running,
            eps=self.eps,
            memory=self.memory,
            synchronised=self.joined,
            **options,
        )

    def _tables(self, x: Tensor, mixing: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """gain and offset, and the places of mixing weights if these are given for gain."""
        if not self.affine:
            if mixing is None:
                return self.ones(x), None, None
            return mixing, None, self._constants.places(x, self.places, len(mixing))
        scale, shift = (stacked(self.norms, name, x) for name in ("weight", "bias"))
        if mixing is None:
            return scale, shift, None
        gain = self._spread(mixing, self._constants.places(x, self.places, len(mixing)))
        return gain * scale, gain * shift, None

    @staticmethod
    def _spread(mixing: Tensor, places: Tensor) -> Tensor:
        return torch.cat([mixing, mixing.new_ones(1)]).index_select(0, places)[:, None]

    def ones(self, x: Tensor) -> Tensor:
        """gain where nothing is mixed."""
        make = functools.partial(torch.ones, len(self.norms), self.channels, dtype=wide(x), device=x.device)
        return self._constants.get(x, "ones", make)

    def running(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and variance that normalise, a row for each; None where those of the batch do."""
        if self.training:
            return None
        known = Statistics.known(self.norms) if len(self.norms) > 1 and lasting(x) else None
        if known is not None and known.mean.dtype is wide(x):
            return known.mean, known.var
        mean, var = (stacked(self.norms, name, x) for name in STATISTICS[:2])
        return mean, var

    def statistics(self, x: Tensor) -> Statistics | None:
        """The running statistics of the layers as tables; None if they move one by one, or not at all."""
        if not (lasting(x) and self.training and self.tracks()):
            return None
        found = self._flat
        if found is not None and found.holds():
            return found
        if self._fresh or (found is not None and found.moved()):
            self._flat, self._fresh = Statistics.of(self.norms), False
            return self._flat
        return None


_HELD = {"weight": ("_parameters", 1), "bias": ("_parameters", 0)} | dict.fromkeys(STATISTICS[:2], ("_buffers", 0))
"""Where a BatchNorm has its tensors, and what stands in rows of none."""


def stacked(norms: Sequence[nn.BatchNorm2d | None], name: str, x: Tensor) -> Tensor:
    """What these layers hold under this name, a row each, as a table for ``x``."""
    held, fill = _HELD[name]
    rows = [None if bn is None else getattr(bn, held)[name] for bn in norms]
    if len(rows) == 1 and rows[0] is not None:
        return rows[0].unsqueeze(0).to(wide(x))
    if any(row is None for row in rows):
        width = next(bn.num_features for bn in norms if bn is not None)
        plain = x.new_full((width,), fill, dtype=wide(x))
        rows = [plain if row is None else row for row in rows]
    return torch.stack(rows).to(wide(x))


def lasting(x: Tensor) -> bool:
    """Whether addresses mean something: not while a compiler or an estimate looks on."""
    return type(x) is Tensor and not torch.compiler.is_compiling()


def keepable(x: Tensor) -> bool:
    """Whether what is made for ``x`` can be used for another x of its class: not while a compiler looks on."""
    return (type(x) is Tensor or is_fake(x)) and not torch.compiler.is_compiling()


class Plan(Protocol):
    """What can be kept."""

    def holds(self) -> bool:
        """Whether the layers have the parameters and buffers that they had, with whatever values."""

    def suits(self) -> bool:
        """Whether the layers, which are what they were, normalise as they did."""


class _Kept:
    """A plan and what its modules were when it was made."""

    def __init__(self, fused: Plan, modules: Sequence[nn.Module], owner: nn.Module):
        self.fused = fused
        self._modules = [*modules]
        self._types = [*map(type, modules)]
        self._foreign = {kind: shape_of(kind) for kind in {*self._types} if not _of_torch(kind) and kind not in OWN}
        # a plan that held its owner would keep it alive
        looked = [module.__dict__ for module in (*modules, owner)]
        children = [own["_modules"] for own in looked if own["_modules"]]
        self._dicts = (*looked, *children)
        self._items = tuple(tuple(chain.from_iterable(own.items())) for own in self._dicts)
        self._hooks = tuple(own[name] for own in looked for name in HOOKS)

    def holds(self) -> bool:
        return (
            unchanged(self._dicts, self._items, self._hooks)
            and [*map(type, self._modules)] == self._types
            and all(shape_of(kind) == shape for kind, shape in self._foreign.items())
            and self.fused.holds()
        )


def _of_torch(kind: type) -> bool:
    return kind.__module__.startswith("torch.")


_plans: WeakKeyDictionary[nn.Module, dict[Hashable, _Kept]] = WeakKeyDictionary()


def recall(owner: nn.Module, key: Hashable, x: Tensor) -> Plan | None:
    """The plan that was kept, if it holds. While modules are settled nothing but the key changes: then a plan is looked
    at once."""
    if not keepable(x):
        return None
    known, at = settled_things(), (id(owner), key)
    if known is not None and at in known and known[at].suits():
        return known[at]
    kept = _plans.get(owner, {}).get(key)
    if kept is None or not kept.holds():
        return None
    if known is not None:
        known[at] = kept.fused
    return kept.fused


def keep(owner: nn.Module, key: Hashable, x: Tensor, fused: Plan, modules: Sequence[nn.Module]) -> None:
    """Keep a plan that depends on ``owner`` and these modules, which are below it, and on nothing else but x and the
    key."""
    if not keepable(x):
        return
    plans = _plans.setdefault(owner, {})
    plans.pop(key, None)
    if len(plans) >= KEPT:
        plans.pop(next(iter(plans)))
    plans[key] = _Kept(fused, modules, owner)
