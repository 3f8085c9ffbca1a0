"""The controller of ENAS: golden numbers in double precision, and what it may draw."""

import itertools
import math

import pytest
import torch

from fastdarts.policies.searchers import cell_controller
from fastdarts.policies.searchers.cell_controller import CellController
from tests.support.enas import GOLDEN

OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "skip_connect")
# Two nodes a cell: source, source, operation, operation. Normal cell, then reduction cell.

NORMAL, REDUCE = slice(0, 8), slice(8, 16)


def controller(nodes=2, operations=OPERATIONS, distinct=False, temperature=1.0, seed=0):
    return CellController(nodes, operations, distinct, 1.1, 2.5, temperature, torch.Generator().manual_seed(seed))


@pytest.fixture
def golden(monkeypatch):
    """Two units; every weight but the bias is sin(1), sin(2), ... row by row; the bias is (1, 1, 0, 0, 0)."""
    monkeypatch.setattr(cell_controller, "HIDDEN", 2)
    found = controller().double()
    with torch.no_grad():
        for weight in found.parameters():
            weight.copy_(torch.arange(1, weight.numel() + 1, dtype=torch.float64).sin().view_as(weight))
        found.bias.copy_(torch.tensor([1.0, 1, 0, 0, 0]))
    return found


def test_log_probabilities_and_entropies_are_the_golden_ones(golden):
    _, logs, entropies = golden(GOLDEN)
    found = [-logs[:, NORMAL].sum(), entropies[:, NORMAL].sum(), -logs[:, REDUCE].sum(), entropies[:, REDUCE].sum()]
    expected = [10.174888284865, 9.637670591670, 9.585163219834, 9.964184019591]
    assert torch.stack(found).tolist() == pytest.approx(expected, abs=6e-13)


def test_the_published_sizes_and_the_favour_of_separable_convolutions():
    found = controller(5)
    shapes = {name: tuple(weight.shape) for name, weight in found.named_parameters()}
    square = dict.fromkeys(("anchor", "query"), (64, 64))
    assert shapes == square | {
        "lstm": (128, 256), "start": (1, 64), "embedding": (5, 64), "head": (64, 5), "score": (64, 1), "bias": (5,),
    }  # fmt: skip
    assert found.bias.tolist() == [10, 10, 0, 0, 0] and found.constant.tolist() == [0.25, 0.25, -0.25, -0.25, -0.25]
    others = torch.cat([w.detach().flatten() for name, w in found.named_parameters() if name != "bias"])
    assert -0.1 <= others.min() < -0.0999 and 0.0999 < others.max() <= 0.1
    # Fresh weights: a separable convolution has nearly the logit 1.1 / 2.5, plus or minus the constant where that is.
    drawn = found.sample(4000, torch.Generator().manual_seed(1)).choices.view(4000, 2, 5, 4)
    for cell, constant in enumerate((0.25, 0.0)):
        separable, other = math.exp(0.44 + constant), math.exp(-constant)
        share = (drawn[:, cell, :, 2:] < 2).double().mean().item()
        assert share == pytest.approx(2 * separable / (2 * separable + 3 * other), abs=0.02)


@pytest.mark.parametrize("distinct", [False, True])
def test_probabilities_of_all_architectures_sum_to_one(distinct, monkeypatch):
    monkeypatch.setattr(cell_controller, "HIDDEN", 3)
    found = controller(1, OPERATIONS[:2], distinct).double()
    every = torch.tensor([*itertools.product(range(2), repeat=8)])
    if distinct:
        every = every[(every[:, 0] != every[:, 1]) & (every[:, 4] != every[:, 5])]
    logs = found(every).logs.sum(1)
    assert logs.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    # The entropies of the decisions add up, on average over the architectures, to the entropy of the whole.
    mean = (logs.exp() * found(every).entropies.sum(1)).sum().item()
    assert mean == pytest.approx(-(logs.exp() * logs).sum().item(), abs=1e-12)


def test_what_is_drawn_has_the_probabilities_that_it_is_said_to_have():
    found = controller(3, distinct=True)
    drawn = found.sample(200, torch.Generator().manual_seed(2))
    again = found(drawn.choices)
    torch.testing.assert_close(drawn.logs, again.logs.detach())
    torch.testing.assert_close(drawn.entropies, again.entropies)
    cells = drawn.choices.view(200, 2, 3, 4)
    assert (cells[..., 0] != cells[..., 1]).all() and cells.max() == 4
    for node in range(3):
        assert cells[:, :, node, :2].max() == node + 1 and cells[:, :, node, :2].min() == 0
    assert torch.equal(drawn.choices, found.sample(200, torch.Generator().manual_seed(2)).choices)


def test_a_high_temperature_makes_sources_equally_likely():
    logs = controller(2, temperature=1e6)(GOLDEN).logs
    sources = torch.stack([logs[:, [0, 1, 8, 9]].mean(), logs[:, [4, 5, 12, 13]].mean()])
    assert sources.tolist() == pytest.approx([-math.log(2), -math.log(3)], abs=1e-6)
