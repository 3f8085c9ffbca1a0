"""The results of an op's case: by fastdarts and by eager PyTorch, both held against float64."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.cases import FlatCase, MixedOpCase, MixedSumCase, RecurrentCase
from fastdarts.bench.check import Deviation, deviations_from, worst

Case = MixedSumCase | MixedOpCase | RecurrentCase


def deviations(case: Case, impl: str | None, dtype: torch.dtype, device: str = "cpu") -> list[Deviation]:
    """Output, every gradient and the statistics against the eager modules in float64."""
    return deviations_of(case.results(impl, dtype, device), case, dtype, device)


def deviations_of(ours: dict[str, Tensor], case: Case, dtype: torch.dtype, device: str = "cpu") -> list[Deviation]:
    """The same of results that were computed elsewhere, by name and in float64."""
    truth = case.results(None, torch.float64, eager=True)
    return deviations_from(truth, ours, case.results(None, dtype, device, eager=True), torch.finfo(dtype).eps)


def worst_deviations(case: RecurrentCase, impl: str | None, dtype: torch.dtype, draws: int = 3) -> list[Deviation]:
    """The largest of :func:`deviations` over a few draws: what one cell of few streams rounds by is luck."""
    return worst([deviations(replace(case, seed=seed), impl, dtype) for seed in range(draws)])


def flat_deviations(case: FlatCase, ours: Callable, dtype: torch.dtype, device: str = "cpu") -> list[Deviation]:
    """What ``ours(tensors)`` computes against eager PyTorch in float64, from the same rounded values."""
    tensors = case.inputs(dtype, device)
    truth = case.eager({name: t.double() for name, t in tensors.items()})
    eager, found = case.eager(tensors), ours(tensors)
    assert found.keys() == truth.keys()
    found = {name: t.double() for name, t in found.items()}
    return deviations_from(truth, found, {name: t.double() for name, t in eager.items()}, torch.finfo(dtype).eps)
