"""Eigenvalues in the alphas against the full Hessian, built by rows in float64 on the published supernet."""

import copy

import pytest
import torch
import torch.nn as nn

from fastdarts import FastdartsError, Network
from fastdarts.bench.eager import make_eager
from fastdarts.errors import NotFinite
from fastdarts.policies.curvature import Differences, hessian_eigenvalues, lanczos
from fastdarts.policies.hypergradients import Passes


def supernet(dtype=torch.float64, layers=3):
    torch.manual_seed(1)
    primitives = ["none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5"]
    model = Network(4, 5, layers, nn.CrossEntropyLoss(), 2, 2, primitives=primitives).to(dtype)
    return model, torch.randn(6, 3, 8, 8).to(dtype), torch.randint(5, (6,))


def hessian(model, x, y):
    """One backward pass for each row, through the published operations."""
    model = make_eager(copy.deepcopy(model))
    alphas = model.arch_parameters()
    gradients = torch.autograd.grad(model._loss(x, y), alphas, create_graph=True)
    slopes = torch.cat([g.flatten() for g in gradients])
    rows = [torch.autograd.grad(slope, alphas, retain_graph=True) for slope in slopes]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


@pytest.fixture(scope="module")
def truth():
    model, x, y = supernet()
    matrix = hessian(model, x, y)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-8, atol=1e-12)
    return matrix


@pytest.mark.parametrize(("k", "tolerance"), [(1, 1e-2), (5, 1e-6)])
def test_exact_products_give_the_largest_eigenvalues(truth, k, tolerance):
    model, x, y = supernet()
    values = torch.linalg.eigvalsh(truth)
    found = hessian_eigenvalues(model, x, y, k, tolerance=tolerance)
    torch.testing.assert_close(found.values, values.flip(0)[:k], rtol=tolerance, atol=0)
    assert (found.errors <= tolerance * found.values.abs()).all()
    assert found.gradients == found.products + 1 < len(truth)
    residuals = found.vectors @ truth - found.values[:, None] * found.vectors
    assert (residuals.norm(dim=1) <= found.values[0] * tolerance**0.5).all()
    if k == 1:
        assert found.products <= 20
        single = model.float(), x.float(), y
        torch.testing.assert_close(hessian_eigenvalues(*single).values, values[-1:], rtol=1e-2, atol=0)


def test_differences_too_near_to_cross_a_kink_give_them_as_well(truth):
    model, x, y = supernet()
    found = hessian_eigenvalues(model, x, y, radius=1e-7)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(truth)[-1:], rtol=1e-2, atol=0)
    assert found.gradients == 2 * found.products


def test_a_difference_is_that_of_the_published_gradients():
    """At a radius that crosses kinks, where it is no product with the Hessian."""
    model, x, y = supernet()
    u = torch.randn(sum(a.numel() for a in model.arch_parameters()), dtype=torch.float64)
    slopes = []
    for sign in (1, -1):
        moved = make_eager(copy.deepcopy(model))
        parts = u.split([a.numel() for a in moved.arch_parameters()])
        with torch.no_grad():
            for a, part in zip(moved.arch_parameters(), parts, strict=True):
                a.add_(part.view_as(a), alpha=sign * 0.1)
        gradients = torch.autograd.grad(moved._loss(x, y), moved.arch_parameters())
        slopes.append(torch.cat([g.flatten() for g in gradients]))
    found = Differences(Passes(model, side_effects=False), (x, y), 0.1)(u)
    torch.testing.assert_close(found, (slopes[0] - slopes[1]) / 0.2, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("radius", [None, 0.1])
def test_nothing_is_changed(radius):
    class Noisy(nn.CrossEntropyLoss):
        def forward(self, x, y):
            return super().forward(x, y) * (1 + 0.1 * torch.rand((), dtype=x.dtype))

    model, x, y = supernet(torch.float32)
    model._criterion = Noisy()
    before = copy.deepcopy(model.state_dict())
    alphas, state = [a.detach().clone() for a in model.arch_parameters()], torch.get_rng_state()
    once, twice = (hessian_eigenvalues(model, x, y, radius=radius, products=3) for _ in range(2))
    assert torch.equal(once.values, twice.values)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(map(torch.equal, alphas, model.arch_parameters()))
    assert all(t.grad is None for t in [*model.parameters(), *model.arch_parameters()])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_alphas_survive_a_loss_that_raises():
    model, x, y = supernet()
    alphas = [a.detach().clone() for a in model.arch_parameters()]

    class Fails(nn.Module):
        def forward(self, *_):
            raise RuntimeError("out of memory")

    model._criterion = Fails()
    with pytest.raises(RuntimeError, match="out of memory"):
        hessian_eigenvalues(model, x, y, radius=0.1)
    assert all(map(torch.equal, alphas, model.arch_parameters()))


def test_idle_alphas_count_as_zero():
    model, x, y = supernet(layers=2)  # reductions only
    found = hessian_eigenvalues(model, x, y, tolerance=1e-8)
    idle = found.vectors[0, : model.alphas_normal.numel()]
    assert found.values[0] > 0 and idle.norm() < 1e-4  # the square root of the tolerance, as vectors are less exact


def test_lanczos_finds_multiple_and_negative_eigenvalues():
    exact = torch.tensor([-9.0, -1.0, -1.0, 2.0, 5.0, 5.0, 5.0]).double()
    basis = torch.linalg.qr(torch.randn(7, 7).double())[0]
    matrix = basis @ exact.diag() @ basis.T
    values, vectors, _, products = lanczos(lambda u: matrix @ u, 7, 7, 1e-10, 7, 0)
    torch.testing.assert_close(values, exact.flip(0))
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(7).double())
    assert products == 7
    values, _, errors, products = lanczos(lambda u: matrix @ u, 7, 1, 1e-10, 7, 0)
    assert values.item() == pytest.approx(5.0, rel=1e-10) and errors.item() < 1e-9 and products < 7
    values, *_ = lanczos(lambda u: -matrix @ u, 7, 1, 1e-10, 7, 0)
    assert values.item() == pytest.approx(9.0, rel=1e-10)
    assert lanczos(lambda u: 3 * u, 1, 1, 1e-10, 1, 0)[0].item() == pytest.approx(3.0)


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 51}, {"products": 0}, {"tolerance": 0.0}, {"radius": -1.0}])
def test_numbers_that_make_no_sense_are_refused(options):
    model, x, y = supernet()
    with pytest.raises(FastdartsError, match="expected"):
        hessian_eigenvalues(model, x, y, **options)


def test_nan_is_named():
    model, x, y = supernet()
    with pytest.raises(NotFinite, match="curvature in the alphas is nan"):
        hessian_eigenvalues(model, x * float("nan"), y)
