"""What the fused path takes apart and what it leaves alone: cells and networks against eager twins."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cases import CONTIGUOUS, LAST
from fastdarts import FastdartsError
from fastdarts.bench.eager import make_eager
from fastdarts.functional import native
from fastdarts.kernels import registry
from fastdarts.nn.fusion.recognise import may_draw
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import Noise, SepConv
from fastdarts.spaces import nasbench201
from fastdarts.spaces.cells import network as model
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.network import NetworkCIFAR
from fastdarts.spaces.cells.supernet import Cell, Network, leave
from tests.support.fused import kinds, note_calls

pytestmark = pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")

CONVOLUTIONS = ("sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "dil_conv_3x3", "dil_conv_5x5")
KINDS = ["sep_conv"] * 3 + ["dil_conv"] * 2


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The kinds of candidates of every fused call."""
    return note_calls(monkeypatch, kinds)


def compare(ours: nn.Module, eager: nn.Module, *inputs: torch.Tensor) -> None:
    """Outputs, gradients of inputs and parameters, and buffers, after two passes that leave different statistics."""
    for scale in (1.0, 0.5):
        leaves = [[(scale * i).detach().requires_grad_() for i in inputs] for _ in range(2)]
        outs = [module(*own) for module, own in zip((ours, eager), leaves, strict=True)]
        torch.testing.assert_close(*outs, rtol=1e-9, atol=1e-10)
        grad = torch.randn_like(outs[1])
        gradients = [
            torch.autograd.grad(out, (*own, *module.parameters()), grad, allow_unused=True)
            for module, own, out in zip((ours, eager), leaves, outs, strict=True)
        ]
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)
        for mine, theirs in zip(ours.buffers(), eager.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def simplex(*shape: int) -> torch.Tensor:
    return torch.softmax(torch.randn(*shape, dtype=torch.float64), -1)


@pytest.mark.parametrize("memory_format", [CONTIGUOUS, LAST], ids=["nchw", "last"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_mixed_operation_is_one_op_and_equals_the_public_one(stride: int, memory_format, calls) -> None:
    op = MixedOp(6, stride, (*CONVOLUTIONS, "none", "max_pool_3x3", "skip_connect", "conv_7x1_1x7")).double()
    x = torch.randn(3, 6, 9, 8, dtype=torch.float64).to(memory_format=memory_format)
    compare(op, make_eager(copy.deepcopy(op)), x, simplex(9))
    assert calls == [[*KINDS, "max_pool", "skip" if stride == 1 else "factorized_reduce"]] * 2
    assert op(x, simplex(9)).is_contiguous(memory_format=memory_format)


class Scaled(nn.Module):
    """A custom candidate with a parameter."""

    def __init__(self, C: int, stride: int, affine: bool):
        super().__init__()
        self.stride, self.scale = stride, nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride] * self.scale


class Flat(nn.Module):
    """A custom candidate that is impossible in channels-last."""

    def forward(self, x):
        return x.view(-1).view(x.shape)


PER_EDGE = [["skip_connect", "sep_conv_3x3"], ["none", "none"], ["max_pool_3x3", "dil_conv_3x3"], [Scaled, "none"]]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("reduction", [False, True], ids=["normal", "reduction"])
@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize(
    "primitives",
    [
        ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5"],
        ["skip_connect", Scaled, "conv_7x1_1x7", "sep_conv_5x5"],
        [Scaled, "conv_7x1_1x7"],
        (PER_EDGE * 3)[:9],
    ],
    ids=["published", "custom", "unknown", "per-edge"],
)
def test_a_cell_equals_the_public_one(primitives: list, memory: str, reduction: bool, training: bool) -> None:
    cell = Cell(3, 2, 6, 5, 4, reduction, True, primitives, memory=memory).double()
    assert all(edge.memory == memory for edge in cell._ops)
    s0, s1 = torch.randn(2, 6, 16, 14, dtype=torch.float64), torch.randn(2, 5, 8, 7, dtype=torch.float64)
    eager = make_eager(copy.deepcopy(cell))
    compare(cell, eager, s0, s1, simplex(9, len(cell._ops[0]._ops)))
    cell.train(training), eager.train(training)
    compare(cell, eager, s0.to(memory_format=LAST), s1.to(memory_format=LAST), simplex(9, len(cell._ops[0]._ops)))


def test_a_cell_is_one_call_per_state_and_one_per_preprocessing(calls) -> None:
    cell = Cell(4, 4, 6, 5, 4, False, False, ["none", "skip_connect", "sep_conv_3x3"])
    cell(torch.randn(2, 6, 8, 8), torch.randn(2, 5, 8, 8), torch.rand(14, 3))
    edge = ["skip", "sep_conv"]
    assert calls == [["relu_conv"]] * 2 + [edge * 4, edge * 4, edge * 3, edge * 2, edge]


@pytest.mark.parametrize("how", ["hook", "subclass"])
def test_an_edge_that_is_not_plain_is_called(how: str, calls) -> None:
    seen = []
    cell = Cell(2, 2, 4, 4, 4, False, False, ["skip_connect", "sep_conv_3x3"])
    if how == "hook":
        cell._ops[2].register_forward_hook(lambda *_: seen.append(1))
    else:
        forward = {"forward": lambda *args: seen.append(1) or MixedOp.forward(*args)}
        cell._ops[2].__class__ = type("Mine", (MixedOp,), forward)
    inputs = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.rand(5, 2)
    out = cell(*inputs)
    assert seen == [1] and [len(call) for call in calls[2:]] == [2, 2, 4, 2]  # the first state's edges one by one
    torch.testing.assert_close(out, make_eager(cell)(*inputs), rtol=1e-4, atol=1e-4)


def randomise(module: nn.Module) -> None:
    """Affine parameters and running statistics that differ from one BatchNorm to the next."""
    with torch.no_grad():
        for bn in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
            for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
                if tensor is not None:
                    tensor.copy_(torch.rand(tensor.shape) + 0.5)


def test_batchnorms_of_their_own_momentum_and_affine_parameters_in_a_mixed_operation() -> None:
    op = MixedOp(4, 1, [*CONVOLUTIONS, "skip_connect", "max_pool_3x3"]).double()
    op._ops[0] = SepConv(4, 4, 3, 1, 1, affine=True).double()
    op._ops[6][1] = nn.BatchNorm2d(4, momentum=None).double()
    op._ops[3].op[3].momentum = 0.7
    op._ops[4].op[3].track_running_stats = False  # not plain any more: it runs by itself
    op._ops[1].op[3].eps = 0.1
    randomise(op)
    compare(op, make_eager(copy.deepcopy(op)), torch.randn(2, 4, 6, 5, dtype=torch.float64), simplex(7))


GENOTYPE = Genotype(
    normal=[("sep_conv_3x3", 0), ("dil_conv_5x5", 1), ("skip_connect", 0), ("conv_7x1_1x7", 2)],
    normal_concat=[2, 3],
    reduce=[("max_pool_3x3", 0), ("sep_conv_5x5", 1), ("skip_connect", 1), ("avg_pool_3x3", 2)],
    reduce_concat=[2, 3],
)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_an_evaluation_network_equals_the_public_one(training: bool, calls, monkeypatch) -> None:
    network = NetworkCIFAR(4, 10, 3, False, GENOTYPE).double().train(training)
    randomise(network)
    eager = copy.deepcopy(network)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    ours = network(x)[0]
    assert {kind for call in calls for kind in call} == {"relu_conv", "sep_conv", "dil_conv", "factorized_reduce"}
    monkeypatch.setattr(model, "run", lambda module, x: module(x))
    truth = eager(x)[0]
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-10)
    grad = torch.randn_like(truth)
    pairs = [torch.autograd.grad(o, [*n.parameters()], grad) for o, n in ((ours, network), (truth, eager))]
    torch.testing.assert_close(*pairs, rtol=1e-8, atol=1e-9)
    for mine, theirs in zip(network.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_a_network_carries_the_memory_option_and_its_twin_has_it_too() -> None:
    network = Network(4, 10, 2, nn.CrossEntropyLoss(), 1, 1, memory="recompute")
    for twin in (network, network.new()):
        assert {m.memory for m in twin.modules() if isinstance(m, (Cell, MixedOp))} == {"recompute"}
    with pytest.raises(FastdartsError, match="memory='disk': expected one of store, recompute"):
        Network(4, 10, 2, nn.CrossEntropyLoss(), 1, 1, memory="disk")


@pytest.mark.parametrize("inside", [0, 1, 2])
@pytest.mark.parametrize("how", ["hook", "pre-hook", "patched", "subclass", "bias"])
def test_whoever_watches_or_changes_a_module_inside_sees_it_called(inside: int, how: str, calls) -> None:
    op = MixedOp(4, 1, ("dil_conv_3x3",))
    layers, seen = op._ops[0].op, []
    layer = layers[inside]
    if how == "hook":
        layer.register_forward_hook(lambda *_: seen.append(1))
    elif how == "pre-hook":
        layer.register_forward_pre_hook(lambda *_: seen.append(1))
    elif how == "patched":
        forward = layer.forward
        layer.forward = lambda x: seen.append(1) or forward(x)
    elif how == "subclass":
        kind = type(layer)
        layer.__class__ = type("Mine", (kind,), {"forward": lambda self, x: seen.append(1) or kind.forward(self, x)})
    elif inside:
        layer.bias = nn.Parameter(torch.ones(4))
        seen.append(1)
    else:
        layer.inplace = True
        seen.append(1)
    x = torch.randn(2, 4, 5, 5)
    out = op(x.clone(), torch.ones(1))
    assert seen == [1] and not calls
    torch.testing.assert_close(out, make_eager(op)(x.clone(), torch.ones(1)))


def test_a_hook_on_all_modules_sees_and_changes_what_it_would_in_the_public_code(calls) -> None:
    op = MixedOp(4, 1, ("dil_conv_3x3", "max_pool_3x3", "none", "sep_conv_3x3"))
    x, weights, eager, seen = torch.randn(2, 4, 5, 5), torch.rand(4), make_eager(copy.deepcopy(op)), []

    def double(module: nn.Module, _: tuple, out: torch.Tensor) -> torch.Tensor | None:
        seen.append(type(module))
        return 2 * out if isinstance(module, nn.BatchNorm2d) else None

    hook = nn.modules.module.register_module_forward_hook(double)
    try:
        outs, orders = [], []
        for module in (op, eager):
            outs.append(module(x, weights))
            orders.append([kind for kind in seen if "MixedOp" not in kind.__name__])
            seen.clear()
    finally:
        hook.remove()
    assert orders[0] == orders[1] and not calls
    torch.testing.assert_close(*outs)
    op(x, weights)
    assert len(calls) == 1


def test_affine_parameters_given_to_a_batchnorm_that_was_made_without(calls) -> None:
    op = MixedOp(4, 1, ("dil_conv_3x3", "dil_conv_5x5")).double()
    op._ops[1].op[3].eps = 1e-3  # this candidate is called
    for candidate in op._ops:
        candidate.op[3].weight = nn.Parameter(torch.full((4,), 3.0, dtype=torch.float64))
        candidate.op[3].bias = nn.Parameter(torch.ones(4, dtype=torch.float64))
    compare(op, make_eager(copy.deepcopy(op)), torch.randn(2, 4, 6, 5, dtype=torch.float64), simplex(2))
    assert calls == [["dil_conv"]] * 2


def test_parameters_and_buffers_registered_anew_in_another_order_are_fused(calls) -> None:
    op = MixedOp(4, 1, ("dil_conv_3x3",)).double()
    prune.remove(prune.random_unstructured(op._ops[0].op[2], "weight", 0.5), "weight")
    bn = op._ops[0].op[3]
    bn._buffers["running_mean"] = bn._buffers.pop("running_mean")  # now the last
    assert next(iter(op._ops[0].op[2]._parameters)) == "bias" and next(iter(bn._buffers)) == "running_var"
    compare(op, make_eager(copy.deepcopy(op)), torch.randn(2, 4, 6, 5, dtype=torch.float64), simplex(1))
    assert len(calls) == 2


class Normalised(nn.Module):
    """A custom candidate that keeps its BatchNorm's buffers for its backward."""

    def __init__(self, bn: nn.BatchNorm2d):
        super().__init__()
        self.bn = bn

    def forward(self, x):
        return self.bn(x * x)


def test_a_batchnorm_shared_with_a_candidate_that_is_called(calls) -> None:
    op = MixedOp(4, 1, ("skip_connect", "dil_conv_3x3")).double()
    op._ops[0] = Normalised(op._ops[1].op[3])
    compare(op, make_eager(copy.deepcopy(op)), torch.randn(2, 4, 6, 5, dtype=torch.float64), simplex(2))
    assert len(calls) == 2


def test_batchnorms_that_share_their_buffers_only(calls) -> None:
    op = MixedOp(4, 1, ("dil_conv_3x3", "dil_conv_5x5")).double()
    first, second = (candidate.op[3] for candidate in op._ops)
    first.momentum = second.momentum = None
    second._buffers.update(first._buffers)
    compare(op, make_eager(copy.deepcopy(op)), torch.randn(2, 4, 6, 5, dtype=torch.float64), simplex(2))
    assert len(calls) == 2 and first.num_batches_tracked == 4


def test_a_layer_whose_weight_is_no_parameter_any_more_is_called(calls) -> None:
    op, x = MixedOp(4, 1, ("dil_conv_3x3",)), torch.randn(2, 4, 5, 5)
    pointwise = op._ops[0].op[2]
    weight = pointwise._parameters.pop("weight")
    pointwise.weight = 2 * weight.detach()  # as functional code does
    torch.testing.assert_close(op(x, torch.ones(1)), make_eager(op)(x, torch.ones(1)))
    assert not calls


@pytest.mark.parametrize("momentum", [0.3, None], ids=["exponential", "cumulative"])
def test_one_batchnorm_behind_two_candidates_moves_twice(momentum: float | None, calls) -> None:
    op = MixedOp(4, 1, ("dil_conv_3x3", "sep_conv_3x3", "dil_conv_5x5")).double()
    op._ops[0].op[3].momentum = momentum
    op._ops[2].op[3] = op._ops[0].op[3]
    compare(op, make_eager(copy.deepcopy(op)), torch.randn(3, 4, 6, 5, dtype=torch.float64), simplex(3))
    assert len(calls) == 2 and op._ops[0].op[3].num_batches_tracked == 4


def test_modules_pickled_before_they_had_a_memory_option_store() -> None:
    network = Network(4, 10, 2, nn.CrossEntropyLoss(), 1, 1)
    for module in network.modules():
        module.__dict__.pop("memory", None), module.__dict__.pop("_memory", None)
    restored = pickle.loads(pickle.dumps(network))
    assert restored(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert {m.memory for m in restored.new().modules() if isinstance(m, (Cell, MixedOp))} == {"store"}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_functional_transforms_of_an_evaluation_network(training: bool, calls) -> None:
    network = NetworkCIFAR(4, 10, 3, False, GENOTYPE).double().train(training)
    names, parameters = zip(*network.named_parameters(), strict=True)
    x, grad = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.randn(2, 10, dtype=torch.float64)

    def loss(values):
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        named = dict(zip(names, values, strict=True))
        return (torch.func.functional_call(network, named | buffers, (x,))[0] * grad).sum()

    reverse = torch.autograd.grad(loss(parameters), parameters)
    assert calls
    calls.clear()
    values = tuple(p.detach() for p in parameters)
    torch.testing.assert_close(torch.func.grad(loss)(values), reverse, rtol=1e-8, atol=1e-9)
    tangents = tuple(map(torch.randn_like, values))
    slope = sum((g * t).sum() for g, t in zip(reverse, tangents, strict=True))
    torch.testing.assert_close(torch.func.jvp(loss, (values,), (tangents,))[1], slope, rtol=1e-8, atol=1e-9)
    with forward_ad.dual_level():
        dual = tuple(map(forward_ad.make_dual, values, tangents))
        torch.testing.assert_close(forward_ad.unpack_dual(loss(dual)).tangent, slope, rtol=1e-8, atol=1e-9)
    assert not calls


@pytest.mark.parametrize("change", [{"padding": 0}, {"padding_mode": "circular"}, {"groups": 2}, {"stride": (1, 2)}])
def test_other_convolutions_run_as_they_are(change: dict, calls) -> None:
    options = {"padding": 1, "groups": 4, "bias": False} | change
    body = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, **options), nn.Conv2d(4, 4, 1, bias=False))
    op = MixedOp(4, 1, (nn.Sequential(*body, nn.BatchNorm2d(4, affine=False)),))
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(op(x, torch.ones(1)), make_eager(op)(x, torch.ones(1)))
    assert not calls


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3, 1, 1, ceil_mode=True), nn.MaxPool2d(5, 1, 2), nn.MaxPool2d(3, 3, 1), nn.AvgPool2d(3, 1, 1)]
)
def test_other_pools_run_as_they_are(pool: nn.Module, calls) -> None:
    op, x = MixedOp(4, 1, (nn.Sequential(pool, nn.BatchNorm2d(4, affine=False)),)), torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(op(x, torch.ones(1)), make_eager(op)(x, torch.ones(1)))
    assert not calls


def test_where_the_native_kernel_cannot_run_the_modules_do(calls, monkeypatch: pytest.MonkeyPatch) -> None:
    op, x = MixedOp(4, 1, ("sep_conv_3x3", "max_pool_3x3")), torch.randn(2, 4, 6, 6)
    with pytest.raises(RuntimeError, match="expected input"):  # PyTorch's own message
        op(torch.randn(2, 5, 6, 6), torch.ones(2))
    monkeypatch.setitem(registry.MISSING, "native", "no compiler")
    op(x, torch.ones(2))
    assert not calls


@pytest.mark.parametrize("memory_format", [CONTIGUOUS, LAST], ids=["nchw", "last"])
def test_a_custom_candidate_may_call_view(memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 4, 5, 5).to(memory_format=memory_format)
    candidates = ["sep_conv_3x3", Flat(), nn.Sequential(Flat(), nn.BatchNorm2d(4, affine=False))]
    MixedOp(4, 1, candidates)(x, torch.ones(3))
    Cell(2, 2, 4, 4, 4, False, False, candidates)(x, x, torch.rand(5, 3))


class Counted(TorchDispatchMode):
    """How often each of PyTorch's own operators runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def convolution() -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, affine=False))


def squared() -> nn.Module:
    """Changes in place what its pool gives."""
    return nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(4, affine=False))


def test_what_candidates_of_several_edges_begin_with_is_computed_once(calls) -> None:
    pools = [nn.AvgPool2d(3, 1, 1, count_include_pad=pads) for pads in (False, False, True)]
    edges = [[convolution(), pools[0], "skip_connect"], [convolution(), pools[1], pools[2]]]
    cell = Cell(1, 1, 4, 4, 4, False, False, [[*edge, squared()] for edge in edges]).double()
    x, weights = torch.randn(2, 4, 6, 6, dtype=torch.float64), simplex(2, 4)
    state, rows = cell.preprocess0(x).contiguous(memory_format=LAST), [0, 1]
    with Counted() as counted:
        outs = leave(cell._ops, state, rows, weights, None, [], "store")
    # Both edges share a ReLU, and one of two pools; what is changed in place afterwards is everybody's own.
    assert (counted.calls["relu"] + counted.calls["clamp_min"], counted.calls["avg_pool2d"]) == (1, 4)
    for edge, own, out in zip(make_eager(copy.deepcopy(cell))._ops, weights, outs, strict=True):
        torch.testing.assert_close(out, edge(state, own), rtol=1e-9, atol=1e-10)
    compare(cell, make_eager(copy.deepcopy(cell)), x, x.flip(0), weights)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_that_somebody_watches_gets_an_input_and_an_output_of_its_own(layer: int, calls) -> None:
    """Two pools before convolutions; one pool, or its convolution, has a hook that changes what it gets or gives."""

    def candidate() -> nn.Module:
        convolution = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        return nn.Sequential(nn.AvgPool2d(3, 1, 1), convolution, nn.BatchNorm2d(4, affine=False))

    cell = Cell(1, 1, 4, 4, 4, False, False, [[candidate(), "skip_connect"], [candidate(), "skip_connect"]]).double()
    eager = make_eager(copy.deepcopy(cell))
    for own in (cell, eager):
        if layer == 0:
            own._ops[0]._ops[0][0].register_forward_hook(lambda layer, inputs, out: out.mul_(2))
        else:
            own._ops[0]._ops[0][1].register_forward_pre_hook(lambda layer, inputs: (inputs[0].mul_(2),))
    x, weights = torch.randn(2, 4, 6, 6, dtype=torch.float64), simplex(2, 2)
    state = x.contiguous(memory_format=LAST)
    outs = leave(cell._ops, state, [0, 1], weights, None, [], "store")
    for edge, own, out in zip(eager._ops, weights, outs, strict=True):
        torch.testing.assert_close(out, edge(state, own), rtol=1e-9, atol=1e-10)
    compare(cell, eager, x, x.flip(0), weights)


def test_settings_of_a_pool_may_be_lists_and_its_attributes_anything(calls) -> None:
    pools = [nn.AvgPool2d([3, 3], 1, [1, 1]), nn.Sequential(nn.MaxPool2d([3, 3], 1, 1), *convolution()[1:])]
    op = MixedOp(4, 1, [*pools, "skip_connect"]).double()
    op._ops[0].note = {"of": ["mine"]}
    compare(op, make_eager(copy.deepcopy(op)), torch.randn(2, 4, 6, 6, dtype=torch.float64), simplex(3))


def test_what_may_draw_in_evaluation() -> None:
    assert not any(map(may_draw, (convolution(), nn.Dropout(), nn.AvgPool2d(3), *Cell(2, 2, 4, 4, 4, 0, 0)._ops)))
    assert all(map(may_draw, (Noise(1), nn.Sequential(nn.FractionalMaxPool2d(2, 2)), Flat())))
    pool = nn.AvgPool2d(3)
    pool.register_forward_hook(lambda *_: None)
    assert may_draw(nn.Sequential(pool))


def test_the_cell_of_nasbench201_is_one_call_per_state(calls) -> None:
    cell = nasbench201.SearchCell(4).double()
    x, weights = torch.randn(2, 4, 6, 6, dtype=torch.float64), simplex(6, 5)
    with Counted() as counted:
        cell(x, weights)
    assert calls == [["skip", "relu_conv"] * edges for edges in (3, 2, 1)]
    assert (counted.calls["relu"] + counted.calls["clamp_min"], counted.calls["avg_pool2d"]) == (3, 3)
    compare(cell, make_eager(copy.deepcopy(cell)), x, weights)
    assert cell(x, weights).is_contiguous() and cell(x.contiguous(memory_format=LAST), weights).is_contiguous(
        memory_format=LAST
    )
