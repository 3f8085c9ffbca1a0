"""sep_conv: every case × every implementation against eager PyTorch in float64, its promises, and MixedOp around it."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.cases import CONTIGUOUS, LAST, SEP_CONV_TEST_CASES, SepConvCase
from benchmarks.compare import deviations
from benchmarks.eager import make_eager
from fastdarts import fusion
from fastdarts.errors import FastdartsError
from fastdarts.functional import implementations, native, sep_conv
from fastdarts.kernels import registry
from fastdarts.kernels.sep_conv import backward_op, forward_op
from fastdarts.model_search import MixedOp

pytestmark = pytest.mark.usefixtures("poisoned_memory")

needs_native = pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")
IMPLS = ["reference", pytest.param("native", marks=needs_native)]
GEOMETRIES = [(3, 1, 1), (3, 2, 2), (5, 2, 1), (5, 1, 2), (7, 2, 1)]  # kernel, stride, dilation


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", SEP_CONV_TEST_CASES, ids=lambda case: case.id)
def test_no_worse_than_twice_eager(case: SepConvCase, impl: str) -> None:
    in_float32 = deviations(case, impl, torch.float32)
    in_float64 = deviations(case, impl, torch.float64)
    for single, double in zip(in_float32, in_float64, strict=True):
        assert not single.wrong, single
        assert double.ours <= single.allowed * 2**-20, double  # a float32 step inside would cost a factor of 2^29


def leaves(channels: int, outputs: int, kernel: int, *size: int, dtype=torch.float64) -> list[torch.Tensor]:
    shapes = (2, channels, *size), (channels, 1, kernel, kernel), (outputs, channels, 1, 1)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), GEOMETRIES)
def test_first_and_second_derivatives(impl: str, kernel: int, stride: int, dilation: int) -> None:
    def z(*tensors):
        return sep_conv(*tensors, stride=stride, dilation=dilation, impl=impl)

    tensors = leaves(2, 3, kernel, 3, 4)
    assert torch.autograd.gradcheck(z, tensors)
    assert torch.autograd.gradgradcheck(z, tensors)


@needs_native
def test_hypergradient_through_an_inner_step_is_that_of_eager_modules() -> None:
    case = SepConvCase("inner-step", (2, 3, 5, 5), 3)
    (x, depthwise, pointwise), target = case.inputs(torch.float64)

    def hypergradient(run) -> torch.Tensor:
        def loss(kernel):
            return (run(x, depthwise, kernel) - target).pow(2).mean()

        (grad,) = torch.autograd.grad(loss(pointwise), pointwise, create_graph=True)
        return torch.autograd.grad(loss(pointwise - 3 * grad), depthwise)[0]

    ours = hypergradient(lambda *tensors: case.ours(*tensors, "native"))
    torch.testing.assert_close(ours, hypergradient(case.eager), rtol=1e-10, atol=0)


@needs_native
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_bits_every_time_and_for_every_number_of_threads(kernel: int) -> None:
    case = SepConvCase("threads", (37, 20, 17, 18), 24, kernel)

    def run(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        tensors, grad = case.inputs(torch.float32)
        out = case.ours(*tensors, "native")
        return [out, *torch.autograd.grad(out, tensors, grad)]

    before = torch.get_num_threads()
    try:
        first, *others = [run(threads) for threads in (1, 1, 2, 2, 3)]
    finally:
        torch.set_num_threads(before)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("stride", [1, 2])
def test_opcheck(stride: int) -> None:
    x, depthwise, pointwise = (t.detach() for t in leaves(5, 4, 3, 5, 6, dtype=torch.float32))
    x = x.to(memory_format=LAST)
    args = (x, depthwise, pointwise, stride, 1)
    torch.library.opcheck(forward_op.dispatch, args)
    grad = torch.rand_like(forward_op.dispatch(*args))
    for needs in [(True, True, True), (True, False, False), (False, True, False), (False, False, True)]:
        torch.library.opcheck(backward_op.dispatch, (grad, *args, *needs))


@pytest.mark.parametrize("impl", IMPLS)
def test_only_the_gradients_asked_for(impl: str) -> None:
    case = SepConvCase("selective", (3, 5, 6, 7), 6, 5, 2)
    tensors, grad = case.inputs(torch.float64)
    everything = torch.autograd.grad(case.ours(*tensors, impl), tensors, grad)
    for wanted in [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1)]:
        chosen = [leaf.detach().requires_grad_(i in wanted) for i, leaf in enumerate(tensors)]
        case.ours(*chosen, impl).backward(grad)
        for i, leaf in enumerate(chosen):
            assert (leaf.grad is not None) == (i in wanted)
            if i in wanted:
                torch.testing.assert_close(leaf.grad, everything[i], rtol=1e-12, atol=1e-12)
    run = backward_op.reference if impl == "reference" else backward_op.dispatch
    x, *kernels = (t.detach() for t in tensors)
    sizes = [t.numel() for t in run(grad, x, *kernels, 2, 1, False, True, False)]
    assert sizes == [0, kernels[0].numel(), 0]  # not computed, rather than thrown away


def test_only_the_inputs_are_kept_for_backward() -> None:
    kept = []
    tensors = leaves(16, 16, 3, 8, 8, dtype=torch.float32)
    tensors[0] = tensors[0].detach().to(memory_format=LAST).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        sep_conv(*tensors)
    assert kept == [t.data_ptr() for t in tensors]


def test_output_has_the_format_of_the_input() -> None:
    tensors = leaves(5, 6, 3, 6, 7, dtype=torch.float32)
    plain = sep_conv(*tensors)
    last = sep_conv(tensors[0].to(memory_format=LAST), *tensors[1:])
    assert plain.is_contiguous() and last.is_contiguous(memory_format=LAST)
    assert torch.equal(plain, last)
    plain.sum().backward()  # an expanded, zero-stride gradient
    assert tensors[0].grad.shape == tensors[0].shape


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_passes_and_a_zero_gets_no_gradient(impl: str) -> None:
    x = torch.zeros(1, 3, 5, 5, dtype=torch.float64).to(memory_format=LAST)
    x[0, 1, 2, 2] = float("nan")
    x.requires_grad_()
    z = sep_conv(x, torch.ones(3, 1, 3, 3).double(), torch.ones(4, 3, 1, 1).double(), impl=impl)
    assert z.isnan().sum() == 4 * 9
    (dx,) = torch.autograd.grad(z, x, torch.ones_like(z))
    assert dx.count_nonzero() == 1 and dx[0, 1, 2, 2] == 4 * 9


def test_mixed_and_half_dtypes() -> None:
    x, depthwise, pointwise = leaves(4, 4, 3, 5, 5)
    assert sep_conv(x.float(), depthwise, pointwise).dtype is torch.float64
    half = sep_conv(x.bfloat16(), depthwise.bfloat16(), pointwise.bfloat16())
    assert half.dtype is torch.bfloat16
    assert (half - sep_conv(x, depthwise, pointwise)).abs().max() < 0.5


X, D, P = torch.zeros(2, 3, 4, 4), torch.zeros(3, 1, 3, 3), torch.zeros(5, 3, 1, 1)


@pytest.mark.parametrize(
    ("args", "options", "says"),
    [
        ((X[0], D, P), {}, r"non-empty \[N, C, H, W\] .*\[3, 4, 4\]"),
        ((X[:0], D, P), {}, r"non-empty .*\[0, 3, 4, 4\]"),
        ((X, D[:2], P), {}, r"depthwise must be \[3, 1, k, k\].* got \[2, 1, 3, 3\]"),
        ((X, torch.zeros(3, 1, 4, 4), P), {}, "k = 3, 5 or 7"),
        ((X, torch.zeros(3, 1, 3, 5), P), {}, r"got \[3, 1, 3, 5\]"),
        ((X, D, P[:, :2]), {}, r"pointwise must be \[C', 3, 1, 1\].* got \[5, 2, 1, 1\]"),
        ((X, D, P[:0]), {}, "pointwise must be"),
        ((X, D, P), {"stride": 3}, "stride must be 1 or 2, got 3"),
        ((X, D, P), {"dilation": (1, 1)}, r"dilation must be 1 or 2, got \(1, 1\)"),
        ((X.long(), D, P), {}, "x must be floating point, got torch.int64"),
        ((X, D, P.to("meta")), {}, "pointwise is on meta but x on cpu"),
        ((X, D, P), {"impl": "cuda"}, "impl is 'cuda': choose one of"),
    ],
)
def test_bad_input_gets_one_sentence(args: tuple, options: dict, says: str) -> None:
    with pytest.raises(FastdartsError, match=says) as error:
        sep_conv(*args, **options)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_no_triton_kernel_is_said_and_strict_mode_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = [row for row in implementations() if (row.op, row.name) == ("sep_conv", "triton")]
    assert not row.available and row.reason == "sep_conv has no Triton kernel yet"
    with pytest.raises(RuntimeError, match="cannot run as 'triton': sep_conv has no Triton kernel yet"):
        sep_conv(X, D, P, impl="triton")
    assert registry.select(forward_op, None, "cuda", torch.float32) is forward_op.reference
    monkeypatch.setattr(registry, "STRICT", True)
    with pytest.raises(RuntimeError, match="forbids the reference of sep_conv: sep_conv has no Triton kernel yet"):
        registry.select(forward_op, None, "cuda", torch.float32)


def test_compiles_as_one_graph() -> None:
    tensors = leaves(4, 5, 3, 6, 6, dtype=torch.float32)

    def loss(*tensors):
        return sep_conv(*tensors).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    ours = torch.autograd.grad(compiled(*tensors), tensors)
    torch.testing.assert_close(ours, torch.autograd.grad(loss(*tensors), tensors))


CONVOLUTIONS = {"sep_conv_3x3": 2, "sep_conv_5x5": 2, "sep_conv_7x7": 2, "dil_conv_3x3": 1, "dil_conv_5x5": 1}


def counted(monkeypatch: pytest.MonkeyPatch) -> list:
    calls = []

    def counting(*args, **options):
        calls.append(options)
        return sep_conv(*args, **options)

    monkeypatch.setattr(fusion, "sep_conv", counting)
    return calls


@needs_native
@pytest.mark.parametrize("memory_format", [CONTIGUOUS, LAST], ids=["nchw", "last"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_mixed_operation_uses_it_and_equals_the_public_one(stride: int, memory_format, monkeypatch) -> None:
    calls = counted(monkeypatch)
    op = MixedOp(6, stride, (*CONVOLUTIONS, "max_pool_3x3", "skip_connect", "conv_7x1_1x7")).double()
    eager = make_eager(copy.deepcopy(op))
    x = torch.randn(3, 6, 9, 8, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    weights = torch.softmax(torch.randn(8, dtype=torch.float64), 0)
    out, truth = op(x, weights), eager(x, weights)
    assert len(calls) == sum(CONVOLUTIONS.values())
    assert out.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(out, truth, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(truth)
    ours = torch.autograd.grad(out, (x, *op.parameters()), grad)
    torch.testing.assert_close(ours, torch.autograd.grad(truth, (x, *eager.parameters()), grad), rtol=1e-8, atol=1e-8)
    for buffer, expected in zip(op.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected)


@pytest.mark.parametrize("inside", [0, 1, 2])
@pytest.mark.parametrize("how", ["hook", "pre-hook", "patched", "subclass", "bias"])
def test_whoever_watches_or_changes_a_module_inside_sees_it_called(inside: int, how: str, monkeypatch) -> None:
    calls = counted(monkeypatch)
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


@pytest.mark.parametrize("change", [{"padding": 0}, {"padding_mode": "circular"}, {"groups": 2}, {"stride": (1, 2)}])
def test_other_convolutions_run_as_they_are(change: dict, monkeypatch) -> None:
    calls = counted(monkeypatch)
    options = {"padding": 1, "groups": 4, "bias": False} | change
    body = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, **options), nn.Conv2d(4, 4, 1, bias=False))
    op = MixedOp(4, 1, (nn.Sequential(*body, nn.BatchNorm2d(4, affine=False)),))
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(op(x, torch.ones(1)), make_eager(op)(x, torch.ones(1)))
    assert not calls


def test_where_the_native_kernel_cannot_run_the_modules_do(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    op, x = MixedOp(4, 1, ("sep_conv_3x3", "max_pool_3x3")), torch.randn(2, 4, 6, 6)
    op.bfloat16()(x.bfloat16(), torch.ones(2))
    op.float()
    with torch.autocast("cpu", torch.bfloat16):
        op(x, torch.ones(2))
    with pytest.raises(RuntimeError, match="expected input"):  # PyTorch's own message
        op(torch.randn(2, 5, 6, 6), torch.ones(2))
    monkeypatch.setattr(registry, "NO_NATIVE", "no compiler")
    op(x, torch.ones(2))
    assert not calls


def test_a_custom_candidate_sees_the_format_it_was_given() -> None:
    class Flat(nn.Module):
        def forward(self, x):
            return x.view(-1).view(x.shape)  # impossible in channels-last

    op = MixedOp(4, 1, ("sep_conv_3x3", Flat(), nn.Sequential(Flat(), nn.BatchNorm2d(4, affine=False))))
    op(torch.randn(2, 4, 5, 5), torch.ones(3))
