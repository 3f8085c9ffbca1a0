"""Cells of genotypes: all that leaves a state in one call, and the whole cell one node of autograd."""

from __future__ import annotations

import copy
import functools
import operator

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.nn.operations import Identity, drop_path, drop_path_factors
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.named import DARTS_V2, NAMED, PDARTS, AmoebaNet, NASNet
from fastdarts.spaces.cells.network import Cell, NetworkCIFAR
from tests.support.fused import kinds, note_calls

# nodes of one, two and three operations; several from one state to one node; an input in the output
TANGLED = [
    ("avg_pool_3x3", 1, 3),
    ("skip_connect", 0, 4), ("max_pool_3x3", 0, 4), ("skip_connect", 3, 4), ("sep_conv_3x3", 0, 4),
    ("skip_connect", 2, 5), ("dil_conv_3x3", 4, 5),
]  # fmt: skip
GENOTYPES = {
    "DARTS_V2": DARTS_V2,
    "PDARTS": PDARTS,
    "NASNet": NASNet,
    "DrNAS_cifar10": NAMED["DrNAS_cifar10"],
    "tangled": Genotype(TANGLED, [5, 2, 0, 3], TANGLED, [5, 2, 3]),
}


def plain(cell: Cell, s0: Tensor, s1: Tensor, drop_prob: float) -> Tensor:
    """The cell as published, module by module."""
    states = [cell.preprocess0(s0), cell.preprocess1(s1)]
    for edges in cell._nodes:
        incoming = []
        for number, source in edges:
            out = cell._ops[number](states[source])
            drops = cell.training and drop_prob > 0 and not isinstance(cell._ops[number], Identity)
            incoming.append(drop_path(out, drop_prob) if drops else out)
        states.append(functools.reduce(operator.add, incoming))
    return torch.cat([states[i] for i in cell._concat], 1)


def make(genotype: Genotype, reduction: bool = False, reduction_prev: bool = False) -> Cell:
    """In float64, its BatchNorms with weights and statistics as of a trained one."""
    torch.manual_seed(0)
    cell = Cell(genotype, 10, 8, 6, reduction, reduction_prev).double()
    for module in cell.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2.0)
    return cell


def inputs(reduction_prev: bool = False) -> list[Tensor]:
    torch.manual_seed(1)
    sizes = (10, 16 if reduction_prev else 8), (8, 8)
    maps = [torch.randn(3, channels, size, size, dtype=torch.float64) for channels, size in sizes]
    return [x.contiguous(memory_format=torch.channels_last).requires_grad_() for x in maps]


def results(forward, cell: Cell, states: list[Tensor], drop_prob: float, twice: bool = False) -> list[Tensor | None]:
    torch.manual_seed(2)
    out = forward(cell, *states, drop_prob)
    wanted, grad = [*states, *cell.parameters()], torch.randn(out.shape, dtype=out.dtype)
    gradients = torch.autograd.grad(out, wanted, grad, allow_unused=True, create_graph=twice)
    found = [out, *gradients]
    if twice:
        total = sum(g.square().sum() for g in gradients if g is not None)
        found += torch.autograd.grad(total, wanted, allow_unused=True)
    return [*found, *cell.buffers()]


def assert_as_plain(cell: Cell, states: list[Tensor], drop_prob: float = 0.0, twice: bool = False) -> None:
    expected = results(plain, copy.deepcopy(cell), states, drop_prob, twice)
    for a, b in zip(results(Cell.__call__, cell, states, drop_prob, twice), expected, strict=True):
        if a is None or b is None:  # of second derivatives one may be a zero that was computed
            assert (a is None and b is None) or (twice and not (b if a is None else a).any())
        else:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reduction_prev", [False, True])
@pytest.mark.parametrize("reduction", [False, True])
@pytest.mark.parametrize("name", GENOTYPES)
class TestAsPublished:
    def test_in_training(self, name, reduction, reduction_prev):
        assert_as_plain(make(GENOTYPES[name], reduction, reduction_prev), inputs(reduction_prev))

    def test_with_drop_path_of_the_same_random_numbers(self, name, reduction, reduction_prev):
        assert_as_plain(make(GENOTYPES[name], reduction, reduction_prev), inputs(reduction_prev), 0.4)

    def test_in_evaluation(self, name, reduction, reduction_prev):
        cell, states = make(GENOTYPES[name], reduction, reduction_prev).eval(), inputs(reduction_prev)
        assert_as_plain(cell, states)
        with torch.no_grad():
            torch.testing.assert_close(cell(*states, 0.4), plain(cell, *states, 0.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reduction", [False, True])
def test_gradients_are_differentiated_again(reduction):
    assert_as_plain(make(GENOTYPES["tangled"], reduction), inputs(), 0.4, twice=True)


def test_what_leaves_a_state_is_one_call_and_the_cell_one_node(monkeypatch):
    called = note_calls(monkeypatch, kinds)
    out = make(DARTS_V2)(*inputs(), 0.0)
    sep = "sep_conv"
    assert called == [["relu_conv"], ["relu_conv"], [sep, sep, "skip", "skip"], [sep, sep, sep], ["dil_conv"]]
    assert {type(node).__name__ for node, _ in out.grad_fn.next_functions if node} == {
        "AccumulateGrad",
        "StackBackward0",
    }
    called.clear()
    make(DARTS_V2)(*inputs(), 0.4)
    assert len(called) == 5  # drop path makes no calls more
    called.clear()
    make(DARTS_V2, reduction=True)(*inputs(), 0.0)  # pools are no calls
    assert called == [["relu_conv"], ["relu_conv"], ["skip", "skip", "skip"]]


def test_a_cell_with_an_operation_that_is_not_known_is_computed_one_by_one():
    assert "conv_7x1_1x7" in {op for op, _ in AmoebaNet.reduce}
    assert_as_plain(make(AmoebaNet, reduction=True), inputs(), 0.4)


def test_layers_of_an_input_that_nothing_reads_get_no_gradient():
    entries = [("sep_conv_3x3", 1, 2), ("max_pool_3x3", 2, 3)]
    cell, (s0, s1) = make(Genotype(entries, [3], entries, [3])), inputs()
    cell(s0, s1, 0.0).sum().backward()
    assert s0.grad is None and all(p.grad is None for p in cell.preprocess0.parameters())
    assert all(p.grad is not None for p in [*cell.preprocess1.parameters(), *cell._ops.parameters()])


@pytest.mark.parametrize("change", ["frozen", "hook", "own forward"])
def test_a_cell_follows_what_is_changed_between_two_calls(change):
    cell, states, seen = make(DARTS_V2), inputs(), []
    cell(*states, 0.0)
    if change == "frozen":
        cell._ops[1].op[3].eval()
    elif change == "hook":
        cell._ops[2].op[0].register_forward_hook(lambda *_: seen.append(True))
    else:
        cell._ops[7].forward = lambda x: seen.append(True) or 2 * x
    assert_as_plain(cell, states)
    assert bool(seen) == (change != "frozen")


def test_factors_of_drop_path_are_those_of_as_many_calls():
    x = torch.randn(5, 2, 3, 3)
    torch.manual_seed(0)
    expected = [drop_path(x, 0.3) for _ in range(4)]
    torch.manual_seed(0)
    factors = drop_path_factors(x, 4, 0.3)
    assert factors.shape == (4, 5, 1, 1, 1)
    assert all(torch.equal(factor == 0, y[:, :1, :1, :1] == 0) for factor, y in zip(factors, expected, strict=True))
    torch.testing.assert_close(factors * x, torch.stack(expected))


def test_a_network_is_the_same_in_both_memory_formats():
    torch.manual_seed(0)
    network, x = NetworkCIFAR(4, 10, 3, False, DARTS_V2), torch.randn(2, 3, 16, 16)
    network.eval()
    assert torch.equal(network(x)[0], network(x.contiguous(memory_format=torch.channels_last))[0])
