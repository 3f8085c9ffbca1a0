"""The step and the schedules of a training, against the published formulas written out."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from fastdarts.engine.step import SearchStep
from fastdarts.engine.training import Job, Recipe, Training
from fastdarts.errors import FastdartsError
from fastdarts.nn.finite import finite
from fastdarts.spaces import DARTS, Architecture
from fastdarts.spaces.cells.named import DARTS_V1
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.measure import Meter, measure
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.settings import RECIPES
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig

CPU = torch.device("cpu")
COMMON = {
    "learning_rate_min": 0.0, "gamma": 0.97, "momentum": 0.9, "grad_clip": 5.0, "auxiliary_weight": 0.4,
    "sync_bn": False, "precision": "fp32",
}  # fmt: skip


def training(variant="cifar", **changes):
    published = {k: v for k, v in RECIPES[variant].items() if k in Recipe.__dataclass_fields__}
    recipe = Recipe(variant=variant, auxiliary=True, **(COMMON | published | {"channels": 4, "layers": 3} | changes))
    return Training(Job(Architecture(DARTS, DARTS_V1), 0), recipe, Objective(load_data("digits")), CPU)


def learning_rates(owner, epochs):
    rates = []
    for _ in range(epochs):
        rates.append(owner.optimizer.param_groups[0]["lr"])
        owner.optimizer.step()
        owner.scheduler.step()
    return rates


def test_learning_rates_of_the_published_recipes():
    cosine = [0.0125 * (1 + math.cos(math.pi * e / 600)) for e in range(600)]
    assert learning_rates(training("cifar"), 600) == pytest.approx(cosine, rel=1e-9, abs=1e-12)
    assert learning_rates(training("imagenet"), 250) == pytest.approx([0.1 * 0.97**e for e in range(250)], rel=1e-12)
    rates = learning_rates(
        SearchStep(SearchConfig(channels=2, layers=3, nodes=1), ImageProblem.of_shape(10, 1, (8, 8)), CPU), 50
    )
    assert rates == pytest.approx([1e-3 + 0.012 * (1 + math.cos(math.pi * e / 50)) for e in range(50)], rel=1e-12)
    assert (rates[0], rates[49]) == (0.025, pytest.approx(1.023679e-3, rel=1e-6))  # as users' logs have them


class Sgd:
    """Momentum SGD with L2 and clipping, from its definition."""

    def __init__(self, clip):
        self.clip, self.buffers = clip, None

    def step(self, parameters, gradients, lr):
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        scale = min(1.0, self.clip / (norm.item() + 1e-6))
        gradients = [g * scale + 3e-4 * p for p, g in zip(parameters, gradients, strict=True)]
        old = self.buffers or [torch.zeros_like(g) for g in gradients]
        self.buffers = [0.9 * b + g for b, g in zip(old, gradients, strict=True)]
        with torch.no_grad():
            for p, b in zip(parameters, self.buffers, strict=True):
                p -= lr * b
        return norm.item()


class Adam:
    """Adam with betas 0.5, 0.999 and L2 in the gradient, from its definition (Kingma and Ba 2015, algorithm 1)."""

    def __init__(self):
        self.t, self.m, self.v = 0, None, None

    def step(self, parameters, gradients, lr):
        self.t += 1
        gradients = [g + 1e-3 * p.detach() for p, g in zip(parameters, gradients, strict=True)]
        zeros = [torch.zeros_like(g) for g in gradients]
        self.m = [0.5 * m + 0.5 * g for m, g in zip(self.m or zeros, gradients, strict=True)]
        self.v = [0.999 * v + 0.001 * g * g for v, g in zip(self.v or zeros, gradients, strict=True)]
        with torch.no_grad():
            for p, m, v in zip(parameters, self.m, self.v, strict=True):
                p -= lr * (m / (1 - 0.5**self.t)) / ((v / (1 - 0.999**self.t)).sqrt() + 1e-8)


def batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = [(torch.randn(6, 1, 8, 8, generator=generator), torch.randint(10, (6,), generator=generator))
            for _ in range(count)]  # fmt: skip
    return [(x.double(), y) for x, y in draw]


def agree(mine, truth):
    for a, b in zip(mine, truth, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-9, atol=1e-12)


def test_steps_are_clipped_momentum_sgd_on_the_smoothed_loss_with_the_auxiliary_head():
    mine = training(label_smoothing=0.1, grad_clip=2.0, drop_path_prob=0.0)
    mine.model.double()
    network, sgd, meter, norms, wrong = copy.deepcopy(mine.model), Sgd(2.0), Meter(), [], 0

    def smoothed(scores, y):
        target = torch.full_like(scores, 0.1 / 10).scatter_(1, y[:, None], 0.9 + 0.1 / 10)
        return -(target * F.log_softmax(scores, 1)).sum(1).mean()

    losses = []
    for step, (x, y) in enumerate(batches(3)):
        logits, logits_aux = network(x)
        losses.append(smoothed(logits, y).item())
        wrong += (logits.argmax(1) != y).sum().item()
        weights = list(network.parameters())
        loss = smoothed(logits, y) + 0.4 * smoothed(logits_aux, y)
        norms.append(sgd.step(weights, torch.autograd.grad(loss, weights), 0.025))
        mine.step(x, y, meter, epoch=0, step=step)
        agree(mine.model.parameters(), weights)
    assert max(norms) > 2.0  # so that clipping shows
    assert meter.summary("train") == {"train_loss": pytest.approx(sum(losses) / 3), "train_error": 100 * wrong / 18}


@pytest.mark.parametrize("alternate", [True, False], ids=["darts", "joint"])
def test_search_steps_are_adam_on_the_alphas_and_clipped_momentum_sgd_on_the_weights(alternate):
    clip = 0.5
    method = "darts" if alternate else "joint"
    config = SearchConfig(method=method, channels=2, layers=3, nodes=2, grad_clip=clip, arch_learning_rate=0.01)
    mine = SearchStep(config, ImageProblem.of_shape(10, 1, (8, 8)), CPU)
    mine.model.double()
    model, sgd, adam, norms = copy.deepcopy(mine.model), Sgd(clip), Adam(), []
    weights, alphas = list(model.parameters()), model.arch_parameters()
    for step, (batch, arch_batch) in enumerate(zip(batches(3), batches(3, seed=1), strict=True)):
        if alternate:
            arch_loss = model._loss(*arch_batch)
            adam.step(alphas, torch.autograd.grad(arch_loss, alphas), 0.01)
        loss = model._loss(*batch)
        gradients = torch.autograd.grad(loss, [*weights, *alphas])
        norms.append(sgd.step(weights, gradients[: len(weights)], 0.025))
        if not alternate:
            arch_loss = loss
            adam.step(alphas, gradients[len(weights) :], 0.01)
        seen = mine.step(batch, arch_batch if alternate else None, Meter(), 0, step)
        assert seen == pytest.approx(arch_loss.item(), rel=1e-9)
        agree(mine.model.parameters(), weights)
        agree(mine.model.arch_parameters(), alphas)
    assert max(norms) > clip
    agree([*mine.model.buffers()], [*model.buffers()])


def test_measuring_uses_running_statistics_and_leaves_the_network_training():
    mine = training()
    mine.model.double()
    (x, y), other = batches(2)
    for step in range(3):
        mine.step(x, y, Meter(), 0, step)
    reference = copy.deepcopy(mine.model).eval()
    losses, wrong = [], 0
    with torch.no_grad():
        for images, labels in ((x, y), other):
            logits, _ = reference(images)
            losses.append(F.cross_entropy(logits, labels).item())
            wrong += (logits.argmax(1) != labels).sum().item()
    seen = measure(mine.model, [(x, y), other], CPU, "test")
    assert seen == {"test_loss": pytest.approx(sum(losses) / 2), "test_error": 100 * wrong / 12}
    assert mine.model.training


def test_drop_path_rises_linearly_with_the_epoch():
    mine = training(epochs=4, drop_path_prob=0.2)
    seen = []
    for epoch in range(4):
        mine.begin_epoch(epoch)
        seen.append(mine.model.drop_path_prob)
    assert seen == pytest.approx([0.0, 0.05, 0.1, 0.15])


def test_a_seed_determines_the_initial_weights_and_another_changes_them():
    objective = Objective(load_data("digits"))
    jobs = [Job(Architecture(DARTS, DARTS_V1), seed) for seed in (0, 0, 1)]
    a, b, c = (Training(job, training().recipe, objective, CPU).model.state_dict() for job in jobs)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["stem.0.weight"], c["stem.0.weight"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_named_with_epoch_and_step(value):
    with pytest.raises(FastdartsError, match=rf"training loss is {value} at epoch 3, step 7"):
        finite(value, "training", 3, 7)
    assert finite(0.5, "training", 0, 0) == 0.5
