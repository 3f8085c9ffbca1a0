"""The largest eigenvalue of the Hessian in the alphas, by Lanczos and by the rows that the public code builds."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn as nn

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
    start = time.perf_counter()
    found = hessian_eigenvalues(model, x, y)
    lanczos = time.perf_counter() - start
    give_back()

    eager = make_eager(copy.deepcopy(model))
    alphas = eager.arch_parameters()
    start = time.perf_counter()
    gradients = torch.autograd.grad(eager._loss(x, y), alphas, create_graph=True)
    slopes = torch.cat([g.flatten() for g in gradients])
    rows = [torch.autograd.grad(slope, alphas, retain_graph=True) for slope in slopes]
    hessian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]).double()
    exact = torch.linalg.eigvalsh((hessian + hessian.T) / 2)[-1].item()
    by_rows = time.perf_counter() - start

    value = found.values[0].item()
    assert abs(value - exact) <= 1e-2 * exact, f"{value} is not within 1 % of {exact}"
    facts = {"speed-up": by_rows / lanczos, "off by": abs(value / exact - 1), "products": found.products}
    print(f"\nbatch {batch}: by rows {by_rows:.1f} s, Lanczos {lanczos:.1f} s, {facts}")
    for side, seconds in (("by rows", by_rows), ("fastdarts", lanczos)):
        record(f"largest eigenvalue C16 8 cells N{batch}", side, [seconds], facts)
