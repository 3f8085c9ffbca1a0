"""Candidates of weight 0: what is computed is what the plain modules compute where each of weight 0 is skipped."""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.functional import native
from fastdarts.nn.fusion import plan
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.spaces.cells.supernet import Cell, Network
from tests.support.fused import kinds, note_calls

pytestmark = pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")
NONE, MAX, AVG, SKIP, SEP3, SEP5, DIL3, DIL5 = range(8)
KINDS = {MAX: "max_pool", AVG: "avg_pool", SEP3: "sep_conv", SEP5: "sep_conv", DIL3: "dil_conv", DIL5: "dil_conv"}
ONE_HOT = [{k: 1.0} for k in range(8)]
OTHERS = [{}, {SEP3: 0.5, AVG: 0.5}, {SKIP: 2.0, DIL5: -1.0}, {SKIP: 0.5}]
ALL_BUT = [{k: 0.1 + 0.1 * k for k in range(8) if k != masked} for masked in (NONE, MAX, AVG, SKIP, SEP5, DIL3)]
MASKS = [*ONE_HOT, *OTHERS, *ALL_BUT]


def name(mask: dict[int, float]) -> str:
    return "weights of " + " ".join(map(str, mask)) if mask else "no weights"


def row(mask: dict[int, float], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([mask.get(k, 0.0) for k in range(8)], dtype=dtype)


def skipping(op: MixedOp, x: Tensor, weights: Tensor) -> Tensor:
    """The mixed operation in plain modules, which skips what has weight 0."""
    channels, stride = x.shape[1], op.stride
    some = x[:, : channels // op.k]
    outs = [w * plainly(o, some) for w, o in zip(weights, op._ops, strict=True) if w != 0]
    mixed = sum(outs) if outs else 0 * some[:, :, ::stride, ::stride]
    if op.k == 1:
        return mixed
    past = x[:, channels // op.k :]
    past = F.max_pool2d(past, 2, 2) if stride == 2 else past
    return F.channel_shuffle(torch.cat([mixed, past], 1), op.k)


def plainly(op: nn.Module, x: Tensor) -> Tensor:
    """A candidate layer by layer, as torch computes them."""
    if hasattr(op, "conv_1"):
        x = op.relu(x)
        return op.bn(torch.cat([op.conv_1(x), op.conv_2(x[:, :, 1:, 1:])], 1))
    layers = getattr(op, "op", op)
    return nn.Sequential.forward(layers, x) if isinstance(layers, nn.Sequential) else op(x)


class Left(NamedTuple):
    """What a pass gives and leaves behind."""

    out: Tensor
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]


def passed(module: nn.Module, forward: Callable[..., Tensor], inputs: Sequence[Tensor], *weights: Tensor) -> Left:
    inputs = [x.detach().requires_grad_() for x in inputs]
    module.zero_grad(set_to_none=True)
    out = forward(module, *inputs, *weights)
    out.backward(torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out))
    gradients = {str(n): x.grad for n, x in enumerate(inputs)}
    gradients |= {name: p.grad for name, p in module.named_parameters()}
    return Left(out.detach(), gradients, {name: b.clone() for name, b in module.named_buffers()})


def assert_same(ours: Left, plain: Left) -> None:
    torch.testing.assert_close(ours.out, plain.out, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.buffers, plain.buffers, rtol=1e-9, atol=1e-9)
    for name, expected in plain.gradients.items():
        assert (ours.gradients[name] is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(ours.gradients[name], expected, rtol=1e-7, atol=1e-9, msg=name)


def edge(stride: int = 1, **options: object) -> tuple[MixedOp, MixedOp, Tensor]:
    """A mixed operation, one in plain modules with the same numbers, and what both take."""
    torch.manual_seed(stride)
    op = MixedOp(8, stride, **options).double()
    return op, copy.deepcopy(op), torch.randn(3, 8, 6, 8, dtype=torch.float64)


def call(op: MixedOp, x: Tensor, weights: Tensor) -> Tensor:
    return op(x, weights)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("options", [{}, {"memory": "recompute"}, {"partial": 2}], ids=["stored", "again", "partial"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_mixed_op_computes_what_skipping_computes(stride: int, options: dict, training: bool) -> None:
    op, plain, x = edge(stride, **options)
    op.train(training), plain.train(training)
    for mask in (*MASKS, *MASKS[::-3]):
        assert_same(passed(op, call, [x], row(mask)), passed(plain, skipping, [x], row(mask)))


@pytest.mark.parametrize("mask", MASKS, ids=name)
def test_nothing_of_weight_zero_is_computed(mask: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    noted = note_calls(monkeypatch, kinds)
    op, _, x = edge()
    op(x, row(mask))
    kernels = [kind for call in noted for kind in call if kind != "skip"]
    assert kernels == [KINDS[k] for k in sorted(mask) if k in KINDS]


def test_plans_follow_masks_that_change_with_every_call() -> None:
    op, plain, x = edge()
    masks = [{k: 1.0 for k in range(8) if bits >> k & 1} for bits in range(1, 256, 7)]
    assert len(masks) > plan.KEPT
    for turn, mask in enumerate(masks * 2):
        op.train(turn % 3 > 0), plain.train(turn % 3 > 0)
        with torch.no_grad():
            torch.testing.assert_close(op(x, row(mask)), skipping(plain, x, row(mask)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dict(op.named_buffers()), dict(plain.named_buffers()), rtol=1e-9, atol=1e-9)


def test_the_gradient_of_a_weight_of_zero_needs_its_candidate() -> None:
    op, plain, x = edge()
    ours, theirs = row({SEP3: 1.0}).requires_grad_(), row({SEP3: 1.0}).requires_grad_()
    passed(op, call, [x], ours)
    passed(plain, lambda op, x, w: sum(v * plainly(o, x) for v, o in zip(w, op._ops, strict=True)), [x], theirs)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-8)
    assert (theirs.grad[MAX:] != 0).all()
    torch.testing.assert_close(dict(op.named_buffers()), dict(plain.named_buffers()), rtol=1e-9, atol=1e-9)
    with torch.no_grad():  # nobody asks for it
        before = op._ops[DIL3].op[-1].running_mean.clone()
        op(x, ours)
    assert torch.equal(op._ops[DIL3].op[-1].running_mean, before)


def test_lists_and_parameters_are_weights_too() -> None:
    op, plain, x = edge()
    for weights in ([0, 0, 0, 0, 0, 1, 0, 0], nn.Parameter(row({SEP5: 1.0}), requires_grad=False)):
        assert_same(passed(op, call, [x], weights), passed(plain, skipping, [x], row({SEP5: 1.0})))


def test_candidates_that_are_active_are_computed_at_weight_zero() -> None:
    op, _, x = edge()
    op.active = (SEP3, AVG)
    op(x, row({SEP3: 1.0}))
    counts = [op._ops[k].state_dict() for k in (AVG, SEP3, MAX)]
    assert [next(v for key, v in c.items() if "num_batches" in key).item() for c in counts] == [1, 1, 0]


def test_custom_candidates_and_hooks_of_weight_zero_are_not_called() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            called.append("own")
            return 3 * x

    called: list[str] = []
    op = MixedOp(4, 1, ["sep_conv_3x3", "max_pool_3x3", Own()])
    op._ops[1].register_forward_hook(lambda *_: called.append("hook"))
    x = torch.randn(2, 4, 6, 6)
    op(x, torch.tensor([1.0, 0.0, 0.0]))
    assert not called
    torch.testing.assert_close(op(x, torch.tensor([0.0, 0.0, 2.0])), 6 * x)
    op(x, torch.tensor([0.0, 1.0, 0.0]))
    assert called == ["own", "hook"]


def test_noise_of_weight_zero_is_not_drawn() -> None:
    op, x = MixedOp(4, 1, ["noise", "sep_conv_3x3"]), torch.randn(2, 4, 6, 6)
    before = torch.get_rng_state()
    op(x, torch.tensor([0.0, 1.0]))
    assert torch.equal(torch.get_rng_state(), before)
    op(x, torch.tensor([0.5, 0.5]))
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mask", MASKS, ids=name)
def test_autocast_gives_its_type_whatever_is_masked(mask: dict[int, float]) -> None:
    op, plain, x = edge()
    op, x = op.float(), x.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = op(x, row(mask, torch.float32))
    assert out.dtype is torch.bfloat16
    out.float().sum().backward()
    expected = skipping(plain, x.detach().double(), row(mask))
    assert (out - expected).norm() <= 0.02 * expected.norm() + 1e-9
    assert all(p.grad is None for k, o in enumerate(op._ops) if k not in mask for p in o.parameters())


@pytest.mark.parametrize("reduction", [False, True], ids=["normal", "reduction"])
@pytest.mark.parametrize("options", [{}, {"memory": "recompute"}, {"partial": 2}], ids=["stored", "again", "partial"])
def test_a_cell_computes_what_skipping_computes(reduction: bool, options: dict) -> None:
    torch.manual_seed(0)
    cell = Cell(3, 3, 6, 8, 8, reduction, False, **options).double()
    plain, inputs = copy.deepcopy(cell), [torch.randn(2, c, 8, 8, dtype=torch.float64) for c in (6, 8)]
    draw = torch.Generator().manual_seed(3)
    one_hot = F.one_hot(torch.randint(1, 8, (9,), generator=draw), 8).double()
    derived = one_hot * torch.tensor([1, 1, 0, 1, 1, 1, 0, 0, 1])[:, None]  # edges without candidates, as when derived
    begins = one_hot * torch.tensor([0, 0, 0, 1, 0, 1, 1, 0, 1])[:, None]  # a node that nothing reaches
    half = torch.rand(9, 8, generator=draw).double().relu() * (torch.rand(9, 8, generator=draw) > 0.5)
    for weights in (one_hot, derived, half, begins, derived):
        assert_same(
            passed(cell, lambda c, *args: c(*args), inputs, weights), passed(plain, skipping_cell, inputs, weights)
        )
    nothing = passed(cell, lambda c, *args: c(*args), inputs, torch.zeros(9, 8).double())
    candidates = [value for name, value in nothing.gradients.items() if name.startswith("_ops")]
    assert candidates == [None] * len(candidates)
    assert options.get("partial") or not nothing.out.any()


def skipping_cell(cell: Cell, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
    states = [plainly(cell.preprocess0, s0), plainly(cell.preprocess1, s1)]
    edges = iter(zip(cell._ops, weights, strict=True))
    for _ in range(cell._steps):
        into = zip(tuple(states), edges, strict=False)
        states.append(sum(skipping(op, x, own) for x, (op, own) in into))
    return torch.cat(states[-cell._multiplier :], 1)


def test_a_network_that_is_computed_again_leaves_out_the_same() -> None:
    left = []
    for memory in ("store", "checkpoint"):
        torch.manual_seed(0)
        model = Network(4, 10, 3, nn.CrossEntropyLoss(), 2, 2, memory=memory).double()
        tables = [F.one_hot(torch.randint(1, 8, (5,)), 8).double() for _ in model.cells]
        with model.with_cell_weights(tables):
            left.append(passed(model, lambda net, x: net(x), [torch.randn(2, 3, 8, 8).double()]))
    assert_same(*left)
    assert [value for name, value in left[0].gradients.items() if "_ops" in name].count(None) > 100
