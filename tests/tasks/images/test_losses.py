"""Losses, scores and heads of images: their formulas, gradients in double precision, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, f1_score, r2_score

from fastdarts.errors import FastdartsError
from fastdarts.spaces import find_space
from fastdarts.tasks.images.heads import fit_head, register_head
from fastdarts.tasks.images.losses import binary_cross_entropy, find_loss, register_loss, soft_cross_entropy
from fastdarts.tasks.images.scores import find_score, meter_of, register_metric


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(3)
    outputs = torch.randn(50, 4, generator=generator, dtype=torch.float64).round(decimals=1)
    return outputs, (torch.rand(50, 4, generator=generator) < 0.3).double()


def test_without_weights_and_gamma_it_is_the_cross_entropy():
    outputs, target = torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 5
    for smoothing in (0.0, 0.1):
        wanted = F.cross_entropy(outputs, target, reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(soft_cross_entropy(outputs, target, label_smoothing=smoothing), wanted)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0], dtype=torch.float64)
    wanted = F.cross_entropy(outputs, target, weight=weights, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(outputs, target, weights=weights), wanted)


def test_the_focal_loss_is_that_of_the_paper():
    outputs, target = torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 5
    p = outputs.softmax(1)[torch.arange(9), target]
    torch.testing.assert_close(soft_cross_entropy(outputs, target, gamma=2.0), -((1 - p) ** 2) * p.log())


def test_binary_losses_are_those_of_torch(scores):
    outputs, target = scores
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    wanted = F.binary_cross_entropy_with_logits(outputs, target, pos_weight=weights, reduction="none")
    torch.testing.assert_close(binary_cross_entropy(outputs, target, weights=weights), wanted)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradients_are_those_of_differences_in_double_precision(scores, gamma):
    outputs, labels = (t[:6].clone() for t in scores)
    outputs.requires_grad_()
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    classes = torch.arange(6) % 4
    for loss, target in ((soft_cross_entropy, classes), (binary_cross_entropy, labels)):
        assert torch.autograd.gradcheck(lambda x, f=loss, y=target: f(x, y, weights=weights, gamma=gamma), outputs)


def test_a_focal_loss_that_is_sure_has_a_finite_gradient():
    outputs = torch.tensor([[200.0, -200.0]], requires_grad=True)
    for loss in (soft_cross_entropy(outputs, torch.tensor([0]), gamma=0.5),
                 binary_cross_entropy(outputs, torch.tensor([[1.0, 0.0]]), gamma=0.5)):  # fmt: skip
        (gradient,) = torch.autograd.grad(loss.sum(), outputs)
        assert gradient.isfinite().all()


def measured(name, task, outputs, target, parts):
    """What a meter says of a batch that comes in parts."""
    meter = meter_of(find_score(name, task))()
    for x, y in zip(outputs.split(parts), target.split(parts), strict=True):
        meter.update(1.0, x, y)
    return meter.summary("test")


def test_scores_are_those_of_scikit_learn_whatever_the_batches(scores):
    outputs, labels = scores
    numbers = outputs + torch.randn(50, 4, dtype=torch.float64)
    wanted = {
        ("map", "multilabel"): (100 * average_precision_score(labels, outputs), "map", labels),
        ("f1", "multilabel"): (100 * f1_score(labels, outputs > 0, average="macro"), "f1", labels),
        ("r2", "regression"): (r2_score(numbers, outputs), "r2", numbers),
    }
    for (name, task), (value, key, target) in wanted.items():
        for parts in (50, 7):
            row = measured(name, task, outputs, target, parts)
            assert row[f"test_{key}"] == pytest.approx(value, rel=1e-9)
            whole = 100.0 if task == "multilabel" else 1.0
            assert row["test_error"] == pytest.approx((whole - value) * 100 / whole, rel=1e-9)
    error = measured("mae", "regression", outputs, numbers, 7)["test_error"]
    assert error == pytest.approx((outputs - numbers).abs().mean().item())
    root = measured("rmse", "regression", outputs, numbers, 7)["test_error"]
    assert root == pytest.approx(math.sqrt((outputs - numbers).square().mean().item()))


def test_ones_own_loss_metric_and_head_are_found_by_name(registries):
    register_loss("cubed", task="regression")(lambda outputs, target: (outputs - target).abs() ** 3)
    register_metric("relative", task="regression", title="relative error")(lambda o, t: (o - t).abs() / t)
    register_head("twice")(lambda features, outputs: torch.nn.Sequential(torch.nn.Linear(features, outputs)))
    x, y = torch.full((2, 1), 3.0), torch.full((2, 1), 1.0)
    assert find_loss("cubed", "regression")(x, y).tolist() == [[8.0], [8.0]]
    assert measured("relative", "regression", x, y, 1)["test_error"] == 2.0
    network = find_space("tiny").network("cifar", 4, 10, 3, False, tiny_genotype(), in_channels=1)
    fitted = fit_head(network, "twice", 3, (8, 8))
    assert fitted.eval()(torch.zeros(2, 1, 8, 8))[0].shape == (2, 3)


def tiny_genotype():
    return find_space("tiny").sample(torch.Generator().manual_seed(0), 1)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (
            lambda: find_loss("msse", "regression"),
            "--loss is 'msse' (did you mean mse?): expected one of huber, l1, mse",
        ),
        (lambda: find_loss("mse", "images"), "expected one of cross-entropy, focal"),
        (lambda: find_score("f2", "multilabel"), "--metric is 'f2': expected one of f1, map"),
        (lambda: fit_head(torch.nn.Identity(), "hidden", 3, (8, 8)), "no linear classifier"),
    ],
)
def test_unknown_names_are_one_sentence(work, words):
    with pytest.raises(FastdartsError) as error:
        work()
    assert words in str(error.value) and "\n" not in str(error.value)
