"""The machine code of the kernels for CPUs: loops that lost their vectors or spill more than was recorded."""

import json

import pytest

from tests.support import assembly
from tests.support.assembly import RECORD, Found, compiler, surveyed, why_not
from tests.support.paths import ROOT

EXTENSION = next((ROOT / "fastdarts").glob("_C*.so"), None)
ADVICE = "look at it with `python -m tests.support.assembly`; --write records what is right"
DEPTHWISE = "_ZN9fastdarts4Avx24callINS_9DepthwiseIfLi8ELi1EEEEEvRKT_"


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    if reason := why_not(EXTENSION):
        pytest.skip(reason)
    rows = assembly.survey(EXTENSION)
    if not rows:
        pytest.skip("the extension has no symbols")
    return rows


def test_every_kernel_has_loops_with_vectors(found: dict[str, Found]) -> None:
    names = {name.partition(" ")[0] for name in found}
    assert names >= {"Depthwise", "DepthwiseData", "DepthwiseWeights", "Pointwise", "PointwiseWeights", "WeightedSum"}
    lost = [name for name, kernel in found.items() if kernel.without and name != "MaxPlaces Baseline"]
    assert not lost, f"{lost} compute number by number: {ADVICE}"


def test_loops_are_no_worse_than_recorded(found: dict[str, Found]) -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    if compiler(EXTENSION) != record["compiler"]:
        pytest.skip(f"recorded for {record['compiler']}, the extension is from {compiler(EXTENSION)}")
    bounds = {name: Found(*numbers) for name, numbers in record["kernels"].items()}
    assert found.keys() == bounds.keys(), ADVICE
    for name, kernel in found.items():
        bound = bounds[name]
        assert kernel.scalar <= bound.scalar, f"{name} has a new loop without vectors: {ADVICE}"
        assert kernel.spilled <= bound.spilled, f"{name} spills registers that it did not: {ADVICE}"


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        (["vfmadd231ps (%rax),%ymm1,%ymm2"], Found(1, 0, 0, 0)),
        (["vfmadd231ss (%rax),%xmm1,%xmm2"], Found(1, 1, 1, 0)),
        (["vmovaps %ymm3,0x40(%rsp)", "vmulps 0x40(%rsp),%ymm1,%ymm2"], Found(1, 0, 0, 2)),
        (["vmovss (%rax),%xmm1"], Found(1, 1, 0, 0)),
    ],
    ids=["vectors", "one by one", "spilled", "copied one by one"],
)
def test_what_is_counted(loop: list[str], expected: Found) -> None:
    """In a loop inside a loop, of a kernel for AVX2; what is outside does not count."""
    steps = ["vmovss %xmm1,0x8(%rsp)", "vmulss %xmm1,%xmm2,%xmm3", *loop, f"jne 1002 <{DEPTHWISE}+0x2>", "jmp 1000 <f>"]
    lines = [f"0000000000001000 <{DEPTHWISE}>:\n"]
    lines += [f"    {0x1000 + place:x}:\t{step.replace(' ', chr(9), 1)}\n" for place, step in enumerate(steps)]
    assert surveyed(lines, {"Depthwise"}) == {"Depthwise Avx2": expected}
    assert not surveyed(lines, {"Pointwise"})
