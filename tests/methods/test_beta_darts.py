"""β-DARTS: the numbers of its public code."""

import math

import pytest
import torch

from fastdarts.engine.step import SearchStep
from fastdarts.policies.penalties import BetaDecay
from fastdarts.spaces import find_space
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve
from tests.support.probes import probe_alphas

GRADIENT = [0.01275560, 0.00936277, 0.00250754, 0.01291952, 0.00921517, 0.00251576, 0.01308312, 0.00906909]


def test_the_penalty_is_that_of_the_public_code():
    normal, reduce = probe_alphas(8)
    for alphas, golden in ([normal], 2.30772436662), ([reduce], 2.31412571779), ([normal, reduce], 2.31092504221):
        assert BetaDecay(1.0).loss(alphas, 1).item() == pytest.approx(golden, abs=5.1e-12)
    for candidates in (5, 8):
        assert BetaDecay(1.0).loss([torch.zeros(14, candidates)], 1).item() == pytest.approx(math.log(candidates))


def test_its_gradient_is_that_of_the_public_code():
    normal = probe_alphas(8)[0].requires_grad_()
    BetaDecay(1.0).loss([normal], 1).backward()
    torch.testing.assert_close(normal.grad[0], torch.tensor(GRADIENT, dtype=torch.float64), rtol=0, atol=5.1e-9)
    torch.testing.assert_close(normal.grad, normal.detach().softmax(1) / 14, rtol=1e-12, atol=0)


def test_its_weight_grows_by_half_an_epoch():
    recipe = resolve(SearchConfig(method="beta-darts")).build(find_space("darts"))
    zeros = [torch.zeros(14, 8, dtype=torch.float64)]
    for epoch, weight in {0: 0, 1: 0.5, 10: 5, 49: 24.5, 99: 49.5}.items():
        assert recipe.penalty.loss(zeros, epoch).item() == pytest.approx(weight * math.log(8))
    assert recipe.alphas.weight_decay == 1e-3


def test_alphas_alone_feel_it():
    """Steps from equal states in epoch 3: the weights move as in DARTS, the alphas do not."""
    images, gradients = ImageProblem.of_shape(10, 1, (8, 8)), {}
    x, y = torch.randn(2, 8, 1, 8, 8), torch.randint(10, (2, 8))
    for name in ("darts", "beta-darts"):
        config = SearchConfig(
            method=name, channels=4, layers=3, nodes=1, space="tiny", epochs=5, device="cpu", threads=1, batch_size=8
        )
        supernet = SearchStep(config, images, torch.device("cpu"))
        alphas = supernet.model.arch_parameters()
        strengths = [alpha.detach().softmax(1) for alpha in alphas]
        supernet.architect.optimizer.register_step_pre_hook(
            lambda *_, name=name, alphas=alphas: gradients.update({name: [a.grad.clone() for a in alphas]})
        )
        supernet.step((x[0], y[0]), (x[1], y[1]), Meter(), 3, 0)
    edges = sum(map(len, strengths))
    for mine, theirs, p in zip(gradients["beta-darts"], gradients["darts"], strengths, strict=True):
        torch.testing.assert_close(mine - theirs, 1.5 * p / edges, rtol=2e-3, atol=1e-5)
