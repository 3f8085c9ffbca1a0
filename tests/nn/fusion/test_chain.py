"""Cells as one node of autograd: the bits of calls one by one, what is differentiated, and how much is around them."""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastdarts.engine.step import SearchStep
from fastdarts.functional import native
from fastdarts.kernels.mixed_op import chain
from fastdarts.nn.fusion.chain import one_by_one, one_pass
from fastdarts.nn.fusion.recognise import settled
from fastdarts.nn.fusion.tracking import standing_still
from fastdarts.nn.operations import DroppingIdentity
from fastdarts.nn.statistics import batch_statistics, running_statistics
from fastdarts.spaces.cells.supernet import Cell, Network
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve
from tests.support.fused import note_calls

pytestmark = pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")
CANDIDATES = ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5"]
CELLS = {
    "normal": {},
    "reduction": {"reduction": True},
    "after a reduction": {"reduction_prev": True},
    "some nodes": {"multiplier": 2},
    "recompute": {"memory": "recompute"},
    "partial": {"partial": 2, "C": 8},
    "partial reduction": {"partial": 2, "C": 8, "reduction": True},
    "noise": {"primitives": ["noise", "sep_conv_3x3", "skip_connect"]},
    "dropout": {"primitives": [lambda *_: DroppingIdentity(0.4), "sep_conv_3x3", "noise"]},
}


class Dispatched(TorchDispatchMode):
    """Counts ops by name, but for views."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += not func.is_view
        return func(*args, **kwargs or {})


def cell(dtype: torch.dtype = torch.float32, **settings) -> tuple[Cell, list[Tensor]]:
    torch.manual_seed(1)
    sizes = {"steps": 3, "multiplier": 3, "C_prev_prev": 6, "C_prev": 5, "C": 4, "reduction": False}
    made = Cell(**sizes | {"reduction_prev": False, "primitives": CANDIDATES} | settings).to(dtype)
    size = 16 if settings.get("reduction_prev") else 8
    s0, s1 = torch.randn(2, 6, size, size, dtype=dtype), torch.randn(2, 5, 8, 8, dtype=dtype)
    weights = torch.rand(len(made._ops), len(made._ops[0]._ops), dtype=dtype)
    return made, [t.requires_grad_() for t in (s0, s1, weights)]


def passed(made: Cell, inputs: list[Tensor], **options: bool) -> list[Tensor]:
    torch.manual_seed(2)
    out = made(*inputs)
    wanted = [*inputs, *made.parameters()]
    wanted = [t for t in wanted if t.numel()]
    return [out, *torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True, **options)]


@pytest.mark.parametrize("settings", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_cell_has_the_bits_of_calls_one_by_one(monkeypatch, settings, precision) -> None:
    calls = note_calls(monkeypatch, lambda fused: fused.stride)
    results = []
    for apart in (one_by_one(), nullcontext()):
        made, inputs = cell(**settings)
        with apart, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            results.append([*passed(made, inputs), *made.buffers()])
    assert len(calls) == 2 * (2 + 4)
    for ours, theirs in zip(*results, strict=True):
        assert (ours is theirs is None) or ours.equal(theirs)


def test_edge_weights_have_the_bits_of_calls_one_by_one() -> None:
    results = []
    for apart in (one_by_one(), nullcontext()):
        made, inputs = cell(C=8, partial=4)
        with apart:
            results.append(passed(made, [*inputs, torch.rand(len(made._ops)).requires_grad_()]))
    assert all(ours.equal(theirs) for ours, theirs in zip(*results, strict=True))


def test_a_chain_is_one_node_and_calls_one_by_one_are_many() -> None:
    nodes = []
    for apart in (one_by_one(), nullcontext()):
        made, inputs = cell()
        with apart:
            found, front = set(), [made(*inputs).grad_fn]
        while front:
            node = front.pop()
            if node is not None and node not in found:
                found.add(node)
                front += [following for following, _ in node.next_functions]
        nodes.append(sum("_Chain" in node.name() or "_MixedOp" in node.name() for node in found))
    assert nodes == [2 + 4, 1]


@pytest.mark.parametrize("settings", [{}, {"partial": 2}], ids=["all channels", "partial"])
def test_a_cell_can_be_differentiated_twice(settings) -> None:
    """Without the context that is for it, too; float64 against calls one by one, whose second derivatives are checked
    against finite differences elsewhere."""
    results = []
    for apart in (one_by_one(), nullcontext()):
        made, (s0, s1, weights) = cell(torch.float64, **settings)
        with apart:
            out = made(s0, s1, weights)
        first = torch.autograd.grad(out.square().sum(), [weights, s1], create_graph=True)
        wanted = [s0, weights, *(p for p in made.parameters() if p.numel())]
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), wanted))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_gradients_differentiated_again_are_those_at_the_statistics_of_the_pass() -> None:
    """In evaluation, whoever moves running statistics between forward and backward."""
    results = []
    for moved in (False, True):
        made, (s0, s1, weights) = cell(torch.float64)
        made(s0, s1, weights)  # which makes tables of the statistics
        out = made.eval()(s0, s1, weights)
        for buffer in made.buffers() if moved else ():
            buffer.add_(1)
        first = torch.autograd.grad(out.square().sum(), [weights, s1], create_graph=True)
        results.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), [s0, weights])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_only_what_is_asked_for_is_differentiated(monkeypatch) -> None:
    """Of a cell behind images that nobody differentiates: no gradients of weights, and none of its inputs."""
    asked, select = [], chain.select

    def noting(op, *args):
        run = select(op, *args)
        if op is not chain.backward_op:
            return run
        return lambda *given: asked.append((given[14], given[15])) or run(*given)

    monkeypatch.setattr(chain, "select", noting)
    made, (s0, s1, weights) = cell()
    mixing = weights.softmax(-1)
    out = made(s0.detach(), s1.detach(), mixing)
    torch.autograd.grad(out.sum(), [mixing])
    # backwards: the states of nodes, then those of the inputs, which no mixing weight reaches
    assert asked == [(True, False)] * 2 + [(False, False)] * 2


def network(memory: str = "store") -> Network:
    torch.manual_seed(1)
    return Network(4, 5, 3, torch.nn.CrossEntropyLoss(), steps=2, multiplier=2, memory=memory)


@pytest.mark.parametrize("memory", ["store", "checkpoint"])
def test_running_statistics_of_a_pass_move_at_once(memory) -> None:
    x, found = torch.randn(2, 3, 8, 8), []
    for apart in (one_by_one(), nullcontext()):
        model = network(memory)
        with apart, Dispatched() as ops:
            for _ in range(2):
                model(x).sum().backward()
        found.append([*model.buffers()])
        assert memory == "checkpoint" or (ops.calls["_foreach_lerp_"], ops.calls["_foreach_add_"]) == (2, 2)
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_a_layer_that_serves_twice_in_a_pass_moves_twice() -> None:
    made, (s0, s1, weights) = cell()
    other, inputs = cell()
    with one_pass():
        made(s0, s1, weights)
        made(s0, 2 * s1, weights)
    other(*inputs)
    other(inputs[0], 2 * inputs[1], inputs[2])
    assert all(a.equal(b) for a, b in zip(made.buffers(), other.buffers(), strict=True))
    assert {int(b) for b in made.buffers() if not b.dim()} == {2}


def test_statistics_stand_still_and_few_are_copied() -> None:
    model, x = network(), torch.randn(2, 3, 8, 8)
    with settled():
        model(x)
        before = [b.clone() for b in model.buffers()]
        with standing_still(model) as copies:
            torch.func.functional_call(model, copies, x)
    assert {name.partition(".")[0] for name in copies} == {"stem"}
    assert all(a.equal(b) for a, b in zip(before, model.buffers(), strict=True))
    with standing_still(model) as copies:  # anything may have changed, so that any layer may be called
        assert len(copies) == len(before)


def test_running_statistics_that_are_together_are_not_stacked() -> None:
    model, x = network(), torch.randn(2, 3, 8, 8)
    counts = []
    for trained in (True, False):
        if trained:
            model(x)
        else:
            model = copy.deepcopy(model)
        with Dispatched() as ops, torch.no_grad():
            out = model.eval()(x)
        counts.append((ops.calls["stack"] + ops.calls["cat"], out))
        model.train()
    (few, out), (many, copied) = counts
    assert few + 2 * 3 * (1 + 2) <= many and out.equal(copied)


def test_few_launches_are_around_those_of_the_mixed_operations() -> None:
    """Of a first-order step with eight cells: a row of a table or a mixing weight must not cost one."""
    config = resolve(SearchConfig(channels=4, layers=8, batch_size=2))
    step = SearchStep(config, ImageProblem.of_shape(10, 3, (8, 8)), torch.device("cpu"))
    batches = [(torch.randn(2, 3, 8, 8), torch.randint(10, (2,))) for _ in range(2)]
    step.step(*batches, Meter(), 0, 0)  # makes what is made once
    with Dispatched() as ops:
        step.step(*batches, Meter(), 0, 1)
    mixed = ops.calls.pop("mixed_op"), ops.calls.pop("mixed_op_backward")
    assert mixed == (8 * 7 * 2, 8 * 7 * 2 - 3)
    assert ops.calls.total() <= 300  # 1,100 when every call was a node of its own


def test_settled_modules_may_change_how_they_normalise() -> None:
    """Plans are looked at once, but batch statistics of a measurement are not those of a pass, and move nothing."""
    model, x = network(), torch.randn(2, 3, 8, 8)
    other, expected, found = copy.deepcopy(model), [], []
    for made, results, around in ((other, expected, nullcontext()), (model, found, settled())):
        with around:
            for _ in range(2):
                results.append(made(x))
                with batch_statistics(made), torch.no_grad():
                    results.append(made(x))
                with running_statistics(made), torch.no_grad():
                    results.append(made(x))
        results += made.buffers()
    assert all(a.equal(b) for a, b in zip(expected, found, strict=True))
