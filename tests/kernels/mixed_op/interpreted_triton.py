"""mixed_op's Triton kernels under the interpreter; test_triton.py runs them in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import GridExecutor

from benchmarks.cases import MIXED_OP_TEST_CASES, SEARCHED, MixedOpCase
from benchmarks.compare import deviations
from fastdarts.functional import Candidate, mixed_op
from fastdarts.kernels.mixed_op.triton import launchers

# The interpreter takes 0.3 ms for an operation on a tile, whatever its size: a second for most of these cases.
SLOW = (
    "wide",
    "two-edges",
    "sliced",
    "large-eps",
    "three-by",
    "large-mean",  # a smaller one is below
    "mixing-zero",
    "large-map",
    "many-samples",
    "C64-8x8",
    "cell-",
    "nchw",
    "sep_conv_7x7-stride1",
    "partial",  # interleave's own tests have those
)
EDGES = ("edge-C3", "edge-C12-stride2")
CASES = [
    case
    for case in MIXED_OP_TEST_CASES
    if case.id in (*EDGES, "cell-affine-base-stride2", "evaluation-one-value")
    or not case.id.startswith((*SLOW, "edge-"))
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_no_worse_than_twice_eager(case: MixedOpCase) -> None:
    for deviation in deviations(case, "triton", torch.float32):
        assert not deviation.wrong, deviation


MIXED = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")


def results(case: MixedOpCase, impl: str, memory: str = "store", dtype=torch.float32) -> dict[str, torch.Tensor]:
    tensors, grads = case.inputs(dtype)
    out, mean, var, _ = case.ours(tensors, impl, memory)
    gradients = torch.autograd.grad(out, [*tensors.values()], grads)
    return dict(zip(tensors, gradients, strict=True)) | {"mean": mean, "var": var} | dict(enumerate(out))


def test_many_tiles_chunks_and_blocks_of_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of several tiles, and more channels than one block of inputs or outputs: partial results are merged."""
    monkeypatch.setattr(launchers, "MAX_CHUNKS", 3)
    monkeypatch.setattr(launchers, "MAX_WEIGHT_CHUNKS", 2)
    pixels = MixedOpCase("chunks", (2, 3, 23, 23), (("max_pool_3x3", "relu_conv_1x1", "sep_conv_3x3"),), mean=3.0)
    channels = MixedOpCase("channels", (1, 40, 3, 3), (("sep_conv_3x3", "avg_pool_3x3"),))
    wide = MixedOpCase("outputs", (1, 33, 4, 3), (("relu_conv_1x1",),), outputs=70)
    for case in (pixels, channels, wide):
        ours, truth = results(case, "triton"), results(case, "reference", dtype=torch.float64)
        for name, exact in truth.items():
            scale = max(1.0, exact.abs().max().item())
            torch.testing.assert_close(ours[name].double(), exact, rtol=0, atol=3e-5 * scale)


class Ops(TorchDispatchMode):
    """The names of PyTorch's operations that are called."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.add(op.overloadpacket.__name__)
        return op(*args, **(kwargs or {}))


def test_six_launches_forward_eight_backward_and_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    launches, run = [], GridExecutor.__call__

    def counting(self: GridExecutor, *args, **kwargs) -> None:
        launches.append(self.fn.__name__)
        run(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", counting)
    for edges in ((MIXED,), (MIXED, MIXED)):
        case = MixedOpCase("launches", (2, 4, 4, 3), edges, affine=True)
        tensors, grads = case.inputs(torch.float32)
        case.ours(tensors, "triton")  # makes the tables
        launches.clear()
        with Ops() as ops:
            out = case.ours(tensors, "triton").out
            assert len(launches) == 6, launches
            torch.autograd.grad(out, [*tensors.values()], grads)
        assert len(launches) == 14, launches
        # (the interpreter itself calls copy_)
        assert not ops.names & {"clone", "_to_copy", "fill_", "zero_", "zeros_like", "cat", "stack"}, ops.names


@pytest.mark.parametrize("stride", [1, 2])
def test_recomputing_and_repeating_give_the_same_bits(stride: int) -> None:
    case = MixedOpCase("again", (2, 6, 5, 4), (MIXED, ("sep_conv_5x5",)), stride, base=True, affine=True)
    first, *others = (results(case, "triton", memory) for memory in ("store", "store", "recompute"))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_only_the_gradients_asked_for() -> None:
    case = MixedOpCase("some", (2, 4, 4, 3), (MIXED,), affine=True)
    everything = results(case, "triton")
    for wanted in (["x"], ["gain"], ["offset", "branches"], ["gain", "branches"], ["x", "gain"]):
        tensors, grads = case.inputs(torch.float32)
        leaves = {name: t.detach().requires_grad_(name.startswith(tuple(wanted))) for name, t in tensors.items()}
        torch.autograd.backward(case.ours(leaves, "triton").out, grads)
        for name, leaf in leaves.items():
            assert (leaf.grad is not None) == leaf.requires_grad
            if leaf.requires_grad:
                assert torch.equal(leaf.grad, everything[name]), (wanted, name)


def test_nan_and_infinity_pass_through_relus_and_pools() -> None:
    x = torch.randn(1, 3, 4, 5)
    x[0, 0, 1, 2], x[0, 1, 0, 0] = float("nan"), float("inf")
    weights = [torch.randn(3, 1, 3, 3), torch.randn(3, 3, 1, 1)]
    candidates = [
        Candidate(0, "max_pool"),
        Candidate(0, "avg_pool"),
        Candidate(0, "skip"),
        Candidate(0, "dil_conv", weights),
    ]
    running = (torch.zeros(4, 3), torch.ones(4, 3))
    ours, truth = (
        mixed_op(x, candidates, torch.ones(4, 3), running=running, impl=impl).out[0] for impl in ("triton", "reference")
    )
    torch.testing.assert_close(ours, truth, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", SEARCHED)
def test_half_precision_is_no_worse_than_twice_eager(name: str, dtype: torch.dtype) -> None:
    """One candidate at a time: a value that is rounded to the other side of a ReLU would be compared with nothing."""
    case = MixedOpCase("half", (2, 16, 5, 4), ((name,),), base=True, affine=True)
    for deviation in deviations(case, "triton", dtype):
        assert not deviation.wrong, deviation
    tensors, _ = case.inputs(dtype)
    out, mean, var, _ = case.ours(tensors, "triton")
    assert {o.dtype for o in out} == {dtype} and mean.dtype is var.dtype is torch.float32


def test_under_autocast_maps_are_bfloat16_and_every_gradient_is_of_the_type_of_its_tensor() -> None:
    case = MixedOpCase("autocast", (2, 4, 3, 4), (("max_pool_3x3", "dil_conv_3x3"),), base=True, affine=True)
    wide, _ = case.inputs(torch.float32)
    rounded, grads = case.inputs(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        ours = case.ours(wide, "triton")
    expected = case.ours(rounded, "triton")
    for a, b in zip((*ours.out, ours.mean, ours.var), (*expected.out, expected.mean, expected.var), strict=True):
        assert a.dtype is b.dtype and torch.equal(a, b)
    found = torch.autograd.grad(ours.out, [*wide.values()], grads)
    for a, b in zip(found, torch.autograd.grad(expected.out, [*rounded.values()], grads), strict=True):
        assert a.dtype is torch.float32 and torch.equal(a, b.float())


def test_float64_is_refused() -> None:
    x, gain = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="know float32, bfloat16 and float16, not float64"):
        mixed_op(x, [Candidate(0, "max_pool")], gain, impl="triton")
