"""What the host does for a GPU: launches and compiled kernels against a record, and that counting leaves no trace."""

import json
from pathlib import Path

import pytest
import torch
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from fastdarts.bench import run
from fastdarts.bench.dry_run import cuda
from fastdarts.bench.host import CASES, IMPLEMENTATIONS, measure
from fastdarts.errors import FastdartsError
from fastdarts.nn.mixed_op import MixedOp
from tests.support.bench import bench
from tests.support.emulated import mixed_op
from tests.support.paths import DATA

RECORD = DATA / "host_counts.json"


def test_a_mixed_op_is_six_launches_forward_and_eight_backward() -> None:
    rows = {name: measure(build, "triton", seconds=0.0) for name, build in CASES["mixed-op"]}
    assert [row["launches"] for row in rows.values()] == [6, 6 + 8]
    forward, both = (row["host_ms"] for row in rows.values())
    assert 0 < forward < both


def test_launches_and_compiled_kernels_are_no_more_than_recorded(tmp_path: Path) -> None:
    """The record may be lowered by hand: it is what `fastdarts bench --host --json FILE` writes."""
    path = tmp_path / "host.json"
    answer = bench("--host", "--seconds", "0", "--json", str(path))
    assert answer.returncode == 0, answer.stderr
    report, record = json.loads(path.read_text(encoding="utf-8")), json.loads(RECORD.read_text(encoding="utf-8"))
    assert report["machine"].keys() >= {"cpu", "torch", "triton"}
    found = {row["case"]: row for row in report["cases"]}
    assert found.keys() == record.keys() == {name for suite in CASES.values() for name, _ in suite}
    for name, row in found.items():
        assert row["launches"] <= record[name]["launches"] and row["variants"] <= record[name]["variants"], name
        assert f"| {name} " in answer.stdout


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launches in CUDA C++ are those of the emulated library, which needs no toolkit."""
    torch.ops.load_library(mixed_op("-O0", ops="fastdarts_counted"))
    monkeypatch.setitem(IMPLEMENTATIONS, "cuda", lambda: cuda("fastdarts_counted"))


@pytest.mark.usefixtures("emulated")
def test_launches_in_cuda_are_no_more_than_recorded() -> None:
    """The record may be lowered by hand: it is what `fastdarts bench --host --implementation cuda` prints."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    for name, build in (case for suite in CASES.values() for case in suite):
        row = measure(build, "cuda", seconds=0.0)
        assert 0 < row["launches"] <= record[name]["cuda"], name
        assert row["host_ms"] > 0 and row["variants"] == 0


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(("implementation", "launches"), [("triton", 6), ("cuda", 5)])
def test_counting_leaves_the_ops_as_they_were(implementation: str, launches: int) -> None:
    x, weights = torch.randn(2, 4, 8, 8), torch.full((8,), 1 / 8)
    op = MixedOp(4, 1)
    before, compiles, active = op(x, weights), JITFunction._do_compile, driver._active
    with IMPLEMENTATIONS[implementation]() as counts:
        assert not op(x, weights).equal(before) and counts.taken() == launches
    assert op(x, weights).equal(before)
    assert JITFunction._do_compile is compiles and driver._active is active


def test_what_is_not_counted_is_refused() -> None:
    for options, says in (
        ({"suite": ("step", "ops")}, "--suite is ops, but --host counts suites mixed-op and step"),
        ({"traffic": True}, "--traffic is given"),
        ({"batch": (8,)}, "--batch is given"),
    ):
        with pytest.raises(FastdartsError, match=says):
            run.bench(**{"suite": ("step",), "host": True} | options)
