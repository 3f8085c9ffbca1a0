"""The step and the schedules of a training, against the published formulas written out."""

import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from fastdarts.config import RECIPES, SearchConfig
from fastdarts.data import load_data
from fastdarts.errors import FastdartsError
from fastdarts.genotypes import DARTS_V1
from fastdarts.search import Supernet
from fastdarts.training import Job, Meter, Recipe, Training, finite

CPU = torch.device("cpu")
COMMON = {"learning_rate_min": 0.0, "gamma": 0.97, "momentum": 0.9, "grad_clip": 5.0, "auxiliary_weight": 0.4}


def training(variant="cifar", **changes):
    published = {k: v for k, v in RECIPES[variant].items() if k in Recipe.__dataclass_fields__}
    recipe = Recipe(variant=variant, auxiliary=True, **(COMMON | published | {"channels": 4, "layers": 3} | changes))
    return Training(Job(DARTS_V1, 0), recipe, load_data("digits"), CPU)


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
    rates = learning_rates(Supernet(SearchConfig(channels=2, layers=3, nodes=1), load_data("digits"), CPU), 50)
    assert rates == pytest.approx([1e-3 + 0.012 * (1 + math.cos(math.pi * e / 50)) for e in range(50)], rel=1e-12)
    assert (rates[0], rates[49]) == (0.025, pytest.approx(1.023679e-3, rel=1e-6))  # as users' logs have them


def test_a_step_is_clipped_sgd_on_the_smoothed_loss_with_the_auxiliary_head():
    mine = training(label_smoothing=0.1, grad_clip=0.5, drop_path_prob=0.0)
    x, y = torch.randn(6, 1, 8, 8), torch.randint(10, (6,))
    network = copy.deepcopy(mine.model)
    logits, logits_aux = network(x)

    def smoothed(scores):
        target = torch.full_like(scores, 0.1 / 10).scatter_(1, y[:, None], 0.9 + 0.1 / 10)
        return -(target * F.log_softmax(scores, 1)).sum(1).mean()

    (smoothed(logits) + 0.4 * smoothed(logits_aux)).backward()
    gradients = [p.grad for p in network.parameters()]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert norm > 0.5  # so that clipping shows
    expected = [p - 0.025 * (g * 0.5 / norm + 3e-4 * p) for p, g in zip(network.parameters(), gradients, strict=True)]
    meter = Meter()
    mine.step(x, y, meter, epoch=0, step=0)
    for after, truth in zip(mine.model.parameters(), expected, strict=True):
        torch.testing.assert_close(after, truth, rtol=1e-4, atol=1e-6)
    assert meter.summary("train") == {
        "train_loss": pytest.approx(smoothed(logits).item(), rel=1e-5),
        "train_error": 100 * (logits.argmax(1) != y).sum().item() / 6,
    }


def test_drop_path_rises_linearly_with_the_epoch():
    mine = training(epochs=4, drop_path_prob=0.2)
    seen = []
    for epoch in range(4):
        mine.step(torch.randn(4, 1, 8, 8), torch.arange(4), Meter(), epoch, 0)
        seen.append(mine.model.drop_path_prob)
    assert seen == pytest.approx([0.0, 0.05, 0.1, 0.15])


def test_a_seed_determines_the_initial_weights_and_another_changes_them():
    data = load_data("digits")
    a, b, c = (Training(Job(DARTS_V1, seed), training().recipe, data, CPU).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["stem.0.weight"], c["stem.0.weight"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_named_with_epoch_and_step(value):
    with pytest.raises(FastdartsError, match=rf"training loss is {value} at epoch 3, step 7"):
        finite(torch.tensor(value), "training", 3, 7)
    assert finite(torch.tensor(0.5), "training", 0, 0) == 0.5


def test_one_joint_step_moves_weights_and_alphas_by_one_gradient():
    config = SearchConfig(method="joint", channels=2, layers=3, nodes=2)
    supernet = Supernet(config, load_data("digits"), CPU)
    twin = copy.deepcopy(supernet.model)
    x, y = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
    loss = nn.functional.cross_entropy(twin(x), y)
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm()
    clip = min(1.0, 5 / norm.item())
    assert supernet.step((x, y), None, Meter(), 0, 0) == pytest.approx(loss.item(), rel=1e-5)
    for after, before in zip(supernet.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.025 * (clip * before.grad + 3e-4 * before), rtol=1e-4, atol=1e-6)
    for after, before in zip(supernet.model.arch_parameters(), twin.arch_parameters(), strict=True):
        g = before.grad + 1e-3 * before
        torch.testing.assert_close(after, before - 3e-4 * g / (g.abs() + 1e-8), rtol=1e-2, atol=1e-7)
