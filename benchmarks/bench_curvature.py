"""The largest eigenvalue of the Hessian in the alphas, by Lanczos and by the rows that the public code builds."""

from __future__ import annotations

import copy
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
from fastdarts.curvature import hessian_eigenvalues


def bench_curvature(request: pytest.FixtureRequest, record: Callable) -> None:
    """The supernet of the paper, 8 images unless --batch says more; once each, as the rows take minutes."""
    batch = request.config.getoption("--batch") or 8
    torch.manual_seed(2)
    model = Network(16, 10, 8, nn.CrossEntropyLoss())
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    exact, exact_seconds = _timed(lambda: hessian_eigenvalues(model, x, y))
    give_back()
    wide = copy.deepcopy(model).double()
    near, near_seconds = _timed(lambda: hessian_eigenvalues(wide, x.double(), y, radius=1e-8))
    give_back()

    eager = make_eager(model)
    truth, rows_seconds = _timed(lambda: torch.linalg.eigvalsh(_hessian(eager, x, y))[-1].item())
    for side, found, seconds in (("exact", exact, exact_seconds), ("differences in float64", near, near_seconds)):
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
