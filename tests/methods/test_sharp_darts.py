"""sharpDARTS: the numbers of its public code, its convolutions and its learning rates."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.nn.candidates import build_candidate
from fastdarts.nn.relaxation import SOFTMAX
from fastdarts.policies.relaxations import MaxW
from fastdarts.policies.schedules import cosine_power
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import find_space
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve

ALPHA = torch.tensor([[0.1, 0.5, -0.2, 0.3]], dtype=torch.float64)
UPSTREAM = torch.tensor([[1, -2, 0.5, 3]], dtype=torch.float64)


def near(found: Tensor, golden: list) -> None:
    torch.testing.assert_close(found, torch.tensor(golden, dtype=torch.float64), rtol=0, atol=5.1e-9)


@pytest.mark.parametrize(
    ("detached", "gradient"),
    [
        (False, [[0.30912782, -1.38098898, 0.14584513, 0.92601602]]),
        (True, [[0.12113189, -0.82410346, 0.00657431, 0.69639726]]),
    ],
)
def test_weights_and_gradients_are_those_of_the_public_code(detached, gradient):
    alpha = ALPHA.clone().requires_grad_()
    weights = MaxW(detached=detached).weights(alpha)
    near(weights, [[0.88957799, 1, 0.83138779, 0.93928622]])
    (found,) = torch.autograd.grad(weights, [alpha], UPSTREAM)
    near(found, gradient)
    p = alpha.softmax(1)
    largest = p[:, 1:2].detach() if detached else p[:, 1:2]
    (plain,) = torch.autograd.grad(1 - largest + p, [alpha], UPSTREAM)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weighting", ["max-w", "max-w-detached", "scalar"])
def test_the_cell_is_that_of_darts_whatever_a_pass_multiplies_by(weighting):
    space, generator = find_space("sharp"), torch.Generator().manual_seed(3)
    config = SearchConfig(method="sharp-darts", weighting=weighting, channels=4, layers=3, device="cpu")
    model = SearchStep(config, ImageProblem.of_shape(10, 1, (8, 8)), torch.device("cpu")).model
    for alpha in model.arch_parameters():
        alpha.data = torch.randn(alpha.shape, generator=generator)
    expected = space.strongest([alpha.detach().softmax(-1) for alpha in model.arch_parameters()], 4)
    assert model.genotype() == expected
    strongest = torch.stack([table.detach().amax(1) for table in model.noiseless_weights()])
    assert torch.allclose(strongest, torch.ones_like(strongest)) == (weighting != "scalar")


@pytest.mark.parametrize(
    ("arguments", "golden"),
    [
        (
            (0.1, 1e-4, 10, 10),
            {0: 0.1, 1: 0.08314619, 2: 0.06181536, 3: 0.04162738, 4: 0.02565715, 5: 0.01446785, 6: 0.00727847}
            | {7: 0.00300671, 8: 0.00078513, 9: 0.0001},
        ),
        (
            (0.025, 1e-4, 10, 2),
            {0: 0.025, 1: 0.02256622, 2: 0.01900626, 3: 0.01489217, 4: 0.01077294, 5: 0.00707207, 6: 0.00405704}
            | {7: 0.0018632, 8: 0.0005408, 9: 0.0001},
        ),
        (
            (0.025, 1e-4, 10, 1),
            {0: 0.025, 1: 0.02318725, 2: 0.02036382, 3: 0.01680609, 4: 0.01286232, 5: 0.00891854, 6: 0.00536081}
            | {7: 0.00253739, 8: 0.00072463, 9: 0.0001},
        ),
    ],
)
def test_rates_are_those_of_the_public_code(arguments, golden):
    assert dict(enumerate(cosine_power(*arguments))) == pytest.approx(golden, abs=5.1e-9)


def test_rates_with_a_warm_up_are_those_of_the_public_code():
    found = cosine_power(0.025, 1e-4, 120, 2, 5)
    golden = {0: 0.00425, 1: 0.0084, 5: 0.025, 6: 0.02497425, 10: 0.02476921, 30: 0.02099651, 60: 0.01091744}
    golden |= {90: 0.00280664, 118: 0.00010322, 119: 0.0001}
    assert len(found) == 120
    assert {epoch: found[epoch] for epoch in golden} == pytest.approx(golden, abs=5.1e-9)


def test_settings_left_out_are_the_published_ones():
    config = resolve(SearchConfig(method="sharp-darts"))
    assert (config.space, config.epochs, config.batch_size, config.learning_rate_warmup) == ("sharp", 120, 48, 5)
    assert (config.learning_rate, config.learning_rate_min, config.power) == (0.025, 1e-4, 2.0)
    assert len(find_space("sharp").primitives(4)["normal"][0]) == 9
    scalar = resolve(SearchConfig(method="sharp-darts", weighting="scalar")).build(find_space("sharp"))
    assert scalar.relaxation is SOFTMAX


@pytest.mark.parametrize("stride", [1, 2])
def test_only_the_first_half_of_a_dilated_convolution_is_dilated(stride):
    torch.manual_seed(0)
    op, x = build_candidate("dil_flood_conv_3x3", 4, stride), torch.randn(2, 4, 8, 8)
    wide, narrow, again, last = (layer.weight for layer in op.op if isinstance(layer, nn.Conv2d))
    half = F.conv2d(F.conv2d(x.relu(), wide, stride=stride, padding=2, dilation=2, groups=4), narrow)
    half = F.batch_norm(half, None, None, training=True).relu()
    expected = F.conv2d(F.conv2d(half, again, padding=1, groups=16), last)
    torch.testing.assert_close(op(x), F.batch_norm(expected, None, None, training=True), rtol=1e-5, atol=1e-5)


def test_the_middle_of_a_convolution_is_as_wide_as_published():
    sizes = {"sharp_dil_conv_3x3": 4, "flood_conv_3x3": 16, "dil_flood_conv_3x3": 16, "choke_conv_3x3": 32}
    for name, middle in sizes.items():
        own = sum(p.numel() for p in build_candidate(name, 4, 1).parameters())
        assert own == 9 * 4 + 4 * middle + 9 * middle + middle * 4, name


def test_the_learning_rate_of_a_search_follows(tmp_path):
    small = {"channels": 4, "layers": 3, "nodes": 1, "samples": 32, "epochs": 4, "batch_size": 16, "gap_every": 0}
    small |= {"learning_rate_warmup": 1, "device": "cpu", "threads": 1, "run": tmp_path / "run"}
    search(SearchConfig(method="sharp-darts", **small))
    found = [row["lr"] for row in read_metrics(tmp_path / "run")]
    assert found == pytest.approx([*cosine_power(0.025, 1e-4, 4, 2.0, 1)])
