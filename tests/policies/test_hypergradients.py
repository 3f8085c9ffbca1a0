"""Hypergradient strategies against their formulas on the published supernet in float64, by independent routes."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn

from fastdarts import Architect, FastdartsError, Network
from fastdarts.bench.eager import make_eager
from fastdarts.policies.hypergradients import (
    Descent,
    Exact,
    FirstOrder,
    Neumann,
    Passes,
    Unrolled,
    difference,
    difference_error,
    exact_product,
    in_one,
)

ARGS = SimpleNamespace(momentum=0.9, weight_decay=3e-4, arch_learning_rate=3e-4, arch_weight_decay=1e-3)
ETA, MU, DECAY = 0.025, 0.9, 3e-4
STRATEGIES = [FirstOrder(), Unrolled(), Exact(), Neumann(3)]


@pytest.fixture
def setting():
    torch.manual_seed(1)
    model = Network(4, 5, 3, nn.CrossEntropyLoss(), 2, 2).double()
    train, valid = ((torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.randint(5, (6,))) for _ in range(2))
    optimizer = torch.optim.SGD(model.parameters(), ETA, momentum=MU, weight_decay=DECAY)
    model._loss(*train).backward()
    optimizer.step()
    optimizer.zero_grad()
    for alpha in model.arch_parameters():
        alpha.grad = None
    return model, optimizer, train, valid


class Truth:
    """The losses of a copy that computes one operation after another, as functions of flat vectors w and alpha."""

    def __init__(self, model):
        self.model = make_eager(copy.deepcopy(model))
        self.w = list(self.model.parameters())
        self.alphas = self.model.arch_parameters()

    def gradient(self, tensors, batch, create_graph=False):
        gradients = torch.autograd.grad(self.model._loss(*batch), tensors, create_graph=create_graph)
        return torch.cat([g.flatten() for g in gradients])

    def put(self, tensors, values):
        with torch.no_grad():
            for p, v in zip(tensors, values.split([p.numel() for p in tensors]), strict=True):
                p.copy_(v.view_as(p))

    def get(self, tensors):
        return torch.cat([p.detach().flatten() for p in tensors])

    def mixed_product(self, batch, vector):
        """d2 L / dalpha dw times the vector, operation by operation."""
        inner = self.gradient(self.w, batch, create_graph=True) @ vector
        return torch.cat([g.flatten() for g in torch.autograd.grad(inner, self.alphas)])

    def hessian_product(self, batch, vector, h=1e-7):
        """Central difference of the gradient in w, near enough that no ReLU changes sides."""
        start, step = self.get(self.w), h / vector.norm()
        self.put(self.w, start + step * vector)
        above = self.gradient(self.w, batch)
        self.put(self.w, start - step * vector)
        below = self.gradient(self.w, batch)
        self.put(self.w, start)
        return (above - below) / (2 * step)

    def ahead(self, train, optimizer, model):
        start = self.get(self.w)
        m = torch.cat([optimizer.state[p]["momentum_buffer"].flatten() for p in model.parameters()])
        self.put(self.w, start - ETA * (MU * m + self.gradient(self.w, train) + DECAY * start))
        return start


def step(model, optimizer, train, valid, **options):
    architect = Architect(model, ARGS, **options)
    return architect.step(*train, *valid, ETA, optimizer, unrolled=False)


def test_exact_is_the_gradient_through_the_step(setting):
    model, optimizer, train, valid = setting
    truth = Truth(model)
    start = truth.ahead(train, optimizer, model)
    expected_loss = truth.model._loss(*valid).item()
    direct, vector = truth.gradient(truth.alphas, valid), truth.gradient(truth.w, valid)
    truth.put(truth.w, start)
    second = ETA * truth.mixed_product(train, vector)
    loss = step(model, optimizer, train, valid, strategy=Exact())
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    found = torch.cat([a.grad.flatten() for a in model.arch_parameters()])
    torch.testing.assert_close(found, direct - second, rtol=1e-8, atol=1e-12)
    assert second.norm() > 1e-3 * direct.norm()


def test_exact_is_the_derivative_of_the_loss_after_the_step(setting):
    """Along random directions of the alphas: L_val(w'(alpha), alpha) itself, no second derivative involved."""
    model, optimizer, train, valid = setting
    step(model, optimizer, train, valid, strategy=Exact())  # moves the alphas too, but from there Truth starts anew
    architect = Architect(model, ARGS, Exact())
    truth = Truth(model)
    start, weights = truth.get(truth.alphas), truth.get(truth.w)
    architect._backward(Exact(), train, valid, ETA, optimizer)
    found = torch.cat([a.grad.flatten() for a in model.arch_parameters()])

    def after(alphas):
        truth.put(truth.alphas, alphas)
        truth.put(truth.w, weights)
        truth.ahead(train, optimizer, model)
        return truth.model._loss(*valid).item()

    for _ in range(3):
        direction = torch.randn_like(start)
        slope = (after(start + 1e-7 * direction) - after(start - 1e-7 * direction)) / 2e-7
        assert (found @ direction).item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("terms", [1, 4])
def test_neumann_is_its_series(setting, terms):
    model, optimizer, train, valid = setting
    truth = Truth(model)
    direct, term = truth.gradient(truth.alphas, valid), truth.gradient(truth.w, valid)
    total = term
    for _ in range(terms - 1):
        term = term - ETA * (truth.hessian_product(train, term) + DECAY * term)
        total = total + term
    step(model, optimizer, train, valid, strategy=Neumann(terms))
    found = torch.cat([a.grad.flatten() for a in model.arch_parameters()])
    torch.testing.assert_close(found, direct - ETA * truth.mixed_product(train, total), rtol=1e-5, atol=1e-9)


def test_neumann_approaches_the_implicit_gradient():
    """L_train = sum h (w - c a)^2 / 2, L_valid = sum (w - 1)^2 / 2: at w = c a the gradient is that of w*(a) = c a."""

    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            self.h, self.c = torch.tensor([1.0, 3.0]).double(), torch.tensor([2.0, -1.0]).double()
            self.alpha = torch.tensor([0.5, 0.7]).double().requires_grad_()
            self.w = nn.Parameter((self.c * self.alpha).detach())

        def arch_parameters(self):
            return [self.alpha]

        def _loss(self, input, target):
            if input.item():
                return (self.h * (self.w - self.c * self.alpha) ** 2).sum() / 2
            return ((self.w - 1) ** 2).sum() / 2 + 0 * self.alpha.sum()

    model = Quadratic()
    args = SimpleNamespace(momentum=0.0, weight_decay=0.0, arch_learning_rate=1e-3, arch_weight_decay=0.0)
    batches, optimizer = (torch.ones(1), None, torch.zeros(1), None), torch.optim.SGD([model.w], 0.1)
    implicit = model.c * (model.w - 1).detach()
    for terms, eigenvalue_power in ((1, 1), (200, 200)):
        architect = Architect(model, args, Neumann(terms))
        architect._backward(Neumann(terms), batches[:2], batches[2:], 0.1, optimizer)
        # K terms of the series: all but (1 - eta h)^K of it
        share = 1 - (1 - 0.1 * model.h) ** eigenvalue_power
        torch.testing.assert_close(model.alpha.grad, share * implicit, rtol=1e-12, atol=0)
    torch.testing.assert_close(model.alpha.grad, implicit, rtol=1e-8, atol=0)


def test_the_difference_approaches_the_exact_product_until_kinks_are_crossed(setting):
    """Near enough the two products agree to rounding; the fused double backward and the eager one always."""
    model, _, train, _ = setting
    passes, truth = Passes(model, side_effects=False), Truth(model)
    vector = [torch.randn_like(p) for p in model.parameters()]
    exact = exact_product(passes, vector, train)
    expected = truth.mixed_product(train, torch.cat([v.flatten() for v in vector]))
    torch.testing.assert_close(in_one(exact), expected, rtol=1e-8, atol=1e-12)
    near = difference(passes, vector, train, 1e-6).product
    assert (in_one(near) - expected).norm() < 1e-5 * expected.norm()
    assert not any(torch.equal(a, b) for a, b in zip(exact, near, strict=True))


def test_the_error_that_is_reported_is_that_of_the_step(setting):
    model, optimizer, train, valid = setting
    before = copy.deepcopy(model.state_dict())
    descent, state = Descent(ETA, optimizer, MU, DECAY), torch.get_rng_state()
    row = difference_error(Passes(model), train, valid, descent, 0.5)
    same = copy.deepcopy(model.state_dict())
    assert all(torch.equal(before[name], same[name]) for name in before)
    assert torch.equal(state, torch.get_rng_state())
    gradients = {}
    for strategy in (Unrolled(0.5), Exact()):
        gradients[type(strategy)] = in_one(strategy(Passes(model, side_effects=False), train, valid, descent)[1])
    truth = Truth(model)
    start = truth.ahead(train, optimizer, model)
    vector = truth.gradient(truth.w, valid)
    truth.put(truth.w, start)
    exact = truth.mixed_product(train, vector)
    found = exact - (gradients[Unrolled] - gradients[Exact]) / ETA
    assert row["product_error"] == pytest.approx(((found - exact).norm() / exact.norm()).item(), rel=1e-6)
    assert row["product_cosine"] == pytest.approx((found @ exact / found.norm() / exact.norm()).item(), rel=1e-6)
    assert row["product_error"] > 1e-3


class Noisy(nn.CrossEntropyLoss):
    """Draws a number in every pass, as dropout would."""

    def forward(self, x, y):
        return super().forward(x, y) * (1 + 0.1 * torch.rand((), dtype=x.dtype))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
def test_without_side_effects_statistics_and_random_state_stay(setting, strategy):
    model, optimizer, train, valid = setting
    model._criterion = Noisy()
    before = {name: b.clone() for name, b in model.named_buffers()}
    weights = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    gradients = []
    for _ in range(2):
        architect = Architect(model, ARGS, strategy, side_effects=False)
        architect._backward(strategy, train, valid, ETA, optimizer)
        gradients.append([a.grad for a in model.arch_parameters()])
    assert all(map(torch.equal, *gradients))  # the same draws in every step
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert all(map(torch.equal, weights, model.parameters())) and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    Architect(model, ARGS, strategy)._backward(strategy, train, valid, ETA, optimizer)
    assert not torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("strategy", "moves"), list(zip(STRATEGIES, (1, 3, 1, 2), strict=True)), ids=lambda s: type(s).__name__
)
def test_how_often_running_statistics_move(setting, strategy, moves):
    model, optimizer, train, valid = setting
    before = model.stem[1].num_batches_tracked.item()
    step(model, optimizer, train, valid, strategy=strategy)
    assert model.stem[1].num_batches_tracked.item() == before + moves


def test_a_strategy_comes_before_the_flag(setting):
    model, optimizer, train, valid = setting
    truth = torch.autograd.grad(model._loss(*valid), model.arch_parameters())
    Architect(model, ARGS, FirstOrder()).step(*train, *valid, ETA, optimizer, unrolled=True)
    for alpha, expected in zip(model.arch_parameters(), truth, strict=True):
        torch.testing.assert_close(alpha.grad, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("strategy", STRATEGIES[1:], ids=lambda s: type(s).__name__)
def test_without_learning_rate_or_optimizer_there_is_one_sentence(setting, strategy):
    model, optimizer, train, valid = setting
    for eta, given in ((None, optimizer), (ETA, None)):
        with pytest.raises(FastdartsError, match="network_optimizer"):
            Architect(model, ARGS, strategy).step(*train, *valid, eta, given, unrolled=True)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
def test_idle_alphas_have_no_gradient(strategy):
    model = Network(2, 5, 2, nn.CrossEntropyLoss(), 2, 2)  # two cells, both reductions
    optimizer, batch = torch.optim.SGD(model.parameters(), ETA), (torch.randn(4, 3, 8, 8), torch.arange(4))
    step(model, optimizer, batch, batch, strategy=strategy)
    assert [a.grad is None for a in model.arch_parameters()] == [True, False]


@pytest.mark.parametrize("make", [lambda: Unrolled(0.0), lambda: Unrolled(float("inf")), lambda: Neumann(0)])
def test_strategies_that_make_no_sense_are_refused(make):
    with pytest.raises(FastdartsError, match="expected"):
        make()
