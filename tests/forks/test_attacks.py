"""Candidates and code that look like what can be fused and are not: right, or left as they are with the reason."""

import copy
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import fastdarts
from fastdarts import FastdartsError
from fastdarts.forks import proof, sums
from fastdarts.forks.accelerate import APART, NOT_SUMMED
from fastdarts.forks.hosts import Accelerated, Pass, accelerated
from fastdarts.functional import native
from fastdarts.kernels import registry
from tests.support.families import Darts, Helped
from tests.support.fused import kinds, note_calls
from tests.support.users_operations import DilatedConvolution

pytestmark = pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")
NAMES = ["skip_connect", "sep_conv_3x3", "dil_conv_3x3"]


def results(edge: nn.Module, x: torch.Tensor, *args: torch.Tensor) -> list[torch.Tensor | None]:
    """Outputs, gradients and buffers of two training passes and an evaluation."""
    found = []
    for training in (True, True, False):
        edge.train(training)
        torch.manual_seed(7)
        given = [t.clone().requires_grad_() for t in (x, *args)]
        out = edge(*given)
        wanted = [*given, *(p for p in edge.parameters() if p.requires_grad)]
        found += [out.detach(), *torch.autograd.grad(out.square().sum(), wanted, allow_unused=True)]
        found += [b.clone() for b in edge.buffers()]
    return found


def assert_same(ours: nn.Module, plain: nn.Module, *args: torch.Tensor) -> None:
    for a, b in zip(results(ours, *args), results(plain, *args), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def inputs(count: int = 3, channels: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, channels, 6, 6).double(), torch.rand(count).double() + 0.1


def set_layer(edge: nn.Module, place: int, layer: nn.Module) -> None:
    edge._ops[2].op[place] = layer


class Twice(DilatedConvolution):
    def forward(self, x):
        return 2 * self.op(x)


def conv(edge: nn.Module) -> nn.Conv2d:
    return edge._ops[2].op[1]


def all_norms(edge: nn.Module, **attributes) -> None:
    for m in edge.modules():
        if isinstance(m, nn.BatchNorm2d):
            for name, value in attributes.items():
                setattr(m, name, value)


def norm(**options) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(4, **options)


CALLED = {  # how the third candidate is changed, and why it is called
    "a forward of its own": (
        lambda e: e._ops.__setitem__(2, Twice(4, 3, 1, 2, 2, False)),
        "the forward of Twice is not",
    ),
    "hook": (lambda e: e._ops[2].register_forward_hook(lambda m, i, o: 2 * o), "DilatedConvolution has hooks or a"),
    "hook on a layer": (
        lambda e: conv(e).register_forward_hook(lambda m, i, o: 2 * o),
        "Conv2d has hooks or a forward",
    ),
    "pre-hook": (lambda e: e._ops[2].register_forward_pre_hook(lambda m, i: (2 * i[0],)), "has hooks or a forward"),
    "forward of the instance": (
        lambda e: setattr(e._ops[2], "forward", types.MethodType(Twice.forward, e._ops[2])),
        "has hooks or a forward of its own",
    ),
    "weight norm": (lambda e: weight_norm(conv(e)), "its layers are ReLU, ParametrizedConv2d, Conv2d, BatchNorm2d"),
    "dropout": (lambda e: e._ops[2].op.append(nn.Dropout(0.5)), "its layers are ReLU, Conv2d, Conv2d, BatchNorm2d, Dr"),
    "reflect": (
        lambda e: set_layer(e, 1, nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False, padding_mode="reflect")),
        "its layers have sizes, strides, padding, dilation or groups that no kernel knows",
    ),
    "same padding": (
        lambda e: set_layer(e, 1, nn.Conv2d(4, 4, 3, padding="same", groups=4, bias=False)),
        "its layers have sizes, strides, padding",
    ),
    "dilation 3": (
        lambda e: set_layer(e, 1, nn.Conv2d(4, 4, 3, padding=3, dilation=3, groups=4, bias=False)),
        "its layers have sizes, strides, padding, dilation",
    ),
    "groups": (
        lambda e: set_layer(e, 1, nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)),
        "its layers have sizes, strides, padding, dilation or groups",
    ),
    "grouped 1x1": (lambda e: set_layer(e, 2, nn.Conv2d(4, 4, 1, groups=2, bias=False)), "its layers have sizes"),
    "bias": (lambda e: set_layer(e, 2, nn.Conv2d(4, 4, 1)), "its Conv2d has a bias"),
    "in place": (lambda e: e._ops.__setitem__(2, DilatedConvolution(4, 3, 1, 2, 2, False, inplace=True)), None),
    "GroupNorm": (lambda e: set_layer(e, 3, nn.GroupNorm(2, 4)), "its layers are ReLU, Conv2d, Conv2d, GroupNorm"),
    "InstanceNorm": (lambda e: set_layer(e, 3, nn.InstanceNorm2d(4)), "its layers are ReLU, Conv2d, Conv2d, Instance"),
    "LeakyReLU": (lambda e: set_layer(e, 0, nn.LeakyReLU()), "its layers are LeakyReLU, Conv2d, Conv2d, BatchNorm2d"),
    "no bias of BatchNorm": (
        lambda e: e._ops[2].op[3].__init__(4) or setattr(e._ops[2].op[3], "bias", None),
        "its BatchNorm2d has only some of its parameters",
    ),
}
FUSED = {  # how candidates are changed that stay what a kernel computes
    "nothing": lambda e: None,
    "eps of all": lambda e: all_norms(e, eps=1e-2),
    "eps of one": lambda e: setattr(e._ops[2].op[3], "eps", 1e-2),
    "momentum": lambda e: all_norms(e, momentum=0.7),
    "cumulative average": lambda e: all_norms(e, momentum=None),
    "momentum of one": lambda e: setattr(e._ops[2].op[3], "momentum", 0.7),
    "affine": lambda e: (set_layer(e, 3, norm()), nn.init.normal_(e._ops[2].op[3].weight)),
    "no statistics": lambda e: set_layer(e, 3, norm(affine=False, track_running_stats=False)),
    "frozen weights": lambda e: e._ops[2].requires_grad_(False),
    "dilation 1": lambda e: set_layer(e, 1, nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False)),
    "the same twice": lambda e: e._ops.__setitem__(2, e._ops[1]),
    "a shared BatchNorm": lambda e: set_layer(e, 3, e._ops[1].op[7]),
    "a shared weight": lambda e: setattr(conv(e), "weight", e._ops[1].op[1].weight),
}


@pytest.mark.parametrize("how", CALLED)
def test_a_candidate_that_computes_something_else_is_called(how) -> None:
    edge, (change, why) = Darts(4, 1, NAMES), CALLED[how]
    change(edge)
    edge.double()
    plain = Darts(4, 1, NAMES)
    change(plain)
    plain.double().load_state_dict(edge.state_dict())
    report = fastdarts.accelerate(edge, inputs())
    if why is None:  # what changes its input breaks the gradients of the user's own code
        assert not report.fused and "modified by an inplace operation" in report.left[""]
        return
    assert report.fused[""].candidates == {"_ops.0": "skip", "_ops.1": "sep_conv"}
    assert report.fused[""].called.keys() == {"_ops.2"} and why in report.fused[""].called["_ops.2"]
    assert why in str(report)
    assert_same(edge, plain, *inputs())


@pytest.mark.parametrize("how", FUSED)
def test_a_candidate_with_other_settings_is_right(how) -> None:
    edge = Darts(4, 1, NAMES)
    FUSED[how](edge)
    edge.double()
    plain = copy.deepcopy(edge)
    assert fastdarts.accelerate(edge, inputs()).fused
    assert_same(edge, plain, *inputs())


@pytest.mark.parametrize("how", [*CALLED, *FUSED])
def test_what_changes_after_acceleration_is_right_or_refused(how) -> None:
    """Another candidate, a hook, a frozen layer: plans of before are not used for it."""
    edge = Darts(4, 1, NAMES).double()
    assert fastdarts.accelerate(edge, inputs()).fused
    edge(*inputs())
    plain, change = Darts(4, 1, NAMES), FUSED[how] if how in FUSED else CALLED[how][0]
    change(edge), change(plain)
    edge.double(), plain.double().load_state_dict(edge.state_dict())
    if how == "in place":
        with pytest.raises(FastdartsError, match=r"candidate _ops\.0 was changed in place after the call: expected"):
            edge(*inputs())
        return
    assert_same(edge, plain, *inputs())


def test_a_candidate_that_changes_its_input_before_the_others_see_it_is_right() -> None:
    edge = Darts(4, 1, ["skip_connect", *NAMES])
    edge._ops[0] = DilatedConvolution(4, 3, 1, 2, 2, False, inplace=True)
    edge.double()
    plain, (x, w) = copy.deepcopy(edge), inputs(4)
    report = fastdarts.accelerate(edge, (x, w))
    assert [*report.fused[""].candidates] == ["_ops.1", "_ops.2", "_ops.3"]
    ours, theirs = x.clone(), x.clone()
    torch.testing.assert_close(edge(ours, w), plain(theirs, w))
    assert torch.equal(ours, theirs) and not torch.equal(ours, x)


def test_a_weight_that_a_hook_computes_is_followed_when_it_comes_later() -> None:
    """Before, the model cannot be copied: the weight is no leaf."""
    edge, plain = Darts(4, 1, NAMES), Darts(4, 1, NAMES)
    assert fastdarts.accelerate(edge.double(), inputs()).fused
    nn.utils.weight_norm(conv(edge)), nn.utils.weight_norm(conv(plain))
    plain.double().load_state_dict(edge.state_dict())
    assert_same(edge, plain, *inputs())
    with pytest.raises(FastdartsError, match="cannot be copied"):
        fastdarts.accelerate(plain, inputs())


def test_a_layer_in_another_mode_is_right() -> None:
    """Frozen statistics, in one BatchNorm of two in a candidate, and in one candidate of three."""
    for frozen in (lambda e: e._ops[1].op[3], lambda e: e._ops[2].op[3]):
        edge = Darts(4, 1, NAMES).double()
        frozen(edge).train = types.MethodType(lambda self, mode=True: nn.Module.train(self, False), frozen(edge))
        edge.train()
        plain = copy.deepcopy(edge)
        fastdarts.accelerate(edge, inputs())
        assert isinstance(edge, Accelerated)
        assert_same(edge, plain, *inputs())


def widened(edge: nn.Module) -> None:
    """Net2net widening, which gives a layer a larger weight and leaves its attributes as they were."""
    for layer in edge.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight = nn.Parameter(layer.weight.repeat(2, 1 if layer.groups > 1 else 2, 1, 1))
            layer.groups *= 2 if layer.groups > 1 else 1
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean, layer.running_var = layer.running_mean.repeat(2), layer.running_var.repeat(2)


def test_layers_that_were_widened_behind_their_attributes_are_right() -> None:
    edge = Darts(4, 1, NAMES).double()
    assert fastdarts.accelerate(edge, inputs()).fused
    widened(edge)
    plain = copy.deepcopy(edge)
    plain.__class__ = Darts
    assert_same(edge, plain, *inputs(channels=8))


class Code(Darts):
    """Forwards that do more with candidates than to add them up; ``how`` says what."""

    how = ""

    def forward(self, x, w):
        return getattr(self, self.how)(x, w, *self._ops)

    def branches(self, x, w, a, b, c):
        return torch.cat([a(x), b(x), c(x)], 1)

    def product(self, x, w, a, b, c):
        return w[0] * a(x) * b(x) + w[1] * c(x)

    def activated(self, x, w, a, b, c):
        return w[0] * a(x) + w[1] * F.relu(b(x)) + w[2] * c(x).sigmoid()

    def used_twice(self, x, w, a, b, c):
        y = b(x)
        return w[0] * a(x) + w[1] * y + w[2] * y.mean() + c(x) * y.detach()

    def used_again_later(self, x, w, a, b, c):
        y = b(x)
        total = w[0] * a(x) + w[1] * y
        return total.relu() + y

    def unused(self, x, w, a, b, c):
        b(x)
        return w[0] * a(x) + w[1] * c(x)

    def called_twice(self, x, w, a, b, c):
        return w[0] * b(x) + w[1] * b(x) + w[2] * c(x)

    def chained(self, x, w, a, b, c):
        return w[0] * c(b(x)) + w[1] * b(x)

    def added_in_place(self, x, w, a, b, c):
        out = w[0] * a(x)
        same = out
        out += w[1] * b(x)
        return same + c(x)

    def input_in_place(self, x, w, a, b, c):
        y = x * 1
        out = a(y)  # which is y
        out += w[0] * b(x)
        return y + w[1] * c(x)

    def changed_in_place(self, x, w, a, b, c):
        out = w[0] * a(x) + w[1] * b(x)
        out.mul_(2)
        out[:, 0] = 0
        return out + c(x)

    def without_gradients(self, x, w, a, b, c):
        with torch.no_grad():
            y = b(x)
        return w[0] * a(x) + w[1] * y + w[2] * c(x)

    def looked_at(self, x, w, a, b, c):
        out = w[0] * a(x) + w[1] * b(x)
        with torch.no_grad():
            self.size = float(out.norm())
        return out + w[2] * c(x) if out.dim() == 4 and out.shape == x.shape and self.size > 0 else None

    def per_sample(self, x, w, a, b, c):
        each = torch.linspace(0.1, 1, len(x)).to(x).view(-1, 1, 1, 1)
        return each * a(x) + w[1] * b(x) + c(x) * w[2]

    def numbers(self, x, w, a, b, c):
        return 0.5 * a(x) + b(x) * 2 + w[0] * (c(x) / 3 - 0.1) + 1.5 - (-a(x))

    def slices(self, x, w, a, b, c):
        outs = [op(x) for op in self._ops[1:]]
        return sum(outs, w[0] * a(x))

    def nested(self, x, w, a, b, c):
        return {"out": [w[0] * a(x) + w[1] * b(x), c(x)]}["out"][0] + c(x)

    def stacked(self, x, w, a, b, c):
        return torch.stack([a(x), b(x), c(x)]).mean(0) + torch.stack([a(x), c(x)], 1).sum(1) * w.sum()

    def stack_weighted(self, x, w, a, b, c):
        return (torch.stack((b(x), c(x))) * w[:2].view(2, 1, 1, 1, 1)).sum(dim=0)

    def squeezed(self, x, w, a, b, c):
        return torch.einsum("k,knchw->nchw", w, torch.stack([a(x), b(x), c(x)]))

    def wider_weight(self, x, w, a, b, c):
        return w[:1].view(1, 1, 1, 1) * a(x) + w[1:2] * b(x) + c(x)

    def two_inputs(self, x, w, a, b, c):
        return w[0] * b(x) + w[1] * c(2 * x)


SUMMED = {"product", "activated", "used_twice", "used_again_later", "unused", "added_in_place", "changed_in_place"}
SUMMED |= {"without_gradients", "looked_at", "per_sample", "numbers", "slices", "nested", "stack_weighted"}
SUMMED |= {"wider_weight", "input_in_place", "called_twice", "chained", "two_inputs"}
HOWS = sorted(name for name in vars(Code) if name not in ("how", "forward") and not name.startswith("_"))


@pytest.mark.parametrize("how", HOWS)
def test_code_that_does_more_is_right(how) -> None:
    edge = Code(4, 1, NAMES).double()
    edge.how = how
    plain = copy.deepcopy(edge)
    report = fastdarts.accelerate(edge, inputs())
    assert bool(report.fused) == (how in SUMMED), report
    assert report.fused or report.left.get("", NOT_SUMMED) == NOT_SUMMED
    assert_same(edge, plain, *inputs())
    edge.__class__ = accelerated(Code)  # whatever the report says
    assert_same(edge, copy.deepcopy(plain), *inputs())


def test_outputs_may_be_tuples_dicts_and_attributes() -> None:
    class Several(Darts):
        def forward(self, x, w):
            self.kept = self._ops[1](x)
            return {"sum": (w[0] * self._ops[0](x) + w[1] * self._ops[2](x), 3), "one": [self._ops[2](x)]}

    edge = Several(4, 1, NAMES).double()
    plain = copy.deepcopy(edge)
    assert fastdarts.accelerate(edge, inputs()).fused
    x, w = inputs()
    ours, theirs = edge(x, w), plain(x, w)
    assert type(ours) is dict and type(ours["sum"]) is tuple and ours["sum"][1] == 3
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.add(edge.kept, 0), plain.kept)
    for a, b in zip(edge.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("what", ["output", "gradient", "statistics"])
def test_a_wrong_result_is_found_and_nothing_is_fused(what, monkeypatch) -> None:
    """The proof can fail."""
    mixed = Pass._mixed

    def wrong(self, terms):
        out = mixed(self, terms)
        if what == "statistics" and terms[1][0].op.op[3].training:
            terms[1][0].op.op[3].running_mean.add_(1e-6)
        if what == "gradient" and out.requires_grad:
            out.register_hook(lambda g: g * (1 + 1e-6))
        return out * (1 + 1e-6) if what == "output" else out

    monkeypatch.setattr(Pass, "_mixed", wrong)
    edge = Darts(4, 1, NAMES).double()
    report = fastdarts.accelerate(edge, inputs())
    assert not report.fused and not isinstance(edge, Accelerated)
    start = {"output": "output 0 is off by", "gradient": "the gradient of", "statistics": "the buffer _ops.1.op.3.runn"}
    assert report.left[""].startswith(start[what]) and report.left[""].endswith("in training")
    assert f"left: the model, because {start[what]}" in str(report)


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-4])
def test_where_no_kernel_computes_in_float64_the_error_may_be_twice_that_of_the_users_code(factor, monkeypatch) -> None:
    mixed = Pass._mixed
    monkeypatch.setattr(Pass, "_mixed", lambda self, terms: mixed(self, terms) * factor)
    monkeypatch.setattr(proof, "has_kernel", lambda x: x.dtype is torch.float32)
    edge = Darts(4, 1, NAMES)
    report = fastdarts.accelerate(edge, (torch.randn(3, 4, 6, 6), torch.rand(3)))
    assert bool(report.fused) == (factor == 1)
    assert report.fused or "all results are off by" in report.left[""]


def test_what_differs_in_the_whole_model_only_leaves_all_of_it(monkeypatch) -> None:
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.edge = Darts(4, 1, NAMES)
            self.scale = 1.0

        def forward(self, x, w):
            return self.edge(x, w) * (2.0 if isinstance(self.edge, Accelerated) else 1.0)

    model = Wrapped().double()
    report = fastdarts.accelerate(model, inputs())
    assert not report.fused and not isinstance(model.edge, Accelerated)
    assert report.left["edge"].startswith("in the whole model output 0 is off by")


@pytest.mark.parametrize("how", ["vmap", "trace", "global hook", "compiling"])
def test_who_needs_the_modules_gets_them(how, monkeypatch) -> None:
    edge = Darts(4, 1, NAMES).double().eval()
    plain = copy.deepcopy(edge)
    assert fastdarts.accelerate(edge, inputs()).fused
    calls = note_calls(monkeypatch, kinds)
    x, w = inputs()
    expected = plain(x, w)
    if how == "vmap":
        out = torch.func.vmap(lambda w: edge(x, w))(w[None])[0]
    elif how == "trace":
        out = torch.jit.trace(edge, (x, w), check_trace=False)(x, w)
    elif how == "global hook":
        seen = []
        handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
        out = edge(x, w)
        handle.remove()
        assert nn.Conv2d in seen
    else:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        out = edge(x, w)
    assert not calls
    torch.testing.assert_close(out, expected)


def test_hooks_of_an_accelerated_module_see_tensors() -> None:
    edge, seen = Helped(4, 1, NAMES).double(), []
    assert fastdarts.accelerate(edge, inputs()).fused
    edge.register_forward_hook(lambda m, given, out: seen.append(type(out)))
    edge(*inputs())
    assert seen == [torch.Tensor]


def test_under_autocast_the_result_has_the_type_of_autocast() -> None:
    edge = Darts(4, 1, NAMES)
    plain = copy.deepcopy(edge)
    x, w = torch.randn(3, 4, 6, 6), torch.rand(3)
    assert fastdarts.accelerate(edge, (x, w)).fused
    with torch.autocast("cpu", torch.bfloat16):
        out = edge(x, w)
    assert out.dtype is torch.bfloat16
    torch.testing.assert_close(out.float(), plain(x, w), rtol=0.05, atol=0.1)


def test_channels_last_and_strided_inputs_keep_their_values_and_the_layout_of_contiguous_ones() -> None:
    edge = Darts(4, 1, NAMES).double()
    plain = copy.deepcopy(edge)
    fastdarts.accelerate(edge, inputs())
    x, w = inputs(channels=8)
    for given in (x[:, :4], x[:, ::2], x[:, :4].contiguous(memory_format=torch.channels_last), x[:, :4].contiguous()):
        out = edge(given, w)
        torch.testing.assert_close(out, plain(given, w))
        assert out.is_contiguous() or not given.is_contiguous()


def test_a_candidate_apart_from_the_sum_is_named() -> None:
    edge = Code(4, 1, NAMES).double()
    edge.how = "activated"
    report = fastdarts.accelerate(edge, inputs())
    assert report.fused[""].candidates == {"_ops.0": "skip"}
    assert report.fused[""].called == {"_ops.1": APART, "_ops.2": APART}


def test_modules_that_have_their_own_way_of_pickling_or_a_patched_forward_are_left() -> None:
    class Own(Darts):
        def __reduce__(self):
            return super().__reduce__()

    patched = Darts(4, 1, NAMES)
    patched.forward = types.MethodType(Darts.forward, patched)
    for edge, why in (
        (Own(4, 1, NAMES), "Own is pickled in a way of its own"),
        (patched, "its forward was set on the"),
    ):
        assert why in fastdarts.accelerate(edge.double(), inputs()).left[""]


def test_an_edge_without_a_known_candidate_says_why() -> None:
    edge = Darts(4, 1, ["sep_conv_3x3", "sep_conv_5x5"])
    for op in edge._ops:
        op.op[3] = nn.GroupNorm(1, 4)
    report = fastdarts.accelerate(edge.double(), inputs(2))
    assert "its layers are ReLU, Conv2d, Conv2d, GroupNorm, ReLU" in report.left[""]


def test_sums_that_wait_are_what_tensors_would_be() -> None:
    """Every operator, against the tensor itself."""

    class Plain:
        """Computes a sum that is one tensor."""

        def compute(self, terms, rest):
            return sum(call.x * w for call, w in terms) + sum(rest)

    x = torch.rand(2, 3, 4, 4) + 0.5
    call = sums.Call(nn.Identity(), ("a",), nn.Identity(), x, 3, 1)

    def waiting(w=1):
        return sums.Pending(Plain(), [(call, w)], [])

    cases = [
        lambda y: y - 1, lambda y: 1 - y, lambda y: y / 2, lambda y: 2 / y, lambda y: -y, lambda y: y**2,
        lambda y: 2**y, lambda y: abs(y), lambda y: y[0], lambda y: y > 1, lambda y: y == x, lambda y: y // 0.3,
        lambda y: y % 0.3, lambda y: y @ y, lambda y: x @ y, lambda y: x - y, lambda y: x * y, lambda y: y * y,
        lambda y: [*y][1], lambda y: len(y), lambda y: y.size(1), lambda y: y.shape, lambda y: torch.relu(y),
        lambda y: torch.cat([x, y], dim=1), lambda y: torch.stack([x, y]), lambda y: F.max_pool2d(y, 2),
        lambda y: x.add(y, alpha=2), lambda y: torch.add(y, x), lambda y: torch.sum(y, 1), lambda y: y.sum(),
        lambda y: torch.ones(2, 3, 4, 4).mul_(y), lambda y: torch.where(y > 1, y, x), lambda y: y + x + 1 + y,
        lambda y: float(y.sum()), lambda y: bool((y > 0).all()), lambda y: y.view(2, -1), lambda y: 3 * y * 0.5,
    ]  # fmt: skip
    for number, case in enumerate(cases):
        found, expected = sums.valued(case(waiting(2))), case(x * 2)
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(found, expected, msg=str(number))
        else:
            assert found == expected, number


def test_in_strict_mode_what_is_called_is_an_error_and_nothing_is_changed(monkeypatch) -> None:
    edge = Darts(4, 1, NAMES).double()
    edge._ops[2].op[3] = nn.GroupNorm(1, 4).double()
    monkeypatch.setattr(registry, "STRICT", True)
    with pytest.raises(FastdartsError, match=r"1 modules are called, such as _ops\.2, because its layers are ReLU"):
        fastdarts.accelerate(edge, inputs())
    assert not isinstance(edge, Accelerated)
    edge = Darts(4, 1, NAMES).double()
    assert fastdarts.accelerate(edge, inputs()).fused


def test_a_candidate_that_is_normalised_in_another_way_is_called_and_named() -> None:
    edge = Darts(4, 1, NAMES).double()
    edge._ops[2].op[3].eps = 1e-2
    report = fastdarts.accelerate(edge, inputs())
    assert [*report.fused[""].candidates] == ["_ops.0", "_ops.1"] and report.fused[""].called == {"_ops.2": APART}
