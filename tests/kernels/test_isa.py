"""Every instruction set of the native kernels against eager PyTorch, each in a process of its own."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

_C = pytest.importorskip("fastdarts._C", reason="no native kernels: fastdarts was built without them")

COMPILED = ("avx512bf16", "avx512f", "avx2", "baseline")
# Every kind, both strides, all kernels; C = 1 to 64 and maps of 1 to 141 columns, which choose among all tiles.
RULES = "test_no_worse_than_twice_eager or test_bfloat16 or test_recomputing or test_nan_passes"
CASES = f"test_leftovers or test_every_size or test_tanh_and_sigmoid or native and ({RULES})"


def python(code: str, isa: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter whose kernels are limited to `isa`."""
    env = os.environ | {"FASTDARTS_ISA": isa}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, env=env, cwd=ROOT)


@pytest.mark.parametrize("isa", COMPILED)
def test_the_kernels_are_right_on_every_instruction_set(isa: str) -> None:
    if isa not in _C.isas():
        pytest.skip(f"this machine has {', '.join(_C.isas())}, not {isa}")
    if isa == _C.isa():
        pytest.skip(f"{isa} is what all other tests run on")
    result = python(
        f"""
import sys, pytest
from fastdarts.functional import native
assert native()["isa"] == {isa!r}, native()
options = ["-q", "-p", "no:cacheprovider", "-k", {CASES!r}]
files = [f"tests/kernels/{{op}}/test_{{op}}.py" for op in ("mixed_op", "interleave", "mixed_sum", "flat", "recurrent")]
sys.exit(pytest.main([*options, *files]))
""",
        isa,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " skipped" not in result.stdout, result.stdout


def test_the_best_comes_first_and_is_the_default() -> None:
    assert _C.isas() == [isa for isa in COMPILED if isa in _C.isas()]
    result = python("from fastdarts.functional import native; print(native()['isa'])", "")
    assert result.stdout.split() == [_C.isas()[0]], result.stderr


@pytest.mark.parametrize("isa", ["avx1024", "AVX2", *(isa for isa in COMPILED if isa not in _C.isas())])
def test_an_instruction_set_that_the_machine_has_not_is_an_error(isa: str) -> None:
    result = python("from fastdarts import MixedOp", isa)
    assert result.returncode != 0
    says = f"ValueError: FASTDARTS_ISA is '{isa}', but on this machine the kernels can run as {', '.join(_C.isas())}: "
    assert result.stderr.splitlines()[-1].startswith(says), result.stderr


def test_without_native_kernels_it_is_an_error_too() -> None:
    result = python("import sys; sys.modules['fastdarts._C'] = None; from fastdarts import MixedOp", "avx2")
    says = "ValueError: FASTDARTS_ISA is 'avx2', but there are no native kernels: build them or unset it."
    assert result.stderr.splitlines()[-1] == says, result.stderr
