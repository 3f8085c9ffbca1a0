"""Plans of fused calls: whatever a call depends on is changed between two calls, and the second is that of a model
without a plan."""

import copy
import gc
import itertools
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from fastdarts.functional import native
from fastdarts.kernels.unchanged import _unchanged, unchanged
from fastdarts.nn.fusion import plan
from fastdarts.nn.fusion.kinks import Kinks
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.optim import SGD
from fastdarts.spaces.cells.named import DARTS_V2
from fastdarts.spaces.cells.network import NetworkCIFAR
from fastdarts.spaces.cells.supernet import Network
from tests.support.fused import note_calls

pytestmark = pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")
SEP, DIL, SKIP, MAX, AVG = "sep_conv_3x3", "dil_conv_5x5", "skip_connect", "max_pool_3x3", "avg_pool_3x3"
CANDIDATES = ("none", MAX, AVG, SKIP, SEP, DIL)


class Half(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 0.5 * weight


class Own(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * x


def edge() -> MixedOp:
    torch.manual_seed(1)
    return MixedOp(4, 1, CANDIDATES)


def layers(model: nn.Module, kind: type) -> list[nn.Module]:
    return [m for m in model.modules() if type(m) is kind]


def set_all(kind: type, **attributes: object) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for layer in layers(model, kind):
            vars(layer).update(attributes)

    return change


def hook(model: nn.Module) -> None:
    layers(model, nn.Conv2d)[1].register_forward_hook(lambda module, args, out: 2 * out)


def pre_hook(model: nn.Module) -> None:
    layers(model, nn.ReLU)[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def hook_in_a_new_dict(model: nn.Module) -> None:
    bn = layers(model, nn.BatchNorm2d)[0]
    bn._forward_hooks = type(bn._forward_hooks)()
    bn.register_forward_hook(lambda module, args, out: 2 * out)


def other_layer(model: nn.Module) -> None:
    sequence = next(m for m in model.modules() if type(m) is nn.Sequential and len(m) == 8)
    sequence[1] = nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False).requires_grad_(True)
    nn.init.constant_(sequence[1].weight, 0.1)


def another_layer_after(model: nn.Module) -> None:
    next(m for m in model.modules() if type(m) is nn.Sequential and len(m) == 8).append(nn.Tanh())


def other_candidate(model: nn.Module) -> None:
    for op in (m for m in model.modules() if type(m) is MixedOp and m.stride == 1):
        op._ops[3] = Own()


def other_edge(model: nn.Module) -> None:
    for cell in (m for m in model.modules() if hasattr(m, "preprocess0")):
        cell._ops[4] = MixedOp(cell.channels, 1, CANDIDATES, partial=cell._ops[4].k)


def other_weights(model: nn.Module) -> None:
    for conv in layers(model, nn.Conv2d):
        conv.weight = nn.Parameter(conv.weight.detach() + 0.1)


def other_data(model: nn.Module) -> None:
    for conv in layers(model, nn.Conv2d):
        conv.weight.data = conv.weight.data * 2


def bias(model: nn.Module) -> None:
    conv = layers(model, nn.Conv2d)[0]
    conv.bias = nn.Parameter(torch.ones(conv.out_channels))


def affine(model: nn.Module) -> None:
    for bn in layers(model, nn.BatchNorm2d):
        bn.weight = nn.Parameter(torch.full((bn.num_features,), 2.0))
        bn.bias = nn.Parameter(torch.ones(bn.num_features))


def parametrised(model: nn.Module) -> None:
    parametrize.register_parametrization(layers(model, nn.Conv2d)[0], "weight", Half())


def other_buffers(model: nn.Module) -> None:
    for bn in layers(model, nn.BatchNorm2d):
        bn.running_mean = torch.full_like(bn.running_mean, 0.5)


def forward_of_the_object(model: nn.Module) -> None:
    bn = layers(model, nn.BatchNorm2d)[0]
    bn.forward = lambda x: 5 * x


def class_of_a_layer(model: nn.Module) -> None:
    class Loud(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 7 * super().forward(x)

    layers(model, nn.BatchNorm2d)[0].__class__ = Loud


def some_active(model: nn.Module) -> None:
    for op in (m for m in model.modules() if type(m) is MixedOp):
        op.active = (3, 4)


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "nothing": lambda model: None,
    "eval": lambda model: model.eval(),
    "one layer in eval mode": lambda model: layers(model, nn.BatchNorm2d)[0].eval(),
    "momentum": set_all(nn.BatchNorm2d, momentum=0.7),
    "cumulative averages": set_all(nn.BatchNorm2d, momentum=None),
    "no tracking": set_all(nn.BatchNorm2d, track_running_stats=False),
    "eps": set_all(nn.BatchNorm2d, eps=0.1),
    "dilation": lambda model: vars(layers(model, nn.Conv2d)[4]).update(dilation=(1, 1), padding=(2, 2)),
    "float64": lambda model: model.double(),
    "statistics": other_buffers,
    **{
        function.__name__.replace("_", " "): function
        for function in (
            hook, pre_hook, hook_in_a_new_dict, other_layer, another_layer_after, other_candidate, other_weights,
            other_data, other_edge, bias, affine, parametrised, forward_of_the_object, class_of_a_layer, some_active,
        )
    },
}  # fmt: skip


def same(one: nn.Module, other: nn.Module, x: torch.Tensor, *rest: torch.Tensor, passes: int = 2) -> None:
    """Outputs, gradients, and whatever the state dict holds after the passes, bit for bit."""
    dtype = next(one.parameters()).dtype
    for _ in range(passes):
        found = []
        for model in (one, other):
            leaf = x.to(dtype).detach().requires_grad_()
            wanted = [leaf, *(p for p in model.parameters() if p.requires_grad)]
            out = model(leaf, *(t.to(dtype) for t in rest))
            gradients = torch.autograd.grad(out.square().sum(), wanted, allow_unused=True)
            found.append([out, *(torch.zeros(1) if g is None else g for g in gradients)])
        for mine, theirs in zip(*found, strict=True):
            assert torch.equal(mine, theirs)
    for (name, mine), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("change", CHANGES)
def test_a_mixed_op_follows_what_is_changed_between_two_calls(change: str) -> None:
    x, weights = torch.randn(3, 4, 6, 6), torch.randn(len(CANDIDATES)).softmax(0)
    if change == "some active":
        weights[[0, 1, 2, 5]] = 0
    planned = edge()
    planned(x, weights), planned(x, weights)
    fresh = edge()
    fresh.load_state_dict(planned.state_dict())
    for model in (planned, fresh):
        torch.manual_seed(2)
        CHANGES[change](model)
    same(planned, fresh, x, weights)


class Whole(nn.Module):
    """A network of two cells as a module of an image."""

    def __init__(self, partial: int):
        super().__init__()
        torch.manual_seed(3)
        options = {"partial": partial, "edge_normalisation": partial > 1, "primitives": CANDIDATES}
        self.network = Network(4, 10, 2, nn.CrossEntropyLoss(), steps=2, multiplier=2, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("change", [name for name in CHANGES if name not in ("dilation", "other layer", "bias")])
def test_a_network_follows_what_is_changed_between_two_calls(change: str, partial: int) -> None:
    x = torch.randn(2, 3, 8, 8)
    planned = Whole(partial)
    planned(x), planned(x)
    fresh = Whole(partial)
    fresh.load_state_dict(planned.state_dict())
    for model in (planned, fresh):
        torch.manual_seed(2)
        CHANGES[change](model)
    same(planned, fresh, x, passes=1)


@pytest.mark.parametrize("change", ["nothing", "eval", "momentum", "hook", "other weights", "statistics", "float64"])
def test_an_evaluation_network_follows_what_is_changed(change: str) -> None:
    def network() -> nn.Module:
        torch.manual_seed(4)
        return nn.Sequential(NetworkCIFAR(4, 10, 3, False, DARTS_V2), First())

    x = torch.randn(2, 3, 8, 8)
    planned = network()
    planned(x), planned(x)
    fresh = network()
    fresh.load_state_dict(planned.state_dict())
    for model in (planned, fresh):
        CHANGES[change](model)
    same(planned, fresh, x)


class First(nn.Module):
    def forward(self, pair: tuple[torch.Tensor, None]) -> torch.Tensor:
        return pair[0]


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_twin_has_statistics_and_plans_of_its_own(twin: Callable[[nn.Module], nn.Module]) -> None:
    planned, x, weights = edge(), torch.randn(3, 4, 6, 6), torch.full((len(CANDIDATES),), 0.2)
    planned(x, weights)
    before = {name: value.clone() for name, value in planned.state_dict().items()}
    other, fresh = twin(planned), edge()
    fresh.load_state_dict(before)
    same(other, fresh, x, weights)
    assert all(torch.equal(value, before[name]) for name, value in planned.state_dict().items())
    planned(x, weights)
    assert layers(planned, nn.BatchNorm2d)[0].num_batches_tracked == 2


def test_weights_of_a_functional_call_are_those_that_are_read() -> None:
    planned, x, weights = edge(), torch.randn(3, 4, 6, 6), torch.full((len(CANDIDATES),), 0.2)
    planned(x, weights)
    before = {name: value.clone() for name, value in planned.state_dict().items()}
    others = {name: (p.detach() + 0.3).requires_grad_() for name, p in planned.named_parameters()}
    buffers = {name: b.clone() for name, b in planned.named_buffers()}
    fresh = edge()
    fresh.load_state_dict(before | {name: p.detach() for name, p in others.items()})
    out, expected = functional_call(planned, others | buffers, (x, weights)), fresh(x, weights)
    assert torch.equal(out, expected)
    mine = torch.autograd.grad(out.sum(), list(others.values()))
    assert all(map(torch.equal, mine, torch.autograd.grad(expected.sum(), list(fresh.parameters()))))
    assert all(torch.equal(buffers[name], b) for name, b in fresh.named_buffers())
    assert all(torch.equal(value, before[name]) for name, value in planned.state_dict().items())


def test_kinks_autocast_and_a_compiler_come_between_calls_of_a_plan() -> None:
    planned, x, weights = edge(), torch.randn(3, 4, 6, 6), torch.full((len(CANDIDATES),), 0.2)
    planned.eval()
    first = planned(x, weights)
    kinks = Kinks()
    with kinks.note():
        assert torch.equal(planned(x, weights), first)
    with kinks.keep():
        assert torch.equal(planned(x, weights), first)
    with torch.autocast("cpu", torch.bfloat16):
        assert planned(x, weights).dtype is torch.bfloat16
    compiled = torch.compile(planned, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, weights), first)
    assert torch.equal(planned(x, weights), first)


def test_the_second_call_plans_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Whole(1), torch.randn(2, 3, 8, 8)
    model(x)
    made = note_calls(monkeypatch, lambda fused: fused)
    model(x)
    first = [*made]
    made.clear()
    model(x)
    assert len(made) == 2 * (2 + 3) and all(one is other for one, other in zip(first, made, strict=True))
    for _ in range(2):  # plans for both modes are kept
        made.clear()
        model.eval()(x), model.train()(x)
    assert all(one is other for one, other in zip(first, made[len(first) :], strict=True))


def test_running_statistics_lie_together_and_stay_the_buffers_that_they_were() -> None:
    model, x, weights = edge(), torch.randn(3, 4, 6, 6), torch.full((len(CANDIDATES),), 0.2)
    held = dict(model.named_buffers())
    names = list(model.state_dict())
    model(x, weights)
    assert list(model.state_dict()) == names
    assert all(buffer is held[name] for name, buffer in model.named_buffers())
    means = [bn.running_mean for bn in layers(model, nn.BatchNorm2d)]
    assert len({mean.untyped_storage().data_ptr() for mean in means}) == 1
    assert len({mean.data_ptr() for mean in means}) == len(means)
    model.double()
    model(x.double(), weights.double())
    assert all(bn.num_batches_tracked == 2 for bn in layers(model, nn.BatchNorm2d))


@pytest.mark.parametrize("momentum", [0.7, None], ids=["another", "cumulative"])
def test_momentum_is_that_of_now_though_several_plans_have_the_same_statistics(momentum: float | None) -> None:
    planned, x, weights = edge(), torch.randn(3, 4, 6, 6), torch.full((len(CANDIDATES),), 0.2)
    for memory in ("store", "recompute"):
        planned.memory = memory
        planned(x, weights)
    fresh = edge()
    fresh.load_state_dict(planned.state_dict())
    for model in (planned, fresh):
        set_all(nn.BatchNorm2d, momentum=momentum)(model)
    for memory in ("store", "recompute"):
        planned.memory = memory
        same(planned, fresh, x, weights, passes=1)


def test_statistics_shared_between_processes_stay_so() -> None:
    model, x, weights = edge().share_memory(), torch.randn(3, 4, 6, 6), torch.full((len(CANDIDATES),), 0.2)
    model(x, weights)
    assert all(bn.running_mean.is_shared() for bn in layers(model, nn.BatchNorm2d))
    assert all(bn.num_batches_tracked == 1 for bn in layers(model, nn.BatchNorm2d))


def test_a_model_with_plans_is_collected() -> None:
    model, x = Whole(1), torch.randn(2, 3, 8, 8)
    other = NetworkCIFAR(4, 10, 3, False, DARTS_V2)
    model(x), other(x)
    alive = [weakref.ref(m) for net in (model, other) for m in net.modules()]
    del model, other
    gc.collect()
    assert not [ref for ref in alive if ref() is not None]


def test_plans_that_change_with_every_step_do_not_pile_up() -> None:
    op, x, weights = edge(), torch.randn(3, 4, 6, 6), torch.zeros(len(CANDIDATES))
    for count in (1, 2, 3):
        for op.active in itertools.combinations(range(1, 6), count):
            op(x, weights)
    assert len(plan._plans[op._ops]) == plan.KEPT


@pytest.mark.parametrize("ask", [unchanged, _unchanged], ids=["native", "python"])
def test_unchanged_means_the_very_objects_in_their_order(ask: Callable[..., bool]) -> None:
    value = [1]
    held = {"a": value, "b": 2}
    items = (("a", value, "b", 2),)
    assert ask((held,), items, ({},))
    assert not ask((held,), items, ({"hook": 1},))
    assert not ask(({"a": [1], "b": 2},), items, ())
    assert not ask(({"b": 2, "a": value},), items, ())
    assert not ask(({"a": value},), items, ())
    assert not ask(({"a": value, "c": 2},), items, ())
    assert not ask((held | {"c": 3},), items, ())


def test_training_with_flat_weights_is_planned_and_the_same() -> None:
    models = [Whole(1), Whole(1)]
    for number, model in enumerate(models):
        optimizer = SGD(model.parameters(), 0.1, 0.9, 3e-4, 5.0)
        for step in range(3):
            if number:
                plan._plans.clear()
            torch.manual_seed(step)
            optimizer.zero_grad()
            model(torch.randn(2, 3, 8, 8)).square().sum().backward()
            optimizer.step()
    assert all(map(torch.equal, models[0].state_dict().values(), models[1].state_dict().values()))
