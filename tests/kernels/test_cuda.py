"""The CUDA kernels without a GPU: the very source runs emulated on the CPU, and is compiled for three generations."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.cases import FLAT_TEST_CASES, FlatCase, aside
from benchmarks.compare import flat_deviations
from fastdarts.functional import flat_rates
from tests.support.cuda_resources import ARCHITECTURES, RECORD, instructions_of, nvcc, version
from tests.support.emulated import ADDRESS, EMULATOR, THREAD, compile_emulated, succeeded
from tests.support.paths import ROOT
from tests.support.records import INSTRUCTIONS, more_instructions, recorded

TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


class Emulated:
    """The launchers of flat.cu, called as torch calls them, on CPU tensors."""

    def __init__(self, library: Path):
        self.compiled = ctypes.CDLL(str(library))

    def call(self, name: str, first: Tensor, *arguments: Tensor | float | int | None) -> None:
        convert = {float: ctypes.c_double, int: ctypes.c_int64, bool: ctypes.c_bool}
        values = [
            ctypes.c_void_p(a.data_ptr() if isinstance(a, Tensor) else None)
            if a is None or isinstance(a, Tensor)
            else convert[type(a)](a)
            for a in (first, *arguments, None)  # the last is the stream
        ]
        assert getattr(self.compiled, f"fastdarts_flat_{name}")(TYPES[first.dtype], *values) == 0

    def norm(self, x: Tensor) -> Tensor:
        blocks = self.compiled.fastdarts_flat_norm_blocks(ctypes.c_int64(x.numel()))
        partial = torch.full((blocks,), torch.nan, dtype=torch.float64)
        out = torch.full((), torch.nan, dtype=torch.float64 if x.dtype is torch.float64 else torch.float32)
        self.call("norm", x, x.numel(), partial, out)
        return out

    def run(self, case: FlatCase, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        w, grad, v, above, below = (tensors[name] for name in ("w", "grad", "v", "above", "below"))
        momentum = tensors.get("momentum")
        rates, norm = flat_rates(case.lr, case.mu, case.weight_decay), self.norm(v)
        results = {name: aside(w).fill_(torch.nan) for name in ("unrolled", "above", "below", "hypergradient")}
        self.call("unroll", results["unrolled"], w, grad, momentum, case.size, rates)
        self.call("perturb", results["above"], w, v, norm, case.size, case.radius)
        self.call("perturb", results["below"], w, v, norm, case.size, -case.radius)
        others = above, below, norm, case.size, case.radius
        self.call("hypergradient", results["hypergradient"], grad, *others, rates[:1])
        stepped = {"w": aside(w)} | ({} if momentum is None else {"momentum": aside(momentum)})
        clip = (self.norm(grad), case.size, case.max_norm)
        self.call("sgd", stepped["w"], stepped.get("momentum"), grad, *clip, rates, False)
        return {"norm": norm} | results | stepped


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    library = tmp_path_factory.mktemp("emulated") / "flat.so"
    succeeded(compile_emulated(library, ROOT / "csrc/cuda/flat/flat.cu", "-O1", "-shared"))
    return Emulated(library)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("case", FLAT_TEST_CASES, ids=lambda case: case.id)
def test_emulated_no_worse_than_twice_eager(case: FlatCase, dtype: torch.dtype, emulated: Emulated) -> None:
    def run(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return emulated.run(case, tensors)

    if dtype is torch.float64:  # the truth is float64 itself: no ratio there, as in test_flat.py
        both = (flat_deviations(case, run, kind) for kind in (torch.float32, torch.float64))
        for single, double in zip(*both, strict=True):
            assert double.ours <= single.allowed * 2**-20, double
        return
    for deviation in flat_deviations(case, run, dtype):
        assert not deviation.wrong, deviation


def test_emulated_norm_of_more_blocks_than_the_second_kernel_has_threads(emulated: Emulated) -> None:
    x = torch.randn(4096 * 257 + 11)
    assert emulated.norm(x).item() == pytest.approx(x.double().norm().item(), rel=2**-23)


def test_emulated_on_nothing(emulated: Emulated) -> None:
    empty = torch.empty(0)
    assert emulated.norm(empty).item() == 0
    emulated.call("sgd", empty, None, empty, None, 0, 5.0, flat_rates(0.1, 0.9, 0.01), False)


@pytest.mark.parametrize("norm", [torch.inf, torch.nan])
def test_emulated_step_is_left_out_where_the_norm_is_not_finite(norm: float, emulated: Emulated) -> None:
    w, momentum, before = torch.ones(5), torch.full((5,), 2.0), torch.ones(5)
    arguments = momentum, torch.ones(5), torch.tensor(norm), 5, 1.0, flat_rates(0.1, 0.9, 0.01)
    emulated.call("sgd", w, *arguments, True)
    assert torch.equal(w, before)
    assert torch.equal(momentum, 2 * before)
    emulated.call("sgd", w, *arguments, False)
    assert not torch.equal(w, before)


def test_emulated_updates_over_the_weights(emulated: Emulated) -> None:
    w, v = torch.randn(2, 5000)
    norm, expected = emulated.norm(v), torch.empty(5000)
    emulated.call("perturb", expected, w, v, norm, 5000, 0.5)
    emulated.call("perturb", w, w, v, norm, 5000, 0.5)
    assert torch.equal(w, expected)


def test_emulated_clipping_lets_nan_through_and_stretches_nothing(emulated: Emulated) -> None:
    grad = torch.tensor([3.0, 4.0])
    for norm, step in ((5.0, 0.2), (0.5, 1.0), (float("nan"), float("nan")), (float("inf"), 0.0)):
        w = torch.zeros(2)
        emulated.call("sgd", w, None, grad, torch.tensor(norm), 2, 1.0, flat_rates(1.0), False)
        torch.testing.assert_close(w, -step * grad, equal_nan=True)


PLANTED = {  # what is put into the source, and which sanitizer must see it
    "clean, addresses": (ADDRESS, None, ("0", "33", "4103"), ""),
    "clean, races": (THREAD, None, ("4103",), ""),
    "no barrier": (THREAD, ("  __syncthreads();\n", ""), ("4103",), "data race"),
    "one element too many": (ADDRESS, ("if (first < n % N)", "if (first <= n % N)"), ("33",), "heap-buffer-overflow"),
    "a barrier in a branch": (
        "undefined",
        ("  __syncthreads();\n", "  if (threadIdx.x < 32) __syncthreads();\n"),
        ("33",),
        "threads wait at a barrier that others have left",
    ),
}


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, subprocess.Popen]]:
    """The compilers of all of them, started at once."""
    folder = tmp_path_factory.mktemp("sanitized")
    started = {}
    for i, (name, (sanitizer, planted, _, _)) in enumerate(PLANTED.items()):
        text = (ROOT / "csrc/cuda/flat/flat.cu").read_text(encoding="utf-8")
        assert planted is None or planted[0] in text
        source = folder / f"{i}.cu"
        source.write_text(text if planted is None else text.replace(*planted), encoding="utf-8")
        options = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-O1", "-g")
        started[name] = (
            folder / f"{i}",
            compile_emulated(folder / f"{i}", source, *options, str(EMULATOR / "programs" / "flat.cpp")),
        )
    return started


@pytest.mark.parametrize("name", PLANTED)
def test_under_sanitizers(name: str, sanitized: dict[str, tuple[Path, subprocess.Popen]]) -> None:
    _, planted, sizes, report = PLANTED[name]
    program, compiler = sanitized[name]
    succeeded(compiler)
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run([program, *sizes], capture_output=True, text=True, timeout=300, env=environment)
    if planted is None:
        assert done.returncode == 0 and done.stdout == "all updates ran\n" and not done.stderr, done.stderr
    else:
        assert done.returncode != 0 and report in done.stderr, done.stderr


@pytest.mark.skipif(not nvcc(), reason="no nvcc: neither CUDA_HOME is set nor is it on PATH")
def test_compiles_ahead_of_time_within_the_recorded_resources() -> None:
    command = [sys.executable, "-m", "tests.support.cuda_resources"]
    # three minutes of CPU time on a fast host
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, used in found.items():
        assert used["spilled"] == 0, name
    record = recorded(RECORD, version(), "python -m tests.support.cuda_resources")
    assert found.keys() == record.keys() and {name.split()[-1] for name in found} == {f"sm_{a}" for a in ARCHITECTURES}
    issued = recorded(INSTRUCTIONS, f"cuda {version()}", "python -m tests.support.cuda_resources")
    assert instructions_of(found).keys() == issued.keys()
    assert not more_instructions(instructions_of(found), issued)
    for name, used in found.items():
        allowed = record[name]
        assert used["registers"] <= allowed["registers"] and used["shared"] <= allowed["shared"], (name, used)
        assert used["occupancy"] >= allowed["occupancy"], (name, used)
