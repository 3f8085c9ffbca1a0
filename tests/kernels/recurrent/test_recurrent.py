"""recurrent: the fused recurrent cell against the published one in float64, and what it promises."""

import pytest
import torch
from torch import library
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cases import RECURRENT_TEST_CASES, RecurrentCase
from benchmarks.compare import deviations, worst_deviations
from fastdarts.errors import FastdartsError
from fastdarts.functional import implementations, native, recurrent
from fastdarts.kernels.recurrent.contract import backward_op, forward_op

pytestmark = pytest.mark.usefixtures("poisoned_memory")

NATIVE = torch._C._dispatch_has_kernel_for_dispatch_key("fastdarts::recurrent", "CPU")
needs_native = pytest.mark.skipif(not NATIVE, reason=f"no native kernel of recurrent: {native()['reason']}")
IMPLS = ["reference", pytest.param("native", marks=needs_native)]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", RECURRENT_TEST_CASES, ids=lambda case: case.id)
def test_no_worse_than_twice_eager(case: RecurrentCase, impl: str) -> None:
    in_float32, in_float64 = worst_deviations(case, impl, torch.float32), deviations(case, impl, torch.float64)
    for single, double in zip(in_float32, in_float64, strict=True):
        assert not single.wrong, single
        # The truth is float64 itself: no ratio there, but a float32 step inside would cost a factor of 2^29.
        assert double.ours <= single.allowed * 2**-20, double


def small(dtype: torch.dtype = torch.float64) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    tensors, mask, _ = RecurrentCase("small", 2, 4, 2, 2).inputs(dtype)
    return tensors, mask


def out(mask, impl, inputs, hidden, *rest) -> torch.Tensor:
    *weights, mixing = rest
    return recurrent(inputs, hidden, weights, mixing, mask=mask, impl=impl).out


@pytest.mark.parametrize("impl", IMPLS)
def test_first_and_second_derivatives(impl: str) -> None:
    tensors, mask = small()
    assert torch.autograd.gradcheck(lambda *values: out(mask, impl, *values), (*tensors.values(),))
    assert torch.autograd.gradgradcheck(lambda *values: out(mask, impl, *values), (*tensors.values(),))


class Flags(TorchDispatchMode):
    """Which gradients every call of the backward op was for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op is backward_op.dispatch:
            self.seen.append(args[-4:])
        return op(*args, **(kwargs or {}))


@needs_native
def test_only_the_gradients_asked_for_are_computed() -> None:
    tensors, mask = small()
    names, values = [*tensors], [*tensors.values()]
    everything = dict(zip(names, torch.autograd.grad(out(mask, "native", *values).sin().sum(), values), strict=True))
    for wanted, flags in (
        (["mixing"], (False, False, False, True)),
        (["inputs"], (True, False, False, False)),
        (["hidden", "mixing"], (False, True, False, True)),
        (["weight1"], (False, False, True, False)),
    ):
        with Flags() as backward:
            found = torch.autograd.grad(out(mask, "native", *values).sin().sum(), [tensors[name] for name in wanted])
        assert backward.seen == [flags]
        assert all(torch.equal(g, everything[name]) for name, g in zip(wanted, found, strict=True))


@needs_native
def test_nothing_is_kept_without_gradients_and_half_of_eager_at_most_with_them() -> None:
    tensors, mask, _ = RecurrentCase("kept", 3, 64, 64, 8).inputs(torch.float32)

    def kept(call) -> int:
        storages = {}

        def pack(t: torch.Tensor) -> torch.Tensor:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage()
            return t.detach()  # the result itself, saved by what made it, would keep both alive for ever

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            call()
        return sum(storage.nbytes() for storage in storages.values())

    case = RecurrentCase("kept", 3, 64, 64, 8)
    assert kept(lambda: case.ours(tensors, mask)) <= kept(lambda: case.eager(tensors, mask)) / 4
    with torch.no_grad():
        values = [t.detach() for t in tensors.values()]
        result = forward_op.dispatch(values[0], values[1], values[2:-1], mask, values[-1], 1e-5, False)
        assert result[3].numel() == result[4].numel() == 0
        assert torch.equal(result[0], case.ours(tensors, mask).out)


@needs_native
def test_same_bits_every_time() -> None:
    """For one number of threads: the products are the library's."""
    case = RecurrentCase("threads", 2, 40, 130, 5)

    def run(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        tensors, mask, grad = case.inputs(torch.float32)
        result = case.ours(tensors, mask, "native")
        return [*result, *torch.autograd.grad(result.out, [*tensors.values()], grad)]

    before = torch.get_num_threads()
    try:
        results = [run(threads) for threads in (1, 1, 2, 2)]
    finally:
        torch.set_num_threads(before)
    for first, second in (results[:2], results[2:]):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_tanh_and_sigmoid_are_within_three_units_in_the_last_place(dtype: torch.dtype) -> None:
    """Seen through state 0 of h = 0: its mean over equal streams is σ(c) tanh(n)."""
    limit = 80 if dtype is torch.float32 else 600
    x = torch.cat([torch.linspace(-limit, limit, 4001), torch.logspace(-9, 0.5, 2000), -torch.logspace(-9, 0.5, 2000)])
    x, far = x.to(dtype), torch.tensor(50.0, dtype=dtype)
    for c, n, exact in (
        (far.expand_as(x), x, x.double().tanh()),
        (x, far.expand_as(x), x.double().sigmoid()),
    ):
        inputs, width = torch.cat([c, n]).expand(1, 2, -1), len(x)
        weights = torch.zeros(width, 1, dtype=dtype).expand(-1, 2 * width)
        mean = recurrent(
            inputs, x.new_zeros(2, width), [weights, weights], torch.zeros(1, 4, dtype=dtype), impl="native"
        ).mean[0, 0]
        ulp = torch.finfo(dtype).eps * exact.abs()
        assert ((mean.double() - exact).abs() <= 3 * ulp).all()


def test_nan_is_passed_on() -> None:
    tensors, mask = small(torch.float32)
    with torch.no_grad():
        tensors["inputs"][1, 2, 0] = float("nan")
        result = RecurrentCase("small", 2, 4, 2, 2).ours(tensors, mask)
    assert result.out[0].isfinite().all() and result.out[1].isnan().any() and result.mean[1, 0, 0].isnan()


def test_statistics_are_those_of_the_batch() -> None:
    tensors, mask, _ = RecurrentCase("statistics", 2, 6, 4, 2).inputs(torch.float64)
    result = recurrent(*map(tensors.get, ("inputs", "hidden")), [tensors[f"weight{i}"] for i in range(3)],
                       tensors["mixing"], mask=mask)  # fmt: skip
    gates = tensors["inputs"][0] + (tensors["hidden"] * mask) @ tensors["weight0"]
    u = tensors["hidden"] + gates[:, :4].sigmoid() * (gates[:, 4:].tanh() - tensors["hidden"])
    torch.testing.assert_close(result.mean[0, 0], u.mean(0).detach())
    torch.testing.assert_close(result.var[0, 0], u.var(0).detach())
    assert not result.mean.requires_grad and not result.var.requires_grad


@needs_native
def test_opcheck() -> None:
    tensors, mask = small(torch.float32)
    inputs, hidden, *weights, mixing = (t.detach() for t in tensors.values())
    for store in (True, False):
        library.opcheck(forward_op.dispatch, (inputs, hidden, weights, mask, mixing, 1e-5, store))
    result, _, var, states, gates = forward_op.dispatch(inputs, hidden, weights, mask, mixing, 1e-5, True)
    for need in (True, False):
        args = (result, inputs, hidden, weights, mask, mixing, 1e-5, result, var, states, gates, need, True, need, need)
        library.opcheck(backward_op.dispatch, args)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_runs_the_reference(dtype: torch.dtype) -> None:
    for deviation in deviations(RecurrentCase("half", 2, 16, 6, 2), None, dtype):
        assert not deviation.wrong, deviation
    tensors, mask = small(dtype)
    with pytest.raises(RuntimeError, match=r"cannot run as 'native': .*float32 and float64, not"):
        out(mask, "native", *tensors.values())


def test_implementations_tell_what_runs_where() -> None:
    rows = {(row.op, row.device, row.name): row for row in implementations()}
    for op in ("recurrent", "recurrent_backward"):
        assert rows[op, "cpu", "native"].available == native()["loaded"]
        assert rows[op, "cuda", "triton"].available == torch.cuda.is_available()


X, H, W, P = torch.zeros(2, 3, 8), torch.zeros(3, 4), [torch.zeros(4, 8)] * 3, torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("args", "options", "says"),
    [
        ((X, H[0], W, P), {}, r"hidden must be .* \[B, H\], got \[4\]"),
        ((X, H[:0], W, P), {}, r"hidden must be a non-empty"),
        ((X, H.long(), W, P), {}, "hidden .*torch.int64"),
        ((X[:, :1], H[:1], W, P), {}, "two streams or more, got one"),
        ((X, H, W[:1], P), {}, "one for each node, got 1 of them"),
        ((X[:0], H, W, P), {}, r"one time step or more, got \[0, 3, 8\]"),
        ((X[:, :, :6], H, W, P), {}, r"inputs must be \[2, 3, 8\].*got \[2, 3, 6\]"),
        ((X.double(), H, W, P), {}, "inputs is torch.float64 on cpu, expected torch.float32"),
        ((X, H, [*W[:2], W[0].T], P), {}, r"weight 2 must be \[4, 8\].*got \[8, 4\]"),
        ((X, H, [*W[:2], None], P), {}, "weight 2 must be a tensor, got NoneType"),
        ((X, H, W, P[:2]), {}, r"mixing must be \[3, 4\].*got \[2, 4\]"),
        ((X, H, W, P.double()), {}, "mixing is torch.float64"),
        ((X, H, W, P), {"mask": H[:2]}, r"mask must be \[3, 4\].*got \[2, 4\]"),
        ((X, H, W, P), {"mask": H.clone().requires_grad_()}, "mask requires a gradient"),
        ((X, H, W, P), {"eps": -1.0}, "eps must be a finite number"),
        ((X, H, W, P), {"impl": "cuda"}, "choose one of native, triton, reference"),
    ],
)
def test_bad_input_gets_one_sentence(args: tuple, options: dict, says: str) -> None:
    with pytest.raises(FastdartsError, match=says) as error:
        recurrent(*args, **options)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", RECURRENT_TEST_CASES[2:], ids=lambda case: case.id)
def test_triton_on_a_gpu(case: RecurrentCase, dtype: torch.dtype) -> None:
    for deviation in deviations(case, "triton", dtype, device="cuda"):
        assert not deviation.wrong, deviation
