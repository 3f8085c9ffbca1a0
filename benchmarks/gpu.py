"""``make gpu``: everything that is to be known of a GPU at hand, in eight minutes.

    python -m benchmarks.gpu [--out FOLDER] [--seconds 470] [--rehearse]

Builds for this GPU while the Triton kernels are compiled on all cores. Compares with float64, times mixed operations
and whole steps, finds the largest batch, and profiles. Every part has its own limit. What fails or takes too long is
left behind. The folder holds a JSON file of each part, the output of all of them in `log`, and `tables.md`, which
`python -m benchmarks.gpu_tables FOLDER` writes again.

Needs torch and what pyproject.toml asks for, but nothing from a registry. Without nvcc or a C++ compiler the Triton
kernels are measured alone.

`--rehearse` goes the same way on the CPU with tiny sizes: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).parent.parent
VARIABLE = "FASTDARTS_GPU"
"""The environment variable that chooses among the kernels for a GPU."""
NEEDED = "PIL", "numpy", "rich", "torch", "torchvision"
GPU_TESTS = "tests/kernels/mixed_op/test_mixed_op.py", "tests/kernels/flat/test_flat.py"
SECTIONS = "SpeedOfLight", "Occupancy", "SchedulerStats", "WarpStateStats", "LaunchStats"


@dataclass(frozen=True)
class Part:
    """A command, the seconds that it may take, and what is added to its environment."""

    name: str
    seconds: float
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)


class Runner:
    """Runs parts one after another or at once, none for longer than it may, and keeps what they say."""

    def __init__(self, folder: Path, seconds: float, rehearse: bool):
        self.folder, self.rehearse = folder, rehearse
        self.end = time.monotonic() + seconds
        self.rows: list[dict[str, object]] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.log = (folder / "log").open("w", encoding="utf-8")

    def say(self, text: str) -> None:
        print(text, flush=True)
        print(text, file=self.log, flush=True)

    def run(self, *parts: Part) -> None:
        """All of them at once."""
        begun, started = time.monotonic(), []
        for part in parts:
            seconds = min(part.seconds, self.end - begun)
            if seconds < 3:
                self._note(part, 0.0, "no time was left")
                continue
            output = (self.folder / f"{part.name}.log").open("wb")
            environment = os.environ | {"PYTHONUNBUFFERED": "1"} | part.environment
            try:
                process = subprocess.Popen(
                    part.command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
                )
            except OSError as error:
                self._note(part, 0.0, str(error))
                continue
            started.append((part, process, begun + seconds, output))
        try:
            self._finish(begun, started)
        finally:
            for _, process, *_ in started:
                _end(process)

    def _finish(self, begun: float, started: list[tuple[Part, subprocess.Popen, float, BinaryIO]]) -> None:
        while started:
            for one in list(started):
                part, process, until, output = one
                now = time.monotonic()
                if process.poll() is None and now < until:
                    continue
                ended = f"exit code {process.returncode}" if process.returncode else ""
                if process.returncode is None:
                    ended = f"not done after {until - begun:.0f} s"
                _end(process)
                output.close()
                said = (self.folder / f"{part.name}.log").read_text(encoding="utf-8", errors="replace")
                print(f"--- {part.name}\n{said}", file=self.log)
                self._note(part, now - begun, ended, said)
                started.remove(one)
            time.sleep(0.1)

    def _note(self, part: Part, seconds: float, ended: str, said: str = "") -> None:
        self.rows.append({"part": part.name, "seconds": round(seconds, 1), "limit": part.seconds, "ended": ended})
        content = {"rehearsal": self.rehearse, "rows": self.rows}
        (self.folder / "parts.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        why = (said.strip().splitlines() or [""])[-1][:200] if ended else ""
        self.say(f"{part.name}: {ended or 'done'} ({seconds:.0f} s) {why}".rstrip())


def _end(process: subprocess.Popen) -> None:
    """Whatever is left of a part: those that it started too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measuring(name: str, seconds: float, folder: Path, rehearse: bool, label: str = "", *flags: str) -> Part:
    """A part of :mod:`benchmarks.gpu_parts`, by the kernels called ``label``."""
    command = [sys.executable, "-m", "benchmarks.gpu_parts", name, str(folder), *flags]
    command += ["--rehearse"] * rehearse + (["--label", label] if label else [])
    return Part(f"{name}-{label}" if label else name, seconds, command, _chosen(label, rehearse))


def _chosen(label: str, rehearse: bool) -> dict[str, str]:
    return {VARIABLE: label} if label and not rehearse else {}


def building(rehearse: bool) -> list[Part]:
    """The native extension, for this GPU alone, with CUDA kernels if there is a toolkit; nothing without a compiler."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    if not shutil.which(compiler):
        return []
    home = toolkit()
    environment = {"FASTDARTS_BUILD_EXT": "1", "CUDA_HOME": home}
    environment |= {"FASTDARTS_CUDA_ARCHITECTURES": "90" if rehearse else "native"} if home else {}
    work = ["--version"] if rehearse else ["build_ext", "--inplace"]
    return [Part("build", 170, [sys.executable, "setup.py", *work], environment)]


def toolkit() -> str:
    """The folder of a CUDA toolkit that is complete; "" without one."""
    nvcc = shutil.which("nvcc")
    places = [os.environ.get("CUDA_HOME"), nvcc and Path(nvcc).resolve().parent.parent, "/usr/local/cuda"]
    for home in map(Path, filter(None, places)):
        runtimes = ("lib64", "lib", "targets/x86_64-linux/lib")
        if (home / "bin/nvcc").exists() and any((home / lib / "libcudart_static.a").exists() for lib in runtimes):
            return str(home)
    return ""


def installing() -> list[Part]:
    """The Python package, if it is not installed: from the root alone `fastdarts.kernels` is not found."""
    look = [sys.executable, "-c", "import fastdarts.kernels"]
    if subprocess.run(look, cwd=ROOT, capture_output=True).returncode == 0:
        return []
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--editable", "."]
    return [Part("install", 60, pip, {"FASTDARTS_BUILD_EXT": "0"})]


def testing(folder: Path, rehearse: bool, label: str) -> Part:
    """The tests that need a GPU, those that compile few kernels."""
    cores = os.cpu_count() or 1
    spread = ["-n", str(min(8, cores))] if importlib.util.find_spec("xdist") and not rehearse else []
    if importlib.util.find_spec("hypothesis") is None:  # which other tests need
        spread.append("--noconftest")
    chosen = ["-m", "gpu", "-k", "flat or ((edge or cell) and (float32 or bfloat16))"]
    command = [sys.executable, "-m", "pytest", "-q", *spread, *chosen, *GPU_TESTS]
    return Part(
        f"tests-{label}", 60, [*command, f"--junitxml={folder / f'tests-{label}.xml'}"], _chosen(label, rehearse)
    )


def profiling(folder: Path, rehearse: bool, label: str) -> list[Part]:
    """Nsight Compute of the kernels of one mixed operation, if it is here."""
    one = measuring("one", 45, folder, rehearse, label)
    if not shutil.which("ncu"):
        return []
    sections = [word for name in SECTIONS for word in ("--section", name)]
    ncu = ["ncu", "--csv", "--clock-control", "none", "--profile-from-start", "off", "--launch-count", "30", *sections]
    ncu += ["--log-file", str(folder / f"ncu-{label}.csv")]
    return [Part(f"ncu-{label}", 45, [*ncu, *one.command], one.environment)]


def sanitizing(folder: Path, rehearse: bool, label: str) -> list[Part]:
    """compute-sanitizer, where results were wrong."""
    path = folder / f"checks-{label}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    if not shutil.which("compute-sanitizer") or not any(row["wrong"] for row in rows):
        return []
    one = measuring("one", 60, folder, rehearse, label)
    return [Part(f"sanitizer-{label}", 60, ["compute-sanitizer", "--tool", "memcheck", *one.command], one.environment)]


def kernels(folder: Path, rehearse: bool) -> list[str]:
    """The implementations of a mixed operation that run on the device, the default first."""
    path, device = folder / "environment.json", "cpu" if rehearse else "cuda"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    known = rows[0]["implementations"] if rows else []
    return [r["name"] for r in known if r["op"] == "mixed_op" and r["device"] == device and r["available"]]


def everything(runner: Runner) -> None:
    """All parts, in the order in which they matter."""
    folder, rehearse = runner.folder, runner.rehearse
    for part in installing():
        runner.run(part)
    warm = measuring("warm", 150, folder, rehearse)
    runner.run(*building(rehearse), warm)
    runner.run(measuring("environment", 40, folder, rehearse))
    names = kernels(folder, rehearse)
    if not names:
        runner.say("no kernels of mixed_op run here: see environment.json for the reasons")
        return
    for label in names:
        runner.run(measuring("checks", 60, folder, rehearse, label), testing(folder, rehearse, label))
        for part in sanitizing(folder, rehearse, label):
            runner.run(part)
    first, *others = names
    runner.run(measuring("mixed-op", 45, folder, rehearse, first))
    runner.run(measuring("steps", 100, folder, rehearse, first))
    for label in others:
        runner.run(measuring("mixed-op", 20, folder, rehearse, label, "--alone"))
        runner.run(measuring("steps", 40, folder, rehearse, label, "--alone"))
    runner.run(measuring("profile", 30, folder, rehearse, first))
    runner.run(measuring("largest", 50, folder, rehearse, first))
    for part in profiling(folder, rehearse, first):
        runner.run(part)
    runner.run(measuring("compile", 45, folder, rehearse, first))


def why_not(rehearse: bool) -> str:
    """Why nothing can be measured here, in a sentence; "" if it can."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        return f"{' and '.join(missing)} cannot be imported by {sys.executable}: install what pyproject.toml asks for"
    import torch

    if not rehearse and not torch.cuda.is_available():
        return "no GPU is here: run it on a machine with one, or pass --rehearse to try the script on the CPU"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"runs/gpu-{time.strftime('%Y%m%d-%H%M%S')}"))
    parser.add_argument("--seconds", type=float, default=470.0, help="for all parts together")
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no part is left behind
    if reason := why_not(options.rehearse):
        print(f"make gpu: {reason}", file=sys.stderr)
        return 2
    runner = Runner(options.out.resolve(), options.seconds, options.rehearse)
    everything(runner)
    runner.end += 30
    runner.run(Part("tables", 30, [sys.executable, "-m", "benchmarks.gpu_tables", str(runner.folder)]))
    runner.say(f"results: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
