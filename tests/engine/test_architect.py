"""Alpha gradients against the formulas written out in float64 on the published, operation-by-operation supernet."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn

from fastdarts import Architect, FastdartsError, Network
from fastdarts.bench.eager import make_eager
from fastdarts.nn.optim import SGD

ARGS = SimpleNamespace(momentum=0.9, weight_decay=3e-4, arch_learning_rate=3e-4, arch_weight_decay=1e-3)
ETA = 0.025


@pytest.fixture(params=[torch.optim.SGD, SGD], ids=["torch's SGD", "flat SGD"])
def setting(request: pytest.FixtureRequest):
    torch.manual_seed(1)
    model = Network(4, 5, 3, nn.CrossEntropyLoss()).double()
    batches = [torch.randn(6, 3, 8, 8, dtype=torch.float64) for _ in range(2)]
    labels = [torch.randint(5, (6,)) for _ in range(2)]
    optimizer = request.param(model.parameters(), ETA, momentum=0.9, weight_decay=3e-4)
    return model, optimizer, (batches[0], labels[0], batches[1], labels[1])


def sgd_step(model, optimizer, x, y):
    optimizer.zero_grad()
    model._loss(x, y).backward()
    optimizer.step()
    optimizer.zero_grad()
    for alpha in model.arch_parameters():
        alpha.grad = None


def unrolled_truth(model, optimizer, x_train, y_train, x_valid, y_valid, r=1e-2):
    """Equations 7 and 8 on a copy, with the weights written in place, as the paper reads."""
    eager = make_eager(copy.deepcopy(model))
    w, alphas = list(eager.parameters()), eager.arch_parameters()
    start = [p.detach().clone() for p in w]
    momenta = [optimizer.state[p]["momentum_buffer"] if optimizer.state.get(p) else torch.zeros_like(p)
               for p in model.parameters()]  # fmt: skip

    def put(values):
        with torch.no_grad():
            for p, v in zip(w, values, strict=True):
                p.copy_(v)

    gradient = torch.autograd.grad(eager._loss(x_train, y_train), w)
    put([p - ETA * (0.9 * m + g + 3e-4 * p) for p, m, g in zip(start, momenta, gradient, strict=True)])
    at_ahead = torch.autograd.grad(eager._loss(x_valid, y_valid), [*alphas, *w])
    direct, v = at_ahead[:2], at_ahead[2:]
    epsilon = r / torch.cat([t.flatten() for t in v]).norm()
    put([p + epsilon * t for p, t in zip(start, v, strict=True)])
    above = torch.autograd.grad(eager._loss(x_train, y_train), alphas)
    put([p - epsilon * t for p, t in zip(start, v, strict=True)])
    below = torch.autograd.grad(eager._loss(x_train, y_train), alphas)
    return [d - ETA * (a - b) / (2 * epsilon) for d, a, b in zip(direct, above, below, strict=True)]


def test_first_order_gradient_is_that_of_the_validation_loss(setting):
    model, optimizer, (x_train, y_train, x_valid, y_valid) = setting
    eager = make_eager(copy.deepcopy(model))
    truth = torch.autograd.grad(eager._loss(x_valid, y_valid), eager.arch_parameters())
    before = [a.detach().clone() for a in model.arch_parameters()]
    loss = Architect(model, ARGS).step(x_train, y_train, x_valid, y_valid, ETA, optimizer, unrolled=False)
    assert not loss.requires_grad and loss == pytest.approx(eager._loss(x_valid, y_valid).item(), rel=1e-12)
    for alpha, gradient, old in zip(model.arch_parameters(), truth, before, strict=True):
        torch.testing.assert_close(alpha.grad, gradient, rtol=1e-9, atol=1e-13)
        # Adam's first step: lr * sign-like, computed here from its definition with the L2 term in the gradient.
        g = gradient + 1e-3 * old
        torch.testing.assert_close(alpha.detach(), old - 3e-4 * g / (g.abs() + 1e-8), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps_before", [0, 2], ids=["no momentum yet", "with momentum"])
def test_unrolled_gradient_is_equation_7_with_8(setting, steps_before):
    model, optimizer, batches = setting
    for _ in range(steps_before):
        sgd_step(model, optimizer, *batches[:2])
    truth = unrolled_truth(model, optimizer, *batches)
    first_order = torch.autograd.grad(model._loss(*batches[2:]), model.arch_parameters())
    Architect(model, ARGS).step(*batches, ETA, optimizer, unrolled=True)
    for alpha, gradient, other in zip(model.arch_parameters(), truth, first_order, strict=True):
        torch.testing.assert_close(alpha.grad, gradient, rtol=1e-6, atol=1e-10)
        assert (alpha.grad - other).norm() > 1e-3 * other.norm()  # the implicit term is really there


@pytest.mark.parametrize("unrolled", [False, True])
def test_a_step_leaves_weights_gradients_and_random_state_alone(setting, unrolled):
    model, optimizer, batches = setting
    sgd_step(model, optimizer, *batches[:2])
    weights = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    Architect(model, ARGS).step(*batches, ETA, optimizer, unrolled=unrolled)
    assert all(torch.equal(p, old) and p.grad is None for p, old in zip(model.parameters(), weights, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("unrolled", "updates"), [(False, 1), (True, 3)])
def test_running_statistics_move_as_published(setting, unrolled, updates):
    model, optimizer, batches = setting
    truth = make_eager(copy.deepcopy(model))
    Architect(model, ARGS).step(*batches, ETA, optimizer, unrolled=unrolled)
    assert model.stem[1].num_batches_tracked == updates
    # The stem sees the same activations at w in each training pass up to the shift by epsilon * v.
    x = batches[0] if unrolled else batches[2]
    for _ in range(updates):
        truth.stem(x)
    torch.testing.assert_close(model.stem[1].running_mean, truth.stem[1].running_mean, rtol=0.02, atol=1e-3)
    other = copy.deepcopy(truth.stem[1])
    other.reset_running_stats()
    for _ in range(updates):
        other(truth.stem[0](batches[2] if unrolled else batches[0]))
    distance = (model.stem[1].running_mean - truth.stem[1].running_mean).norm()
    assert distance < 0.2 * (model.stem[1].running_mean - other.running_mean).norm()


def test_the_weights_survive_a_loss_that_raises_halfway(setting):
    model, optimizer, batches = setting
    weights = [p.detach().clone() for p in model.parameters()]
    calls = []

    class Fails(nn.CrossEntropyLoss):
        def forward(self, *args):
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("out of memory")
            return super().forward(*args)

    model._criterion = Fails()
    with pytest.raises(RuntimeError, match="out of memory"):
        Architect(model, ARGS).step(*batches, ETA, optimizer, unrolled=True)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), weights, strict=True))


def test_alphas_that_are_parameters_are_not_weights():
    class Quadratic(nn.Module):
        """L_train = (w a - 1)^2, L_valid = (w - a)^2: everything is known in closed form."""

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
            self.alpha = nn.Parameter(torch.tensor([1.3], dtype=torch.float64))

        def arch_parameters(self):
            return [self.alpha]

        def _loss(self, input, target):
            return ((self.w * self.alpha - 1) ** 2 if input.item() else (self.w - self.alpha) ** 2).sum()

    model = Quadratic()
    args = SimpleNamespace(momentum=0.0, weight_decay=0.0, arch_learning_rate=1e-3, arch_weight_decay=0.0)
    optimizer = torch.optim.SGD([model.w], 0.1)
    Architect(model, args).step(torch.ones(1), None, torch.zeros(1), None, 0.1, optimizer, unrolled=True)
    w, a, eta = 0.7, 1.3, 0.1
    ahead = w - eta * 2 * a * (w * a - 1)
    v = 2 * (ahead - a)
    mixed = 4 * w * a - 2  # d2 L_train / dw dalpha, linear in w, so the central difference is exact
    assert model.alpha.grad.item() == pytest.approx(-v - eta * mixed * v, rel=1e-9)
    assert model.w.item() == 0.7


@pytest.mark.parametrize("unrolled", [False, True])
def test_idle_alphas_stay_and_replaced_ones_are_followed(unrolled):
    torch.manual_seed(0)
    model = Network(2, 5, 2, nn.CrossEntropyLoss(), 2, 2)  # two cells, both reductions
    optimizer = torch.optim.SGD(model.parameters(), ETA)
    batch = torch.randn(4, 3, 8, 8), torch.arange(4)
    before = [a.detach().clone() for a in model.arch_parameters()]
    Architect(model, ARGS).step(*batch, *batch, ETA, optimizer, unrolled=unrolled)
    moved = [not torch.equal(a, b) for a, b in zip(model.arch_parameters(), before, strict=True)]
    assert moved == [False, True]
    model.alphas_reduce = before[1].clone().requires_grad_()
    Architect(model, ARGS).step(*batch, *batch, ETA, optimizer, unrolled=unrolled)
    assert not torch.equal(model.alphas_reduce, before[1])


def test_unrolled_without_an_optimizer_or_with_a_vanishing_gradient_is_refused(setting):
    model, _, batches = setting
    architect = Architect(model, ARGS)
    with pytest.raises(FastdartsError, match="network_optimizer"):
        architect.step(*batches, ETA, None, unrolled=True)
    with pytest.raises(FastdartsError, match="norm 0"):
        architect._hessian_vector_product([torch.zeros_like(p) for p in model.parameters()], *batches[:2])
