"""mixed_op's CUDA kernels without a GPU: the very sources, emulated on the CPU, by the rule of all kernels."""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cases import MIXED_OP_TEST_CASES, SEARCHED, MixedOpCase
from benchmarks.compare import deviations, deviations_of
from fastdarts.bench.check import deviations_from
from fastdarts.functional import Candidate
from fastdarts.functional import mixed_op as functional_mixed_op
from fastdarts.kernels import registry
from fastdarts.kernels.mixed_op.call import Launch
from fastdarts.kernels.mixed_op.traffic import TRAFFIC
from tests.support.emulated import COMPILER, mixed_op
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("emulated", "poisoned_memory")


@pytest.fixture(scope="module")
def emulated() -> Iterator[None]:
    torch.ops.load_library(mixed_op("-O2"))
    with registry.on_cpu("fastdarts_emulated"):
        yield


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Of float32: "ieee" or "tf32"."""
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, precision
    yield
    convolutions.fp32_precision = before


@pytest.mark.parametrize("case", MIXED_OP_TEST_CASES, ids=lambda case: case.id)
def test_no_worse_than_twice_eager(case: MixedOpCase) -> None:
    with products("ieee"):
        found = deviations(case, "cuda", torch.float32)
    for deviation in found:
        assert not deviation.wrong, deviation


class Tf32(TorchDispatchMode):
    """1×1 convolutions of float32 and their gradients take operands of 10 bits, as on tensor cores."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        places = {torch.ops.aten.convolution.default: (0, 1), torch.ops.aten.convolution_backward.default: (0, 1, 2)}
        weight = args[places[op][-1]] if op in places else None
        if weight is not None and weight.shape[2:] == (1, 1) and weight.dtype is torch.float32:
            args = [_rounded(a) if i in places[op] else a for i, a in enumerate(args)]
        return op(*args, **(kwargs or {}))


def _rounded(x: Tensor) -> Tensor:
    bits = x.view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("case", MIXED_OP_TEST_CASES, ids=lambda case: case.id)
def test_tf32_is_no_worse_than_twice_eager_in_tf32(case: MixedOpCase) -> None:
    with products("tf32"):
        ours = case.results("cuda", torch.float32)
    with Tf32():
        found = deviations_of(ours, case, torch.float32)
    for deviation in found:
        assert not deviation.wrong, deviation


def test_too_many_channels_for_a_block_are_refused_in_a_sentence() -> None:
    """A block of the emulated device has 227 KiB of shared memory; the gradients of a stage take 80 bytes an output."""
    x = torch.randn(1, 4, 2, 2, requires_grad=True)
    weights = [torch.randn(3200, 4, 1, 1)]
    candidates = [Candidate(0, "relu_conv", weights)]
    result = functional_mixed_op(x, candidates, torch.ones(1, 3200), impl="cuda")
    with pytest.raises(RuntimeError, match=r"too many channels .* FASTDARTS_GPU=triton"):
        torch.autograd.grad(result.out[0].sum(), x)
    small = functional_mixed_op(x, [Candidate(0, "relu_conv", [weights[0][:8]])], torch.ones(1, 8), impl="cuda")
    assert torch.autograd.grad(small.out[0].sum(), x)[0].isfinite().all()  # the refusal leaves nothing behind


DROPPED = (("dropped_skip", "sep_conv_3x3"), ("noise", "skip_connect", "dropped_skip"))
TWO = (SEARCHED, ("sep_conv_3x3", "noise", "dil_conv_3x3", "avg_pool_3x3"))
EVERYTHING = ("x", "gain", "offset", "base", "branches")


COUNTED = "fastdarts_counted"  # kernels that choose their grids as on a GPU of the usual size


class Counted(TorchDispatchMode):
    """The launches that the counter says of the calls inside."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace == COUNTED:
            name = op.name().replace(COUNTED, "fastdarts")
            self.launches += TRAFFIC["cuda"][name](*args).launches
        return op(*args, **(kwargs or {}))


def noted_launches(library: str) -> list[list[int]]:
    """Blocks, threads of a block and bytes of dynamic shared memory of every launch since the last call."""
    buffer = (ctypes.c_int64 * 3000)()
    count = ctypes.CDLL(library).device_launches(buffer, 1000)
    return [list(buffer[3 * i : 3 * i + 3]) for i in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=("fp32", "bf16"))
@pytest.mark.parametrize(
    ("case", "wanted", "memory"),
    [
        (MixedOpCase("edge", (1, 16, 4, 5)), EVERYTHING, "store"),
        (MixedOpCase("state", (2, 4, 4, 4), TWO, base=True, affine=True), EVERYTHING, "store"),
        (MixedOpCase("state-stride2", (1, 4, 6, 8), TWO, 2), EVERYTHING, "store"),
        (MixedOpCase("dropped", (2, 4, 4, 4), DROPPED), EVERYTHING, "store"),
        (MixedOpCase("alphas", (2, 4, 4, 3)), ("gain",), "store"),
        (MixedOpCase("alphas-and-x", (2, 4, 4, 3)), ("gain", "x"), "store"),
        (MixedOpCase("recompute", (2, 4, 4, 3)), EVERYTHING, "recompute"),
        (MixedOpCase("evaluation", (2, 4, 4, 3), training=False), EVERYTHING, "store"),
        (MixedOpCase("blocks", (1, 40, 3, 3), (("sep_conv_3x3", "avg_pool_3x3"),)), EVERYTHING, "store"),
        (MixedOpCase("preprocessing", (1, 33, 4, 3), (("relu_conv_1x1",),), outputs=70), ("branches",), "store"),
        (MixedOpCase("tiles", (3, 8, 20, 33), (("max_pool_3x3", "sep_conv_5x5"),)), EVERYTHING, "store"),
    ],
    ids=lambda value: value.id if isinstance(value, MixedOpCase) else None,
)
def test_every_launch_has_the_programs_that_the_counter_says(
    case: MixedOpCase, wanted: tuple[str, ...], memory: str, dtype: torch.dtype
) -> None:
    """Programs, threads of each, and shared memory: what the predictions in docs/gpu.md take from a model."""
    tensors, grads = case.inputs(dtype)
    tensors = {name: t.detach().requires_grad_(name.startswith(wanted)) for name, t in tensors.items()}
    library = str(mixed_op("-O0", ops=COUNTED))
    torch.ops.load_library(library)
    noted_launches(library)
    with registry.on_cpu(COUNTED), products("tf32"), Counted() as counted:
        torch.autograd.backward(case.ours(tensors, "cuda", memory).out, grads)
    found = noted_launches(library)
    counted_runs = [launch.runs for launch in counted.launches if launch.runs]  # setting memory to 0 has no programs
    assert [blocks for blocks, *_ in found] == [sum(run.programs for run in runs) for runs in counted_runs]
    assert [threads for _, threads, _ in found] == [32 * runs[0].warps for runs in counted_runs]
    assert [shared for *_, shared in found] == [max(run.shared for run in runs) for runs in counted_runs]


def test_parts_of_weight_gradients_take_no_more_than_a_bounded_memory() -> None:
    """Of 512 channels 128 chunks would take 840 MiB. Kernels are not started: only what is planned counts."""
    case = MixedOpCase("parts", (512, 512, 1, 1), (("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),))
    torch.ops.load_library(mixed_op("-O0", ops=COUNTED))
    ops = torch.ops.fastdarts_counted
    tensors, grads = case.inputs(torch.float32)
    ops.dry_run(True)
    try:
        with registry.on_cpu(COUNTED):
            out = case.ours(tensors, "cuda").out
            with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as prof:
                torch.autograd.grad(out, [*tensors.values()], grads)
    finally:
        ops.dry_run(False)
    taken = max(e.nbytes() for e in prof.profiler.kineto_results.events() if e.name() == "[memory]")
    maps = 6 * 512 * 512 * 4  # gradients of depthwise outputs
    assert 100 << 20 < taken < (128 << 20) + maps + (8 << 20)  # most of what is allowed: a GPU has enough to do


def results(case: MixedOpCase, impl: str, dtype: torch.dtype, **kinks) -> tuple[dict[str, Tensor], list[Tensor]]:
    tensors, grads = case.inputs(dtype)
    out, mean, var, noted = case.ours(tensors, impl, **kinks)
    gradients = torch.autograd.grad(out, [*tensors.values()], grads, materialize_grads=True)
    found = {f"grad_{name}": gradient for name, gradient in zip(tensors, gradients, strict=True)}
    found |= {"mean": mean, "var": var} | {f"out{e}": t for e, t in enumerate(out)}
    return {name: t.detach().double() for name, t in found.items()}, noted


WHOLE = [case for case in MIXED_OP_TEST_CASES if case.partial == 1]  # interleave has the others


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, (torch.bfloat16, torch.float16)[i % 2]) for i, case in enumerate(WHOLE)],
    ids=lambda value: getattr(value, "id", str(value)),
)
def test_half_precision_is_no_worse_than_twice_the_reference(case: MixedOpCase, dtype: torch.dtype) -> None:
    """All take the side of every kink that the truth takes: a value on the other side has another gradient."""
    truth, kinks = results(case, "reference", torch.float64, note=True)
    ours, eager = (results(case, impl, dtype, kinks=kinks)[0] for impl in ("cuda", "reference"))
    for deviation in deviations_from(truth, ours, eager, torch.finfo(dtype).eps):
        assert not deviation.wrong, deviation


def watched(runtimes: list[str], options: list[str], *arguments: str, **environment: str) -> str:
    """What the cases of emulated_runs print, under a sanitizer."""
    library = mixed_op(*options, "-g1")
    found = [subprocess.check_output([COMPILER, f"-print-file-name=lib{name}.so"], text=True) for name in runtimes]
    preload = {"LD_PRELOAD": ":".join(path.strip() for path in found), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.emulated_runs", str(library), *arguments]
    everything = os.environ | preload | environment
    done = subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


def test_no_address_is_wrong() -> None:
    checks = "-fsanitize=address,alignment,bounds,shift,signed-integer-overflow"
    options = {"ASAN_OPTIONS": "detect_leaks=0"}
    assert watched(["asan", "ubsan"], [checks, "-fno-sanitize-recover=all", "-O1"], **options) == "all cases ran\n"


def test_no_race_and_none_without_a_barrier_that_passes() -> None:
    options = {"TSAN_OPTIONS": "halt_on_error=1 die_after_fork=0"}
    # inlined: gcc does not watch a store of what a function returns
    assert json.loads(watched(["tsan"], ["-fsanitize=thread", "-O2"], "races", **options)) == []
