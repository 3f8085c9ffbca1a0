"""The benchmarks themselves: what they measure, whom they compare with, and what they refuse to time."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from fastdarts.bench import batch, recurrent, run, timing
from fastdarts.bench.cases import COMPILED, EAGER, LAST, OURS, SIDES, EdgeCase, InferenceCase, StepCase
from fastdarts.bench.check import Wrong, check
from fastdarts.bench.forecast import APART, CALLS, USUAL_SHARES, Forecast, format_duration
from fastdarts.bench.measure import MIB, conv_flops, interleave, number, peak_memory, pin_malloc, saved_bytes
from fastdarts.bench.table import print_report
from fastdarts.bench.updates import FlatCase, Weights, cases, measure_flat, print_flat
from fastdarts.errors import FastdartsError
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.spaces.recurrent.cell import DARTSCellSearch
from tests.support.bench import bench
from tests.support.paths import ROOT

EDGE = EdgeCase(4, 8, batch=2)
STEP = StepCase(unrolled=True, channels=4, layers=3, batch=2, size=8)
NASBENCH201 = StepCase(False, space="nasbench201", channels=4, layers=8, batch=2, size=8)
TINY = ("--suite=pc-darts", "--batch=2", "--threads=1", "--seconds=0")


def test_the_table_says_what_was_measured(tmp_path: Path) -> None:
    done = bench(*TINY, "--json", str(tmp_path / "bench.json"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert report["machine"]["threads"] == 1 and report["machine"]["malloc"] == "pinned"
    assert [row["case"] for row in report["cases"]] == [
        "MixedOp C4 32×32 N2",
        "MixedOp C8 16×16 N2",
        "MixedOp C16 8×8 N2",
    ]
    table = [re.split(r" *\| *", line.strip("| ")) for line in done.stdout.splitlines() if line.startswith("| MixedOp")]
    for row, cells in zip(report["cases"], table, strict=True):
        sides = row["sides"]
        assert [*sides] == [EAGER, LAST, OURS]
        medians = [sorted(values["rounds_ms"])[1] for values in sides.values()]  # of three rounds
        assert medians == pytest.approx([values["ms"] for values in sides.values()])
        speed_ups = " / ".join(f"{peer / medians[2]:.1f}×" for peer in medians[:2])
        assert cells[:5] == [row["case"], *map(number, medians), speed_ups]
        # Every branch of the public code keeps several maps of the size of x, and takes memory for them.
        for kind in ("saved_per_byte", "peak_mib"):
            assert sides[EAGER][kind] > sides[OURS][kind] > 0
        said = ", ".join(f"{side} {values['ms']:.3g} ms" for side, values in sides.items())
        assert f"{row['case']} ...\n  {said}\n" in done.stderr  # as soon as it is known
        shares = [values["sgemm_share"] * values["ms"] for values in sides.values()]
        assert shares == pytest.approx([row["gflop"] / report["machine"]["sgemm_gflops"] * 1e3] * 3)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("lambda self, x, w: right(self, x, w) * 1.0001", "out of MixedOp C4 32×32"),
        ("lambda self, x, w: right(self, x + 1e-3 * (x - x.detach()), w)", "grad of x of MixedOp C4 32×32"),
        ("lambda self, x, w: right(self, x, w + (w - w.detach()))", "grad of mixing weights of MixedOp C4 32×32"),
        ("EagerMixedOp.forward", "runs no kernel of fastdarts"),
    ],
)
def test_wrong_results_are_not_timed(tmp_path: Path, fault: str, named: str) -> None:
    before = (
        "from fastdarts.spaces.cells.supernet import MixedOp; from fastdarts.bench.eager import EagerMixedOp; "
        f"right = MixedOp.forward; MixedOp.forward = {fault}"
    )
    done = bench(*TINY, "--json", str(tmp_path / "bench.json"), before=before)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("fastdarts: 3 cases were not timed") and named in done.stderr
    assert done.stdout.count("not timed, ") == 3
    rows = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["cases"]
    assert len(rows) == 3 and all("wrong" in row and "sides" not in row for row in rows)


def test_without_native_kernels_nothing_is_timed() -> None:
    done = bench(*TINY, before="sys.modules['fastdarts._C'] = None")
    assert done.returncode == 2 and done.stdout == ""
    assert "fastdarts: nothing to time, fastdarts was built without its native kernels" in done.stderr


def test_a_compiler_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail(function: Callable, **_: object) -> Callable:
        def forward(*_: object) -> None:
            raise RuntimeError("no compiler\nhere")

        return forward

    monkeypatch.setattr(torch, "compile", fail)
    row = timing.measure(EDGE, seconds=0, compile=True, sgemm_gflops=100.0)
    assert row["sides"][COMPILED] == {"failed": "RuntimeError: no compiler"}
    facts = dict.fromkeys(("cpu", "isa", "threads", "torch", "fastdarts", "malloc", "compiler"), "x")
    print_report({"machine": facts | {"sgemm_gflops": 100.0}, "cases": [row]})
    printed = capsys.readouterr().out
    assert "| failed " in printed and f"{EDGE}, torch.compile: RuntimeError: no compiler" in printed


@pytest.mark.parametrize("case", [STEP, NASBENCH201], ids=str)
@pytest.mark.parametrize("side", SIDES[:2])
def test_the_public_code_runs_in_its_memory_format_from_the_images_on(side: str, case: StepCase) -> None:
    work = case.work(side)
    seen = []
    for name, conv in work.model.named_modules():
        if isinstance(conv, nn.Conv2d) and not name.endswith("conv_2"):  # that of FactorizedReduce reads a slice
            conv.register_forward_pre_hook(lambda conv, inputs: seen.append(inputs[0]))
    work.forward()
    form = torch.channels_last if side == LAST else torch.contiguous_format
    assert len(seen) > 50 and all(x.is_contiguous(memory_format=form) for x in seen)


@pytest.mark.parametrize("case", [replace(STEP, unrolled=False), STEP, NASBENCH201], ids=str)
def test_both_sides_of_a_step_are_the_same_step(case: StepCase) -> None:
    check(case)
    eager, ours = (case.work(side, torch.float64) for side in (EAGER, OURS))
    for _ in range(2):  # the second has momentum
        expected, found = eager.run(), ours.run()
    for (name, a), (_, b) in zip(eager.model.named_parameters(), ours.model.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=name)
    assert expected.keys() == found.keys() and len(found) == 1 + len(ours.model.arch_parameters()) + len(
        [*ours.model.parameters()]
    )
    for name in expected:
        torch.testing.assert_close(expected[name], found[name], rtol=1e-6, atol=1e-9, msg=name)


def test_a_step_with_a_wrong_edge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MixedOp.forward
    monkeypatch.setattr(MixedOp, "forward", lambda op, x, w: right(op, x, w) + (op._ops[0].stride == 2) * 1e-4)
    with pytest.raises(Wrong, match=r"out of MixedOp C8 8×8 N2 stride 2 is off by"):
        check(STEP)


def test_inference_is_timed_once_its_logits_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    case = InferenceCase(4, 3, batch=2, size=8)
    check(case)
    eager, ours = (case.work(side, torch.float64).run()["logits"] for side in (EAGER, OURS))
    assert not eager.requires_grad and torch.allclose(eager, ours, rtol=1e-9)
    right = timing.check.__globals__["_ours"]
    monkeypatch.setitem(timing.check.__globals__, "_ours", lambda *a: {"logits": right(*a)["logits"] + 1e-3})
    with pytest.raises(Wrong, match="logits of inference C4 3 cells N2 is off"):
        check(case)


def test_a_batch_that_is_given_times_no_case_twice() -> None:
    cases = run._cases("inference", (2,), ("float32",), ())
    assert [(case.channels, case.layers, case.batch) for case in cases] == [(16, 5, 2), (36, 8, 2)]


def test_what_is_left_is_corrected_by_what_is_done() -> None:
    small, large = EdgeCase(4, 8, batch=2), EdgeCase(4, 8, batch=20000)
    turn = sum(large.flops() / 1e9 / 100 / share for share in USUAL_SHARES)
    forecast = Forecast([small, large], 5.0, False, 100.0)
    expected = APART + turn + CALLS * turn
    assert CALLS * turn > 5 and forecast.left == pytest.approx(APART + 5 + expected, rel=1e-2)
    assert forecast.after(small, 2 * (APART + 5)) == pytest.approx(2 * expected, rel=1e-2)
    assert forecast.after(large, 1.0) == 0
    assert [format_duration(s) for s in (40, 420, 9000)] == ["40 s", "7 min", "2.5 h"]


def test_sides_take_turns_and_short_ones_begin_with_a_call_that_is_not_timed() -> None:
    calls = []

    def side(name: str) -> None:
        calls.append(name)
        time.sleep(1.1 * (name == "b"))

    timings = interleave({name: partial(side, name) for name in "abc"}, seconds=0)
    assert "".join(calls) == "abc" + "aabcc" * 3
    assert [len(timing.seconds) for timing in timings.values()] == [3, 3, 3]
    assert min(timings["b"].seconds) > 1.1 > 1 > max(timings["a"].seconds)


def test_what_is_not_used_any_more_goes_back_to_the_system_between_cases() -> None:
    code = """
import torch
from fastdarts.bench.measure import _status, give_back, pin_malloc
assert pin_malloc()
tensors = [torch.ones(2**18) for _ in range(200)]
full = _status("VmRSS")
del tensors
kept = _status("VmRSS")
give_back()
print(full - kept < 2**20, kept - _status("VmRSS") > 190 * 2**20)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["True", "True"], result.stdout + result.stderr


def test_saved_bytes_of_a_convolution_and_of_batch_norm() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    weight = torch.randn(5, 3, 1, 1, requires_grad=True)
    assert saved_bytes(lambda: F.conv2d(x, weight), x, weight) == 0
    assert saved_bytes(lambda: F.conv2d(F.relu(x), weight), x, weight) == x.nbytes  # kept by both, counted once
    statistics = 2 * 3 * 4  # mean and 1/√var
    assert saved_bytes(lambda: F.batch_norm(x + 1, None, None, training=True), x) == x.nbytes + statistics


def test_nominal_operations_of_known_convolutions() -> None:
    convs = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.Conv2d(4, 6, 1))
    pixels = 2 * 4 * 4  # of two images, after the stride
    assert conv_flops(convs, lambda: convs(torch.randn(2, 4, 8, 8))) == 2 * pixels * (4 * 9 + 6 * 4)
    two_sep_convs_twice_and_two_dil_convs = 2 * (2 * 2) * 64 * 4 * 4 + 2 * 2 * 64 * 4 * 4
    depthwise = 2 * 2 * 64 * 4 * (2 * 9 + 2 * 25 + 9 + 25)
    assert EDGE.flops() == 3 * (2 * two_sep_convs_twice_and_two_dil_convs + depthwise)
    assert STEP.flops() == 2.5 * replace(STEP, unrolled=False).flops()


def hold(mib: int) -> Callable[[], int]:
    """Lives in a module, so that another process finds it."""
    return lambda: torch.ones(mib, 2**18).sum().item()


def test_peak_memory_is_that_of_the_whole_process() -> None:
    assert peak_memory(hold, 256) == pytest.approx(256 * 2**20, rel=0.05)


def test_pinned_malloc_takes_no_fresh_pages() -> None:
    code = """
import resource, sys, torch
from fastdarts.bench.measure import pin_malloc
torch.set_num_threads(1)
assert sys.argv[1:] == [] or pin_malloc()
for turn in range(40):
    if turn == 36:  # by then the heap has grown
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16, 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    if not pin_malloc():
        pytest.skip("this C library has no mallopt")
    default, pinned = (
        int(subprocess.run([sys.executable, "-c", code, *argument], capture_output=True, text=True, check=True).stdout)
        for argument in ([], ["pin"])
    )
    assert default > 1000 > 10 > pinned


def test_the_suites_of_pytest_benchmark_record_every_side(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks/bench_mixed_op.py",
        "-k",
        "C4",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    options = ["--batch=2", "--seconds=0", f"--benchmark-json={tmp_path / 'bench.json'}"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0 and "not used" not in done.stdout, done.stdout
    results = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["benchmarks"]
    assert [(r["group"], r["name"]) for r in results] == [("MixedOp C4 32×32 N2", side) for side in (EAGER, LAST, OURS)]
    for result in results:
        assert result["stats"]["rounds"] == 3
        assert result["stats"]["median"] == pytest.approx(result["extra_info"]["ms"] / 1e3)
        assert {"cpu", "isa", "threads", "malloc", "peak_mib"} <= result["extra_info"].keys()


def test_flat_updates_are_timed_once_they_agree(capsys: pytest.CaptureFixture) -> None:
    weights = Weights(channels=2, layers=3)
    rows = [measure_flat(case, weights, 0.0) for case in cases(weights)]
    assert all(side["ms"] > 0 and side["copy_share"] > 0 for row in rows for side in row["sides"].values())
    print_flat(rows, dict.fromkeys(("cpu", "isa", "threads", "torch", "fastdarts", "compiler", "malloc"), "known"))
    out = capsys.readouterr().out
    assert f"{weights.w.numel():,} weights" in out and all(row["case"] in out for row in rows)
    wrong = FlatCase("wrong", 1, {"a": lambda: [torch.ones(2)], "b": lambda: [torch.zeros(2)]})
    with pytest.raises(Wrong, match="wrong is off by 1 from torch's"):
        measure_flat(wrong, weights, 0.0)


@pytest.mark.parametrize("per_image", [0.5, 3.0, 40.0, 700.0, 2000.0])
@pytest.mark.parametrize("beyond", [10**9, 40])
def test_the_largest_batch_is_bracketed_by_measurements(per_image: float, beyond: int) -> None:
    """With a fixed cost, noise of 1 %, and where nothing larger can be computed at all."""
    calls = []

    def peak(n: int) -> float:
        calls.append(n)
        return float("inf") if n > beyond else (100 + per_image * n) * (1 + 0.01 * (n % 3 - 1))

    known = batch.largest(peak, 1000.0, {n: peak(n) for n in batch.SMALL})
    assert len(calls) == len(known) <= 16 and known == {n: peak(n) for n in known}
    fits = [n for n, taken in known.items() if taken <= 1000]
    over = min(n for n, taken in known.items() if taken > 1000 and n > max(fits, default=0))
    assert over - max(fits, default=0) <= batch.grain(max(fits, default=0))
    assert (per_image == 2000) == (not fits)


def test_the_largest_batch_of_a_step_is_one_that_a_process_fits(monkeypatch, capsys: pytest.CaptureFixture) -> None:
    tiny = StepCase(False, channels=4, layers=3, size=8, memory="recompute")
    checked = []  # a step is checked in tests of its own, for ten seconds
    monkeypatch.setattr(batch, "check", lambda *of: checked.append(of))
    monkeypatch.setattr(batch, "STEP", tiny)
    monkeypatch.setattr(batch, "ways", lambda _: [(OURS, OURS, tiny)])
    [row] = batch.measure_batch([24 * MIB], 0.0, "cpu", True)
    peaks = {int(n): taken for n, taken in row["peaks"].items()}
    assert checked == [(tiny, "cpu")]
    assert peaks[row["batch"]] <= 24 * MIB < min(taken for n, taken in peaks.items() if n > row["batch"])
    assert row["images_per_s"] == pytest.approx(row["batch"] / row["ms"] * 1e3)
    assert 0 < row["estimate"] < 24 * MIB
    batch.print_batch([row], dict.fromkeys(("cpu", "isa", "threads", "torch", "fastdarts"), "x"))
    assert "| largest batch in 24.0 MiB |" in capsys.readouterr().out


def test_a_budget_that_the_machine_has_not_is_refused() -> None:
    for budget, why in (("4096TiB", "the machine has"), ("much", "expected a number above 0 with a unit")):
        with pytest.raises(FastdartsError, match=f"--budget is '?{budget}'?: {why}"):
            run.bench(("batch",), budget=(budget,))


RECURRENT = recurrent.RecurrentCase("step", batch=64, hidden=32, steps=8, words=200)


def test_a_step_of_the_recurrent_search_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    row = recurrent.measure(RECURRENT, 0)
    eager, ours = row["sides"].values()
    assert eager["peak_mib"] > 2 * ours["peak_mib"] > 0
    facts = dict.fromkeys(("cpu", "isa", "threads", "torch", "fastdarts", "compiler", "malloc"), "?")
    recurrent.print_recurrent([row], facts | {"sgemm_gflops": 1.0})
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| first-order")]
    cells = re.split(r" *\| *", line.strip("| "))
    assert cells[0] == "first-order step H32 N64 T8 V200" and cells[3] == f"{eager['ms'] / ours['ms']:.1f}×"


def test_the_public_step_of_the_alphas_computes_the_gradients_of_the_weights_too(monkeypatch) -> None:
    wanted, grad = [], torch.autograd.grad

    def spy(loss: torch.Tensor, inputs: list, *rest: object, **options: object) -> tuple[torch.Tensor, ...]:
        wanted.append(len(inputs))
        return grad(loss, inputs, *rest, **options)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    for side in recurrent.SIDES:
        replace(RECURRENT, batch=2, steps=3).run(side)()
    assert wanted == [1 + 11, 1]  # of 11 are W_0 to W_8, the embedding and the biases of the decoder


def test_a_child_that_is_killed_for_memory_costs_no_row(tmp_path: Path, monkeypatch, capsys) -> None:
    def killed(*_: object) -> int:
        raise BrokenProcessPool("a process was terminated abruptly")

    cases, report = [replace(RECURRENT, what=what) for what in ("alphas", "weights")], tmp_path / "bench.json"
    monkeypatch.setattr(recurrent, "SUITE", cases)
    monkeypatch.setattr(recurrent, "check", lambda case: None)
    monkeypatch.setattr(recurrent, "peak_memory", killed)
    interleaved = recurrent.interleave

    def interrupted(sides: dict, seconds: float) -> dict:
        if report.exists() and json.loads(report.read_bytes()).get("rnn"):
            raise KeyboardInterrupt
        return interleaved(sides, seconds)

    monkeypatch.setattr(recurrent, "interleave", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.bench(("rnn",), seconds=0, json=report)
    [row] = json.loads(report.read_bytes())["rnn"]
    assert row["case"] == str(cases[0]) and all(side["ms"] > 0 for side in row["sides"].values())
    printed = capsys.readouterr().out
    assert "| failed → failed |" in printed
    assert f"{cases[0]}, eager: BrokenProcessPool: a process was terminated abruptly" in printed


def test_what_the_recurrent_suite_does_not_do_is_refused() -> None:
    for options, says in (
        ({"compile": True}, "--compile is given"),
        ({"traffic": True}, "--traffic is given"),
        ({"batch": (8, 1)}, "--batch is 1, but one stream has no batch statistics"),
    ):
        with pytest.raises(FastdartsError, match=says):
            run.bench(("mixed-op", "rnn"), **options)


def test_a_recurrent_cell_without_kernels_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DARTSCellSearch, "_fuses", lambda *_: False)
    with pytest.raises(Wrong, match="runs without fastdarts::recurrent and fastdarts::recurrent_backward"):
        recurrent.check(replace(RECURRENT, what="alphas"))


@pytest.mark.parametrize("what", ["alphas", "weights", "step", "unrolled"])
def test_a_wrong_recurrent_cell_is_not_timed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(RECURRENT, what=what)
    recurrent.check(case)
    right = DARTSCellSearch.forward

    def wrong(self: DARTSCellSearch, inputs: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out, last = right(self, inputs, *rest)
        return out + 1e-4 * (out - out.detach()), last

    monkeypatch.setattr(DARTSCellSearch, "forward", wrong)
    with pytest.raises(Wrong, match="off by"):
        recurrent.check(case)
