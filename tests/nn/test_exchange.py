"""Passes at other parameters and buffers: those of torch.func.functional_call."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fastdarts.nn.exchange import holding, parameters_of
from fastdarts.nn.fusion.recognise import settled


class Tied(nn.Module):
    """Two layers with one weight, a BatchNorm, and a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.layers[1].weight = self.layers[0].weight
        self.bn, self.scale = nn.BatchNorm1d(3), nn.Parameter(torch.randn(3))

    def forward(self, x):
        for layer in self.layers:
            x = self.bn(layer(x)) * self.scale
        return x


@pytest.mark.parametrize("is_settled", [False, True])
def test_a_pass_has_other_values_and_leaves_the_own_ones(is_settled) -> None:
    model, x = Tied(), torch.randn(4, 3)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {name: torch.full_like(t, 2) for name, t in own.items()}
    expected = functional_call(model, {name: t.clone() for name, t in values.items()}, x)
    for _ in range(2):  # the second time places are known
        with settled() if is_settled else nullcontext():
            assert [*parameters_of(model)] == [name for name, _ in model.named_parameters()]
            for _ in range(2):
                with holding(model, {name: t.clone() for name, t in values.items()}):
                    assert model(x).equal(expected)
        now = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        assert all(now[name] is own[name] for name in own)
        assert model.layers[1].weight is model.layers[0].weight


def test_after_an_error_the_own_values_are_back() -> None:
    model = Tied()
    weight = model.layers[0].weight
    with pytest.raises(RuntimeError), holding(model, {"layers.0.weight": torch.ones(2, 2)}):
        model(torch.randn(4, 3))
    assert model.layers[0].weight is model.layers[1].weight is weight
