"""Correct before fast: the rule of tests and benchmarks, and the refusal to time what breaks it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastdarts.bench.cases import EAGER, LAST, OURS, Case, EdgeCase
from fastdarts.errors import FastdartsError

MARGIN = 4e-6  # several times what float32 rounds the input of a ReLU by
DRAWS = 4


class Wrong(FastdartsError):
    """The results of a case are wrong, or not those of fastdarts' own kernels: it is not timed."""


@dataclass(frozen=True)
class Deviation:
    """Largest deviations of one result from the truth, and what eager PyTorch leaves room for."""

    name: str
    ours: float
    eager: float
    ulp: float

    @property
    def allowed(self) -> float:
        return 2 * self.eager + 4 * self.ulp

    @property
    def wrong(self) -> bool:
        return not self.ours <= self.allowed


def deviations_from(
    truth: dict[str, Tensor], ours: dict[str, Tensor], eager: dict[str, Tensor], eps: float
) -> list[Deviation]:
    """Of every result by name; ``eps`` is the rounding unit of the type in which ours and eager are computed."""

    def scale(name: str, exact: Tensor) -> float:
        if name.startswith("mean"):  # the rounding unit of a mean is that of the values, not of what is left of them
            exact = (exact.square() + truth[name.replace("mean", "var")]).sqrt()
        if name.endswith(".weight") and exact.numel() == 1:
            # BatchNorm undoes a scale, so the gradient of a single 1x1 weight is zero: what is left of its terms,
            # which are as large as those of the depthwise weights.
            exact = torch.cat([t.flatten() for other, t in truth.items() if other.endswith(".weight")])
        return exact.abs().max().item()

    def distance(a: Tensor, b: Tensor) -> float:
        return (a - b).abs().max().item() if a.isfinite().all() else float("inf")

    return [
        Deviation(name, distance(ours[name], exact), distance(eager[name], exact), eps * scale(name, exact))
        for name, exact in truth.items()
    ]


def worst(drawn: Sequence[Sequence[Deviation]]) -> list[Deviation]:
    """The largest deviations of each result over several draws: what a single number rounds by is luck."""
    return [
        Deviation(same[0].name, *(max(getattr(d, part) for d in same) for part in ("ours", "eager", "ulp")))
        for same in zip(*drawn, strict=True)
    ]


def check(case: Case, device: str = "cpu") -> None:
    """Compare outputs and all gradients with the public code; raises :class:`Wrong` if they must not be timed.

    Every edge in float32 against the truth in float64, no worse than twice the public code. The whole in float64,
    where both agree closely, and in float32. The kernels of a GPU know no float64; there the edges are compared without
    TF32, which would round the inputs of ReLUs by more than any margin, and the whole as it is timed.
    """
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        for edge in case.edges():
            _twice_eager(edge, device)
    finally:
        convolutions.fp32_precision = before
    if device == "cpu":
        _same(case.exact())
    _no_worse(case.rough(), device)


def _twice_eager(edge: EdgeCase, device: str) -> None:
    """The largest deviations over a few draws: those of a single number, such as one mixing weight, are luck.

    The room is that of the worse memory format: in channels-last PyTorch's BatchNorm rounds several times as much.
    """
    ours, eager, ulp = ({} for _ in range(3))
    for case in islice(_smooth(edge), DRAWS):
        truth = case.work(EAGER, torch.float64, device).run()
        _widen(ours, _ours(case, torch.float32, device), truth)
        for side in (EAGER, LAST):
            _widen(eager, case.work(side, device=device).run(), truth)
        for name, exact in truth.items():
            ulp[name] = max(ulp.get(name, 0.0), torch.finfo(torch.float32).eps * exact.abs().max().item())
    for name in ours:
        found = Deviation(name, ours[name], eager[name], ulp[name])
        if found.wrong:
            raise Wrong(f"{name} of {edge} is off by {found.ours:.2g}, where {found.allowed:.2g} is allowed")


def _widen(deviations: dict[str, float], results: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    for name, exact in truth.items():
        result = results[name]
        off = (result.double() - exact).abs().max().item() if result.isfinite().all() else float("inf")
        deviations[name] = max(deviations.get(name, 0.0), off)


def _smooth(edge: EdgeCase) -> Iterator[EdgeCase]:
    """Small draws whose truth passes no ReLU near its kink: what rounds to the other side has another gradient.

    The ReLUs that read x itself do not count, x being the same in every type.
    """
    for seed in count():
        case = replace(edge, batch=2, seed=seed)
        work, distances = case.work(EAGER, torch.float64), []

        def note(_: nn.Module, inputs: tuple[Tensor], x: Tensor = work.x, distances: list = distances) -> None:
            if inputs[0] is not x:
                distances.append(inputs[0].abs().min().item())

        for module in work.model.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_pre_hook(note)
        work.forward()
        if all(distance > MARGIN for distance in distances):
            yield case


def _same(case: Case) -> None:
    """In float64 both agree closely, tensor by tensor."""
    eager, ours = case.work(EAGER, torch.float64).run(), _ours(case, torch.float64, "cpu")
    for name, expected in eager.items():
        off = (ours[name] - expected).norm() / expected.norm()
        if expected.norm() > 0 and not off <= 1e-8:
            raise Wrong(f"{name} of {case} is off by {off:.2g} of its size in float64, where 1e-8 is allowed")


def _no_worse(case: Case, device: str) -> None:
    """In float32 all results together are at most twice as far from the truth as the public code's.

    At the best of a few draws: in the others a ReLU's input rounds to the other side of zero, here or there.
    """
    sides = {OURS: [], EAGER: [], LAST: []}
    for seed in range(DRAWS):
        drawn = replace(case, seed=seed)
        truth = drawn.work(EAGER, torch.float64, device).run()
        size = sum(exact.norm() ** 2 for exact in truth.values())
        for side, distances in sides.items():
            results = _ours(drawn, torch.float32, device) if side == OURS else drawn.work(side, device=device).run()
            off = sum((results[name].double() - exact).norm() ** 2 for name, exact in truth.items())
            distances.append((off / size).sqrt().item())
    ours, allowed = min(sides[OURS]), 2 * max(min(sides[EAGER]), min(sides[LAST]))
    if not ours <= allowed:
        raise Wrong(f"all of {case} is off by {ours:.2g} of its size in float32, where {allowed:.2g} is allowed")


def _ours(case: Case, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    work = case.work(OURS, dtype, device)
    with Kernels() as kernels:
        results = work.run()
    if not kernels.seen:
        raise Wrong(f"{case} runs no kernel of fastdarts")
    return results


class Kernels(TorchDispatchMode):
    """Notes which ops of fastdarts are dispatched: none if the plain modules run instead."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace == "fastdarts":
            self.seen.add(op.name())
        return op(*args, **(kwargs or {}))
