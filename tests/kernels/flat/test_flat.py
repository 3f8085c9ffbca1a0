"""The flat updates against torch.optim.SGD, clip_grad_norm_ and the architect's formulas in float64; the promises."""

import math
from functools import partial

import pytest
import torch
from torch import library

from benchmarks.cases import FLAT_TEST_CASES, FlatCase
from benchmarks.compare import flat_deviations
from fastdarts.errors import FastdartsError
from fastdarts.functional import (
    flat_hypergradient,
    flat_norm,
    flat_perturb,
    flat_rates,
    flat_sgd,
    flat_unroll,
    implementations,
    native,
)
from fastdarts.kernels import flat, registry

pytestmark = pytest.mark.usefixtures("poisoned_memory")

needs_native = pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")
IMPLS = ["reference", pytest.param("native", marks=needs_native)]
LARGE = FlatCase("large", 1_100_003)  # from here on results are written past the caches


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", [*FLAT_TEST_CASES, LARGE], ids=lambda case: case.id)
def test_no_worse_than_twice_eager(case: FlatCase, impl: str) -> None:
    run = partial(case.ours, impl=impl)
    in_float32 = flat_deviations(case, run, torch.float32)
    in_float64 = flat_deviations(case, run, torch.float64)
    for single, double in zip(in_float32, in_float64, strict=True):
        assert not single.wrong, single
        assert double.ours <= single.allowed * 2**-20, double


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    for case in FLAT_TEST_CASES:
        for deviation in flat_deviations(case, case.ours, dtype):
            assert not deviation.wrong, (case.id, deviation)
    tensors = FLAT_TEST_CASES[0].inputs(dtype)
    assert flat_norm(tensors["v"]).dtype is torch.float32


@needs_native
def test_the_norm_is_that_of_exact_arithmetic() -> None:
    x = torch.randn(200_003) * torch.logspace(-15, 15, 200_003)
    exact = math.sqrt(math.fsum(value * value for value in x.double().tolist()))
    assert flat_norm(x, impl="native").item() == pytest.approx(exact, rel=2**-23)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_same_bits_every_time_and_for_every_number_of_threads(dtype: torch.dtype) -> None:
    def run(threads: int) -> dict[str, torch.Tensor]:
        torch.set_num_threads(threads)
        return LARGE.ours(LARGE.inputs(dtype), "native")

    before = torch.get_num_threads()
    try:
        first, *others = [run(threads) for threads in (1, 2, 2, 3)]
    finally:
        torch.set_num_threads(before)
    for other in others:
        assert all(torch.equal(first[name], result) for name, result in other.items())


@pytest.mark.parametrize("impl", IMPLS)
def test_the_result_may_be_written_over_the_weights(impl: str) -> None:
    tensors = FlatCase("alias", 5000).inputs(torch.float32)
    w, grad, v, momentum = (tensors[name] for name in ("w", "grad", "v", "momentum"))
    norm = flat_norm(v, impl=impl)
    for update in (
        partial(flat_unroll, grad=grad, momentum=momentum, lr=0.1, mu=0.9, impl=impl),
        partial(flat_perturb, v=v, norm=norm, radius=0.1, impl=impl),
    ):
        expected, over = update(w), w.clone()
        assert update(over, out=over) is over
        assert torch.equal(over, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_only_what_is_named_is_written(impl: str) -> None:
    tensors = FlatCase("written", 3000).inputs(torch.float64)
    before = {name: t.clone() for name, t in tensors.items()}
    buffers = {
        name: torch.cat([torch.full((64,), 7.0).double(), t, torch.full((64,), 7.0).double()])
        for name, t in tensors.items()
    }
    inner = {name: buffer[64:-64] for name, buffer in buffers.items()}
    norm = flat_norm(inner["grad"], impl=impl)
    flat_sgd(inner["w"], inner["grad"], inner["momentum"], norm, max_norm=1.0, lr=0.1, mu=0.9, impl=impl)
    changed = {name for name, t in inner.items() if not torch.equal(t, before[name])}
    assert changed == {"w", "momentum"}
    for buffer in buffers.values():
        assert (buffer[:64] == 7).all() and (buffer[-64:] == 7).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_tensors_are_fine(impl: str) -> None:
    empty = torch.empty(0)
    norm = flat_norm(empty, impl=impl)
    assert norm.item() == 0
    flat_sgd(empty, empty, empty.clone(), norm, lr=0.1, impl=impl)
    assert flat_unroll(empty, empty, lr=0.1, impl=impl).shape == (0,)


@pytest.mark.parametrize("impl", IMPLS)
def test_gradients_are_clipped_as_torch_does_it(impl: str) -> None:
    grad = torch.tensor([3.0, 4.0])
    for norm, step in ((5.0, 0.2), (0.5, 1.0), (math.nan, math.nan), (math.inf, 0.0)):
        w = torch.zeros(2)
        flat_sgd(w, grad, None, torch.tensor(norm), max_norm=1.0, lr=1.0, impl=impl)
        torch.testing.assert_close(w, -step * grad, equal_nan=True)
    w = torch.zeros(2)
    flat_sgd(w, grad, None, torch.tensor(5.0), lr=1.0, impl=impl)  # a norm without a bound clips nothing
    assert torch.equal(w, -grad)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("momentum", [None, torch.full((2,), 3.0)])
def test_a_step_can_be_left_out_where_the_norm_is_not_finite(impl: str, momentum: torch.Tensor | None) -> None:
    w, grad = torch.ones(2), torch.tensor([math.inf, 1.0])
    for norm in (math.inf, math.nan):
        kept = None if momentum is None else momentum.clone()
        flat_sgd(w, grad, kept, torch.tensor(norm), max_norm=1.0, lr=1.0, mu=0.9, only_finite=True, impl=impl)
        assert torch.equal(w, torch.ones(2))
        assert momentum is None or torch.equal(kept, momentum)
    clipped, plain = torch.ones(2), torch.ones(2)
    for target, only_finite in ((clipped, True), (plain, False)):
        flat_sgd(target, torch.ones(2), None, torch.tensor(2.0), max_norm=1.0, lr=0.5, only_finite=only_finite)
    assert torch.equal(clipped, plain)
    assert not torch.equal(clipped, torch.ones(2))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_in_a_tensor_are_the_numbers(impl: str, dtype: torch.dtype) -> None:
    w, grad, momentum, above, below = torch.randn(5, 1000, dtype=dtype).unbind()
    norm, numbers = flat_norm(grad, impl=impl), {"lr": 0.0123, "mu": 0.9, "weight_decay": 3e-4}
    rates = flat_rates(*numbers.values())
    ahead = [flat_unroll(w, grad, momentum, impl=impl, **own) for own in (numbers, {"rates": rates})]
    assert torch.equal(*ahead)
    stepped = [(w.clone(), momentum.clone()) for _ in range(2)]
    for (weights, buffer), own in zip(stepped, (numbers, {"rates": rates}), strict=True):
        flat_sgd(weights, grad, buffer, norm, max_norm=1.0, impl=impl, **own)
    assert all(map(torch.equal, *stepped))
    assert torch.equal(
        *(flat_hypergradient(w, above, below, norm, 0.01, lr=lr, impl=impl) for lr in (0.0123, rates[0]))
    )


@pytest.mark.parametrize("impl", IMPLS)
def test_a_direction_without_length_shows_as_nan(impl: str) -> None:
    w, v = torch.ones(3), torch.zeros(3)
    assert flat_perturb(w, v, flat_norm(v, impl=impl), 0.01, impl=impl).isnan().all()


def test_opcheck() -> None:
    w, grad, momentum, v = torch.randn(4, 100)
    norm = torch.tensor(2.0)
    library.opcheck(flat.norm_op.dispatch, (w,))
    rates = flat_rates(0.1, 0.9, 0.01)
    for buffer in (momentum, None):
        library.opcheck(flat.unroll_op.dispatch, (w.clone(), w, grad, buffer, rates))
        for only_finite in (False, True):
            library.opcheck(flat.sgd_op.dispatch, (w, buffer, grad, norm, 5.0, rates, only_finite))
    library.opcheck(flat.perturb_op.dispatch, (w.clone(), w, v, norm, 0.01))
    library.opcheck(flat.hypergradient_op.dispatch, (w.clone(), w, grad, v, norm, 0.01, rates[0]))


X, N = torch.zeros(4), torch.ones(())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: flat_norm(X, impl="triton"), "impl is 'triton': choose one of native, cuda, reference or None"),
        (lambda: flat_norm([1.0]), "x must be a contiguous, floating point tensor, got list"),
        (lambda: flat_norm(X.long()), r"x must be .*got a torch.int64 tensor with strides \[1\]"),
        (lambda: flat_norm(torch.zeros(4, 2)[:, 0]), r"x must be .*strides \[2\]"),
        (lambda: flat_unroll(X, X[:3], lr=0.1), r"grad is \[3\] in torch.float32 on cpu but w is \[4\]"),
        (lambda: flat_unroll(X, X, X.double(), lr=0.1), r"momentum is \[4\] in torch.float64 on cpu but w is \[4\]"),
        (lambda: flat_unroll(X, X, lr=0.1, out=X.to("meta")), r"out is \[4\] in torch.float32 on meta"),
        (lambda: flat_perturb(X, X, 1.0, 0.1), r"The norm must be \[\] in torch.float32 on cpu, got float"),
        (lambda: flat_perturb(X, X, X, 0.1), r"The norm must be .*got \[4\] in torch.float32 on cpu"),
        (lambda: flat_sgd(X, X, None, N.double(), lr=0.1), r"The norm must be .*got \[\] in torch.float64"),
        (lambda: flat_unroll(X, X, rates=X), r"rates must be \[3\] in torch.float64 on cpu, got \[4\]"),
        (lambda: flat_sgd(X, X, lr=0.1, rates=flat_rates(0.1)), "got lr 0.1 and rates"),
        (lambda: flat_sgd(X, X), "lr must be a number, got None"),
        (lambda: flat_hypergradient(X, X, X.clone().requires_grad_(), N, 0.1, lr=0.1), "below asks for a gradient"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(call, says: str) -> None:
    with pytest.raises(FastdartsError, match=says) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")


def test_weights_that_ask_for_gradients_are_updated_where_none_are_recorded() -> None:
    w = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        flat_sgd(w, torch.ones(3), lr=0.5)
    assert w.tolist() == [0.5] * 3


def test_an_explicit_implementation_never_falls_back() -> None:
    with pytest.raises(
        RuntimeError, match="flat_norm cannot run as 'cuda': the CUDA kernels run on CUDA tensors, not on cpu"
    ):
        flat_norm(X, impl="cuda")
    with pytest.raises(RuntimeError, match=r"cannot run as 'native': .*float32 and float64, not bfloat16"):
        flat_norm(X.bfloat16(), impl="native")


def test_a_gpu_without_compiled_kernels_is_an_error_in_strict_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a choice goes, which asks for no GPU."""
    reason = "fastdarts was built without CUDA kernels: set CUDA_HOME"
    monkeypatch.setitem(registry.MISSING, "cuda", reason)
    assert registry.select(flat.norm_op, None, "cuda", torch.float32) is flat.norm_op.reference
    rows = {(row.op, row.device): row for row in implementations()}
    assert rows["flat_norm", "cuda"] == ("flat_norm", "cuda", "cuda", False, reason)
    monkeypatch.setattr(registry, "STRICT", True)
    with pytest.raises(RuntimeError, match=f"FASTDARTS_STRICT=1 forbids the reference of flat_norm: {reason}"):
        registry.select(flat.norm_op, None, "cuda", torch.float32)
    monkeypatch.setitem(registry.MISSING, "cuda", "")
    assert registry.select(flat.norm_op, None, "cuda", torch.bfloat16) is flat.norm_op.dispatch


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [*FLAT_TEST_CASES, LARGE], ids=lambda case: case.id)
def test_on_a_gpu(case: FlatCase, dtype: torch.dtype) -> None:
    for deviation in flat_deviations(case, partial(case.ours, impl="cuda"), dtype, device="cuda"):
        assert not deviation.wrong, deviation


@pytest.mark.gpu
def test_a_cuda_graph_holds_the_updates() -> None:
    """No call waits for the device or looks at values: the norm of what is there at replay counts."""
    w, grad = torch.ones(1000, device="cuda"), torch.ones(1000, device="cuda")
    flat_norm(grad, impl="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        flat_sgd(w, grad, None, flat_norm(grad, impl="cuda"), max_norm=1.0, lr=1.0, impl="cuda")
    w.zero_()
    grad.fill_(2.0)
    graph.replay()
    torch.testing.assert_close(w, torch.full_like(w, -(1000**-0.5)))
