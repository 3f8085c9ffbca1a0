"""Second order: the largest eigenvalue of the Hessian in the alphas, by Lanczos and by the rows that the public code
builds; and the gradient of the alphas by every strategy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from fastdarts import Network
from fastdarts.bench.eager import make_eager
from fastdarts.bench.measure import give_back
from fastdarts.nn.optim import SGD
from fastdarts.policies.curvature import hessian_eigenvalues
from fastdarts.policies.hypergradients import Descent, Exact, Passes, Unrolled, in_one


def bench_curvature(request: pytest.FixtureRequest, record: Callable) -> None:
    """The supernet of the paper, 8 images unless --batch says more; once each, as the rows take minutes."""
    batch = request.config.getoption("--batch") or 8
    torch.manual_seed(2)
    model = Network(16, 10, 8, nn.CrossEntropyLoss())
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    exact, exact_seconds = _timed(lambda: hessian_eigenvalues(model, x, y))
    give_back()
    near, near_seconds = _timed(lambda: hessian_eigenvalues(model, x, y, radius=1e-2, keep_kinks=True))
    give_back()

    eager = make_eager(model)
    truth, rows_seconds = _timed(lambda: torch.linalg.eigvalsh(_hessian(eager, x, y))[-1].item())
    for side, found, seconds in (("exact", exact, exact_seconds), ("differences with kept kinks", near, near_seconds)):
        value = found.values[0].item()
        assert abs(value - truth) <= 1e-2 * truth, f"{side}: {value} is not within 1 % of {truth}"
        facts = {"value": value, "off by": abs(value / truth - 1), "products": found.products}
        ratio = rows_seconds / seconds
        print(f"\nbatch {batch}, {side}: {seconds:.1f} s, by rows {rows_seconds:.1f} s, {ratio:.1f}x, {facts}")
        record(f"largest eigenvalue C16 8 cells N{batch}", side, [seconds], facts)
    record(f"largest eigenvalue C16 8 cells N{batch}", "by rows", [rows_seconds], {"value": truth})


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def _hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One backward pass for each row."""
    alphas = model.arch_parameters()
    gradients = torch.autograd.grad(model._loss(x, y), alphas, create_graph=True)
    slopes = torch.cat([g.flatten() for g in gradients])
    rows = [torch.autograd.grad(slope, alphas, retain_graph=True) for slope in slopes]
    hessian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]).double()
    return (hessian + hessian.T) / 2


def bench_second_order(request: pytest.FixtureRequest, record: Callable) -> None:
    """The gradient of the alphas by each strategy, in turns, and how far its second-order term is from the exact one.

    The supernet of the paper, 8 images unless --batch says more.
    """
    batch = request.config.getoption("--batch") or 8
    torch.manual_seed(2)
    model = Network(16, 10, 8, nn.CrossEntropyLoss())
    train, valid = ((torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))) for _ in range(2))
    descent = Descent(0.025, SGD(model.parameters(), 0.025, 0.9, 3e-4), 0.9, 3e-4)
    passes = Passes(model, side_effects=False)
    strategies = {"published": Unrolled(), "kept kinks": Unrolled(keep_kinks=True), "exact": Exact()}
    seconds, terms = {name: [] for name in strategies}, {}
    for _ in range(3):
        for name, strategy in strategies.items():
            (_, gradients), elapsed = _timed(lambda strategy=strategy: strategy(passes, train, valid, descent))
            seconds[name].append(elapsed)
            terms[name] = in_one(gradients)
            give_back()
    weights = passes.weights()
    gradients = passes.differentiate(train, alphas=False, wanted=list(weights.values()))[2]
    ahead = descent.ahead(weights, gradients)
    direct = in_one(passes.differentiate(valid, ahead)[1])
    size = (terms["exact"] - direct).norm()
    for name, times in seconds.items():
        error = ((terms[name] - terms["exact"]).norm() / size).item()
        print(f"\nbatch {batch}, {name}: {min(times):.2f} s, error of the second-order term {error:.2g}", end="")
        record(f"gradient of the alphas C16 8 cells N{batch}", name, times, {"error": error})
    print()
    assert (terms["kept kinks"] - terms["exact"]).norm() <= 0.02 * size
