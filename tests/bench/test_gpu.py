"""`make gpu` without a GPU: its parts on tiny sizes, what it does with parts that fail, and its tables of results that
are made up (tests/data/gpu_synthetic, which nobody has measured)."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_parts
from benchmarks.gpu import Part, Runner
from benchmarks.gpu_tables import NOT_MEASURED, render
from fastdarts.bench import timing, warm
from fastdarts.bench.cases import EdgeCase, EvaluationCase, StepCase
from fastdarts.bench.check import Wrong
from fastdarts.bench.replay import replay_step
from fastdarts.errors import FastdartsError
from tests.support.fake_graphs import FakeRecorder, fake_graphs
from tests.support.paths import DATA, ROOT

SYNTHETIC = DATA / "gpu_synthetic"


def test_where_no_gpu_is_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith("make gpu: no GPU is here: run it on a machine with one")
    assert len(done.stderr.splitlines()) == 1


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_part_that_fails_or_takes_too_long_does_not_end_the_others(tmp_path: Path) -> None:
    runner = Runner(tmp_path / "out", seconds=60.0, rehearse=True)
    child = (
        "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('started', flush=True); time.sleep(60)"
    )
    begun = time.monotonic()
    runner.run(Part("long", 3.0, python(child)), Part("wrong", 30, python("print('why'); raise SystemExit(3)")))
    assert 3 <= time.monotonic() - begun < 20
    runner.run(Part("absent", 30, ["/no/such/command"]))
    runner.run(Part("right", 30, python("import os; print(os.environ['CHOSEN'])"), {"CHOSEN": "cuda"}))
    runner.end = time.monotonic()
    runner.run(Part("late", 30, python("pass")))
    content = json.loads((tmp_path / "out" / "parts.json").read_text(encoding="utf-8"))
    ended = {row["part"]: row["ended"] for row in content["rows"]}
    assert content["rehearsal"] and list(ended) == ["wrong", "long", "absent", "right", "late"]
    assert ended["wrong"] == "exit code 3" and ended["long"] == "not done after 3 s" and ended["right"] == ""
    assert "No such file" in ended["absent"] and ended["late"] == "no time was left"
    log = (tmp_path / "out" / "log").read_text(encoding="utf-8")
    assert "--- right\ncuda\n" in log and "wrong: exit code 3" in log and "why" in log
    sleeping = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True).stdout
    assert not any(line.split() == ["1", "sleep", "60"] for line in sleeping.splitlines())


class Noted(Runner):
    """Runs nothing; the environment part finds two implementations."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 470.0, rehearse=False)
        self.parts: list[Part] = []

    def run(self, *parts: Part) -> None:
        self.parts += parts
        rows = [("cuda", True), ("triton", True), ("other", False)]
        known = [{"op": "mixed_op", "device": "cuda", "name": name, "available": there} for name, there in rows]
        content = {"rehearsal": False, "rows": [{"implementations": known}]}
        (self.folder / "environment.json").write_text(json.dumps(content), encoding="utf-8")
        checks = {"rows": [{"case": "a", "wrong": "off"}]}
        (self.folder / "checks-cuda.json").write_text(json.dumps(checks), encoding="utf-8")


def test_every_part_is_a_command_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/usr/bin/{name}")
    runner = Noted(tmp_path)
    gpu.everything(runner)
    names = [part.name for part in runner.parts]
    assert len(set(names)) == len(names)
    for name in ("build", "warm", "environment", "checks-cuda", "tests-triton", "sanitizer-cuda", "steps-triton"):
        assert name in names
    for part in runner.parts:
        command = shlex.join(part.command)
        if "benchmarks.gpu_parts" in part.command:
            options = gpu_parts.parser().parse_args(part.command[part.command.index("benchmarks.gpu_parts") + 1 :])
            assert options.folder == tmp_path and part.environment == (
                {gpu.VARIABLE: options.label} if options.label else {}
            )
            assert options.alone == (part.name in ("mixed-op-triton", "steps-triton"))
        elif "pytest" in part.command:
            assert all((ROOT / file).is_file() for file in gpu.GPU_TESTS) and "-m gpu" in command
        else:
            assert part.name in ("build", "install")
    once = [part.seconds for part in runner.parts if not part.name.startswith(("build", "tests", "sanitizer"))]
    assert sum(once) < 900  # of which the time ends the last ones


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long and has tests of its own is left out: starts of processes, and the comparison with float64."""
    monkeypatch.setattr(gpu_parts, "check", lambda case, device: None)
    monkeypatch.setattr(gpu_parts, "ProcessPoolExecutor", lambda workers, *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(timing, "_memory", lambda *_: {"peak_mib": 1.0})
    monkeypatch.setattr(gpu_parts.batches, "_peak", lambda case, side, device, n: (n + 2) * 2**20)
    monkeypatch.setattr(gpu_parts, "warm_up", lambda cases, device, processes: {"kernels": len(cases), "seconds": 1.0})


@pytest.mark.usefixtures("quick")
def test_a_rehearsal_goes_through_every_part_and_its_tables(tmp_path: Path) -> None:
    plan = gpu_parts.rehearsal()
    for name, part in gpu_parts.PARTS.items():
        label = "" if name in ("environment", "warm") else "native"
        path = tmp_path / f"{name}{'-native' * bool(label)}.json"
        part(plan, gpu_parts.Results(path, plan, label), argparse.Namespace(label=label, alone=False))
    assert gpu.kernels(tmp_path, rehearse=True) == ["native"]
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.json")}
    assert all(content["rehearsal"] for content in read.values())
    assert [row["wrong"] for row in read["checks-native"]["rows"]] == [""] * 3
    rows = {row["case"]: row for name in ("mixed-op-native", "steps-native") for row in read[name]["rows"]}
    assert list(rows) == [str(case) for case in plan.edges + plan.steps]
    assert all(side["ms"] > 0 for row in rows.values() for side in row["sides"].values())
    assert [row["batch"] for row in read["largest-native"]["rows"]] == [38, 38]  # (n + 2) MiB of 40
    [profiled] = read["profile-native"]["rows"]
    assert any("mixed_op" in kernel["name"] for kernel in profiled["kernels"]) and profiled["launches"] > 100
    (tmp_path / "parts.json").write_text('{"rehearsal": true, "rows": []}', encoding="utf-8")
    with pytest.raises(FastdartsError, match="is a rehearsal, whose numbers mean nothing"):
        render(tmp_path)
    text = render(tmp_path, rehearsal=True)
    assert text.startswith(NOT_MEASURED) and all(f"| {case} |" in text for case in rows)


def test_cases_that_are_wrong_are_not_timed(tmp_path: Path) -> None:
    plan = gpu_parts.rehearsal()
    wrong = [{"case": str(plan.edges[0]), "wrong": "Wrong: out is off by 1"}]
    (tmp_path / "checks-cuda.json").write_text(json.dumps({"rows": wrong}), encoding="utf-8")
    only = gpu_parts.times_of(lambda plan: plan.edges)
    only(plan, gpu_parts.Results(tmp_path / "x.json", plan, "cuda"), argparse.Namespace(label="cuda", alone=True))
    rows = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["rows"]
    assert [("sides" in row, row["wrong"]) for row in rows] == [(False, "Wrong: Wrong: out is off by 1")] * 2


@pytest.mark.parametrize(
    "case", [StepCase(False, channels=4, layers=3, batch=2, size=8), EvaluationCase(4, 3, 2, 16)], ids=str
)
def test_a_replayed_step_has_the_bits_of_others(
    case: StepCase | EvaluationCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_graphs() as made:
        replay_step(case, device="cpu").run()
        [recorder] = made
        assert recorder.recorded >= 1 and recorder.replayed >= 2
        monkeypatch.setattr(FakeRecorder, "replaying", False)
        with pytest.raises(Wrong, match=f"of {case} is another when its passes are replayed"):
            replay_step(case, device="cpu")


def test_a_worker_compiles_its_share_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    cases = [EdgeCase(4, 8, 16)]
    met, done = warm.compile_share(cases, "cpu", own=5, processes=10**6)
    assert done == 1 and met > 14 and len(list(tmp_path.rglob("*.cubin"))) == 1
    assert warm.compile_share(cases, "cpu", own=10**6 - 1, processes=10**6) == (met, 0)


def test_tables_of_results_that_are_made_up() -> None:
    text = render(SYNTHETIC)
    assert "Measured on gpu MADE UP 1, driver_version 0.0" in text
    lines = text.splitlines()
    [head] = [line for line in lines if line.startswith("| case | eager NCHW, ms")][:1]
    cells = [cell.strip() for cell in head.strip("|").split("|")]
    assert cells[1:] == [
        "eager NCHW, ms", "eager channels-last, ms", "eager NCHW, CUDA graph, ms", "cuda, ms", "cuda, CUDA graph, ms",
        "triton, ms", "best of ours beside the best peer", "peak MiB",
    ]  # fmt: skip
    [row] = [line for line in lines if line.startswith("| MixedOp C16 32×32 N64 |")]
    assert row == "| MixedOp C16 32×32 N64 | 8 | 6 | 5 | 1 | 0.5 | 2 | 10.0× | 400 / 300 / 100 / 90 |"
    [row] = [line for line in lines if line.startswith("| first-order step C16 8 cells N64 |")]
    assert row.split(" | ")[1:5] == ["200", "failed", "20", "10.0×"]
    assert "first-order step C16 8 cells N64, eager channels-last: OutOfMemoryError: made up." in text
    assert "first-order step C16 8 cells N4096, cuda: not timed, OutOfMemoryError: made up." in text
    assert "- cuda: 1 of 2 cases agree" in text and "- MixedOp C32 16×16 N2: Wrong: made up." in text
    assert "- cuda: 2 tests passed, 1 failed." in text
    assert "| fastdarts | first-order step C16 8 cells | 1,000 | 2,048 |" in text
    assert "first-order step C16 8 cells N64: 20 ms, of which kernels are 10 ms in 100 launches." in text
    assert "| made_up_kernel | 8 | 10 | 80.0% |" in text
    assert "| made_up_kernel(float*) | 12.5 us | 80.00 % | 40.00 % | 64 register/thread | 50.00 % |" in text
    assert text.endswith("- compile-cuda: not done after 45 s\n")
