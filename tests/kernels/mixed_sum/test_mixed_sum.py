"""Every case × every implementation of every op against eager modules in float64, and the promises."""

import pytest
import torch
from torch import library

from benchmarks.cases import CONTIGUOUS, LAST, TEST_CASES, EagerMix, MixedSumCase
from benchmarks.compare import deviations
from fastdarts.errors import FastdartsError
from fastdarts.functional import implementations, mixed_sum, native
from fastdarts.kernels.mixed_sum.contract import backward_op, forward_op

pytestmark = pytest.mark.usefixtures("poisoned_memory")

needs_native = pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")
IMPLS = ["reference", pytest.param("native", marks=needs_native)]
FORMATS = pytest.mark.parametrize("memory_format", [CONTIGUOUS, LAST], ids=["nchw", "last"])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", TEST_CASES, ids=lambda case: case.id)
def test_no_worse_than_twice_eager(case: MixedSumCase, impl: str) -> None:
    in_float32 = deviations(case, impl, torch.float32)
    in_float64 = deviations(case, impl, torch.float64)
    for single, double in zip(in_float32, in_float64, strict=True):
        assert not single.wrong, single
        # The truth is float64 itself: no ratio there, but a float32 step inside would cost a factor of 2^29.
        assert double.ours <= single.allowed * 2**-20, double


def branches(*shape: int, count: int = 3, dtype=torch.float64, memory_format=CONTIGUOUS) -> list[torch.Tensor]:
    return [torch.randn(shape, dtype=dtype).to(memory_format=memory_format).requires_grad_() for _ in range(count)]


@FORMATS
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("impl", IMPLS)
def test_first_and_second_derivatives(impl: str, training: bool, memory_format: torch.memory_format) -> None:
    z = branches(2, 2, 1, 3, memory_format=memory_format)
    weights = torch.rand(3, dtype=torch.float64, requires_grad=True)
    running = None if training else (torch.rand(2, 2).double(), torch.rand(2, 2).double() + 0.5)

    def out(weights, *z):
        return mixed_sum(z, weights, (True, False, True), running=running, impl=impl).out

    assert torch.autograd.gradcheck(out, (weights, *z))
    assert torch.autograd.gradgradcheck(out, (weights, *z))


@pytest.mark.parametrize("impl", IMPLS)
def test_third_derivative(impl: str) -> None:
    z = branches(2, 2, 1, 2, count=2)
    weights = torch.rand(2, dtype=torch.float64, requires_grad=True)

    def hessian_times_itself(weights, *z):
        out = mixed_sum(z, weights, (True, True), impl=impl).out
        (grad,) = torch.autograd.grad(out.pow(3).sum(), z[0], create_graph=True)
        return torch.autograd.grad(grad.pow(2).sum(), z[0], create_graph=True)[0]

    assert torch.autograd.gradcheck(hessian_times_itself, (weights, *z))


@pytest.mark.parametrize("impl", [None, *IMPLS])
def test_hypergradient_through_an_inner_step_is_that_of_eager_modules(impl: str | None) -> None:
    """α reaches the outer loss directly and through w' = w − ξ dL/dw: the second path must not be dropped."""
    x, target = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    alpha = torch.randn(3, dtype=torch.float64, requires_grad=True)
    w = torch.rand(3, 1, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    normalize = (True, False, True)
    eager = EagerMix(normalize, channels=3, eps=1e-5).double()

    def hypergradient(mix) -> torch.Tensor:
        def loss(w):
            candidates = [torch.tanh(x + w_k).pow(2) for w_k in w]
            return (mix(torch.softmax(alpha, 0), candidates) - target).pow(2).mean()

        (grad,) = torch.autograd.grad(loss(w), w, create_graph=True)
        return torch.autograd.grad(loss(w - 3 * grad), alpha)[0]

    ours = hypergradient(lambda weights, z: mixed_sum(z, weights, normalize, impl=impl).out)
    truth = hypergradient(eager)
    direct_only = hypergradient(lambda weights, z: _constant_gradient(eager(weights, z)))
    assert torch.allclose(ours, truth, rtol=1e-9, atol=0)
    assert not torch.allclose(direct_only, truth, rtol=1e-2)  # the trap is real in this problem


def _constant_gradient(out: torch.Tensor) -> torch.Tensor:
    """The same values with no second derivative: what a kernel without the guard amounts to."""
    out.register_hook(lambda grad: grad.detach())
    return out


@FORMATS
@needs_native
def test_same_bits_every_time_and_for_every_number_of_threads(memory_format: torch.memory_format) -> None:
    case = MixedSumCase("threads", (13, 7, 24, 25), memory_format=memory_format)

    def run(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        weights, z, grad = case.inputs(torch.float32)
        result = case.ours(weights, z, "native")
        return [*result, *torch.autograd.grad(result.out, (weights, *z), grad)]

    before = torch.get_num_threads()
    try:
        first, *others = [run(threads) for threads in (1, 1, 2, 2, 3)]
    finally:
        torch.set_num_threads(before)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@FORMATS
@pytest.mark.parametrize("training", [True, False])
def test_opcheck(training: bool, memory_format: torch.memory_format) -> None:
    z = [z_k.detach() for z_k in branches(2, 3, 4, 4, dtype=torch.float32, memory_format=memory_format)]
    weights, normalize, need = torch.rand(3), [True, False, True], [True, False, True]
    mean, var = torch.rand(2, 3), torch.rand(2, 3) + 0.5
    running = (None, None) if training else (mean, var)
    library.opcheck(forward_op.dispatch, (z, weights, normalize, *running, 1e-5))
    for need_weights in (True, False):
        args = (z[0], z, weights, normalize, mean, var, training, 1e-5, need, need_weights)
        library.opcheck(backward_op.dispatch, args)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_only_the_gradients_asked_for(impl: str, training: bool) -> None:
    case = MixedSumCase("selective", (2, 3, 4, 5), (True, False, True), training=training)
    weights, z, grad = case.inputs(torch.float64)
    everything = torch.autograd.grad(case.ours(weights, z, impl).out, (weights, *z), grad)
    for wanted in [(0,), (1, 2, 3), (2,), (0, 3)]:
        leaves = [leaf.detach().requires_grad_(i in wanted) for i, leaf in enumerate((weights, *z))]
        case.ours(leaves[0], leaves[1:], impl).out.backward(grad)
        for i, leaf in enumerate(leaves):
            assert (leaf.grad is not None) == (i in wanted)
            if i in wanted:
                assert torch.equal(leaf.grad, everything[i])


def test_output_keeps_the_format_of_the_first_branch_and_gradients_follow() -> None:
    weights = torch.tensor([0.25, 0.75])
    first = torch.randn(2, 3, 4, 5).to(memory_format=LAST)
    second = torch.randn(2, 3, 4, 5, requires_grad=True)
    out = mixed_sum([first, second], weights, (True, True)).out
    assert out.is_contiguous(memory_format=LAST)
    assert torch.equal(out, mixed_sum([first, second.to(memory_format=LAST)], weights, (True, True)).out)
    out.sum().backward()  # an expanded, zero-stride gradient
    assert second.grad.shape == second.shape
    assert second.grad.abs().max() < 1e-5  # Σ out does not depend on what batch normalisation removes


def test_weights_may_be_a_strided_row_of_any_float_dtype() -> None:
    z = [z_k.detach() for z_k in branches(2, 3, 4, 4, dtype=torch.float32)]
    table = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    ours = mixed_sum(z, table[:, 2], (True,) * 3).out
    expected = mixed_sum(z, table[:, 2].detach().float().contiguous(), (True,) * 3).out
    assert ours.dtype is torch.float32
    assert torch.equal(ours, expected)
    ours.square().sum().backward()
    assert (table.grad != 0).nonzero()[:, 1].tolist() == [2, 2, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    case = MixedSumCase("half", (4, 5, 9, 9), mean=10.0)
    weights, z, grad = case.inputs(dtype)
    result = case.ours(weights, z)
    wide_weights, wide_z, wide_grad = (
        weights.detach().double().requires_grad_(),
        [z_k.detach().double() for z_k in z],
        grad,
    )
    exact = case.ours(wide_weights, wide_z, "reference")
    assert result.out.dtype is dtype
    assert result.mean.dtype is result.var.dtype is torch.float32
    torch.testing.assert_close(result.mean.double(), exact.mean, rtol=1e-5, atol=1e-5)
    bound = torch.finfo(dtype).eps * exact.out.abs().max()  # one rounding, at the very end
    assert (result.out.double() - exact.out).abs().max() <= bound
    (ours,) = torch.autograd.grad(result.out, weights, grad)
    (truth,) = torch.autograd.grad(exact.out, wide_weights, wide_grad.double())
    assert (ours.double() - truth).abs().max() <= torch.finfo(dtype).eps * truth.abs().max() * 2


def test_mixed_dtypes_are_promoted() -> None:
    z = [torch.randn(2, 3, 4, 4, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    out = mixed_sum(z, torch.tensor([0.5, 0.5]), (True, False)).out
    assert out.dtype is torch.float32
    assert torch.equal(out, mixed_sum([z[0].float(), z[1]], torch.tensor([0.5, 0.5]), (True, False)).out)


def test_statistics_update_running_ones_as_batch_norm_does() -> None:
    norm = torch.nn.BatchNorm2d(3, affine=False, momentum=0.1)
    x = torch.randn(4, 3, 5, 5) * 2 + 1
    _, mean, var = mixed_sum([x], torch.ones(1), (True,))
    running_mean, running_var = norm.running_mean.lerp(mean[0], 0.1), norm.running_var.lerp(var[0], 0.1)
    norm(x)
    torch.testing.assert_close(running_mean, norm.running_mean)
    torch.testing.assert_close(running_var, norm.running_var)
    assert not mean.requires_grad and not var.requires_grad


def test_constant_channel_is_finite() -> None:
    z = torch.full((2, 3, 4, 4), 7.0, requires_grad=True)
    result = mixed_sum([z], torch.ones(1), (True,))
    assert result.out.abs().max() == 0
    assert result.var.abs().max() == 0
    result.out.sum().backward()
    assert z.grad.isfinite().all()


def test_nan_in_a_branch_is_passed_on() -> None:
    z = torch.randn(2, 3, 4, 4)
    z[0, 1, 2, 3] = float("nan")
    out, mean, var = mixed_sum([z], torch.ones(1), (True,))
    assert out[:, 1].isnan().all() and mean[0, 1].isnan() and var[0, 1].isnan()
    assert out[:, 0].isfinite().all()


X = torch.zeros(2, 3, 4, 4)
W = torch.ones(2)
YES = (True, True)
STAT = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("args", "options", "says"),
    [
        (([], torch.ones(0), ()), {}, "no branches"),
        (([X[0], X[0]], W, YES), {}, r"branch 0 .*\[3, 4, 4\]"),
        (([X[:0], X[:0]], W, YES), {}, r"non-empty .*\[0, 3, 4, 4\]"),
        (([X, X[:1]], W, YES), {}, r"branch 1 is \[1, 3, 4, 4\] and branch 0 is \[2, 3, 4, 4\]"),
        (([X, X.to("meta")], W, YES), {}, "branch 1 is on meta"),
        (([X, X.long()], W, YES), {}, "branch 1 is torch.int64"),
        (([X, X], torch.ones(3), YES), {}, r"weights must be \[2\].*got \[3\]"),
        (([X, X], torch.ones(1, 2), YES), {}, r"weights must be \[2\].*got \[1, 2\]"),
        (([X, X], [0.5, 0.5], YES), {}, r"weights must be a tensor \[2\], got list"),
        (([X, X], W.long(), YES), {}, "weights must be floating point, got torch.int64"),
        (([X, X], W.to("meta"), YES), {}, "weights are on meta but the branches on cpu"),
        (([X, X], W, (True,)), {}, "got 1 for 2 branches"),
        (([X[:1, :, :1, :1]] * 2, W, YES), {}, r"more than one value per channel, got .*\[1, 3, 1, 1\]"),
        (([X, X], W, YES), {"running": (STAT[:1], STAT)}, r"running mean must be \[2, 3\].*got \[1, 3\]"),
        (([X, X], W, YES), {"running": (STAT, STAT.T)}, r"running var must be \[2, 3\].*got \[3, 2\]"),
        (([X, X], W, YES), {"running": (STAT.to("meta"), STAT)}, "running mean is on meta"),
        (([X, X], W, YES), {"eps": -1.0}, "eps must be a finite number, at least 0, got -1.0"),
        (([X, X], W, YES), {"impl": "cuda"}, "impl is 'cuda': choose one of native, triton, reference"),
    ],
)
def test_bad_input_gets_one_sentence(args: tuple, options: dict, says: str) -> None:
    with pytest.raises(FastdartsError, match=says) as error:
        mixed_sum(*args, **options)
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")


def test_an_explicit_implementation_never_falls_back() -> None:
    with pytest.raises(RuntimeError, match="cannot run as 'triton': Triton kernels run on CUDA"):
        mixed_sum([X, X], W, YES, impl="triton")
    with pytest.raises(RuntimeError, match=r"cannot run as 'native': .*float32 and float64, not bfloat16"):
        mixed_sum([X.bfloat16(), X.bfloat16()], W, YES, impl="native")


def test_implementations_tell_what_runs_where_and_why() -> None:
    rows = {(row.op, row.device, row.name): row for row in implementations()}
    assert rows["mixed_sum", "any", "reference"].available
    assert rows["mixed_sum", "cpu", "native"].available == native()["loaded"]
    assert rows["mixed_sum", "cuda", "triton"].available == torch.cuda.is_available()
    assert all(row.reason for row in rows.values())


def test_compiles_as_one_graph() -> None:
    z = [z_k.detach().requires_grad_() for z_k in branches(2, 3, 4, 4, dtype=torch.float32)]
    weights = torch.rand(3, requires_grad=True)

    def loss(weights, *z):
        return mixed_sum(z, weights, (True, False, True)).out.square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    ours = torch.autograd.grad(compiled(weights, *z), (weights, *z))
    truth = torch.autograd.grad(loss(weights, *z), (weights, *z))
    torch.testing.assert_close(ours, truth)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", TEST_CASES, ids=lambda case: case.id)
def test_triton_on_a_gpu(case: MixedSumCase, dtype: torch.dtype) -> None:
    for deviation in deviations(case, "triton", dtype, device="cuda"):
        assert not deviation.wrong, deviation
