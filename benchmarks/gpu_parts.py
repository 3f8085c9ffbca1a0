"""The parts of ``make gpu`` that measure: each runs in a process of its own and writes one file of results.

    python -m benchmarks.gpu_parts NAME FOLDER [--rehearse] [--label NAME] [--alone]

``--rehearse`` takes tiny sizes on the CPU; its numbers mean nothing, and every file says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fastdarts.bench import batch as batches
from fastdarts.bench.cases import EAGER, OURS, WIDTHS, Case, EdgeCase, EvaluationCase, StepCase
from fastdarts.bench.check import Wrong, check
from fastdarts.bench.machine import gpu, machine
from fastdarts.bench.measure import MIB, give_back
from fastdarts.bench.timing import measure
from fastdarts.bench.warm import warm_up
from fastdarts.engine.memory import free_memory
from fastdarts.functional import implementations
from fastdarts.runs.writer import atomic_write, environment

PRECISIONS = "float32", "bf16"
KERNELS = 15  # that a profile names
IN_USE = 0.97  # of the free memory: what the largest batch may take


@dataclass(frozen=True)
class Plan:
    """What is measured, in the order in which it matters: the time may end before."""

    device: str
    edges: list[EdgeCase]
    steps: list[Case]
    profiled: list[Case]
    largest: list[tuple[str, StepCase]]
    seconds: float


def real() -> Plan:
    """Published sizes, batches of 64 to 4096."""
    edges = [EdgeCase(c, s, n, precision=p) for n, p, (c, s) in product((64, 256, 1024), PRECISIONS, WIDTHS)]
    kinds: list[Case] = [StepCase(False), EvaluationCase(), StepCase(True), StepCase(False, pc_darts=True)]
    steps = [replace(case, batch=n, precision=p) for n in (64, 256, 1024, 4096) for p in PRECISIONS for case in kinds]
    steps += [StepCase(False, batch=n, memory="recompute") for n in (1024, 4096)]
    return Plan(
        device="cuda",
        edges=edges,
        steps=steps,
        profiled=[StepCase(False, batch=64), StepCase(False, batch=256), EvaluationCase(batch=96)],
        largest=[
            (OURS, StepCase(False)),
            (EAGER, StepCase(False)),
            (OURS, StepCase(False, precision="bf16")),
            (OURS, StepCase(False, memory="recompute")),
        ],
        seconds=1.0,
    )


def rehearsal() -> Plan:
    """The same kinds of cases, tiny and on the CPU."""
    step = StepCase(False, channels=4, layers=3, batch=2, size=8)
    evaluation = EvaluationCase(channels=4, layers=4, batch=2)
    return Plan(
        device="cpu",
        edges=[EdgeCase(4, 8, 2), EdgeCase(4, 8, 4, precision="bf16")],
        steps=[replace(evaluation, precision="bf16"), replace(step, memory="recompute")],
        profiled=[step],
        largest=[(OURS, replace(step, size=32)), (EAGER, replace(step, size=32))],
        seconds=0.0,
    )


class Results:
    """One file, written anew after every row: whoever ends this process finds what was measured before."""

    def __init__(self, path: Path, plan: Plan, label: str):
        self.path = path
        self.content: dict[str, Any] = {"rehearsal": plan.device == "cpu", "label": label, "rows": []}
        self.save()

    def add(self, row: dict[str, Any]) -> None:
        self.content["rows"].append(row)
        print(json.dumps(row)[:200], flush=True)
        self.save()

    def save(self) -> None:
        atomic_write(self.path, json.dumps(self.content, indent=1).encode())


def environment_part(plan: Plan, results: Results, _: argparse.Namespace) -> None:
    """Versions, clocks, and what can run here."""
    facts = {name: value for name, value in environment().items() if name not in ("command", "started")}
    facts |= {"machine": platform.platform(), "cores": os.cpu_count()}
    if plan.device == "cuda":
        facts |= gpu() | {"gpu_free_gib": (free_memory(torch.device("cuda")) or 0) / 2**30}
    for name, command in (("nvcc", ["nvcc", "--version"]), ("ncu", ["ncu", "--version"])):
        facts[name] = _last_line(command)
    facts["implementations"] = [row._asdict() for row in implementations()]
    results.add(facts)


def _last_line(command: list[str]) -> str:
    if not shutil.which(command[0]):
        return "not here"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return (done.stdout.strip().splitlines() or ["says nothing"])[-1]


def warm_part(plan: Plan, results: Results, _: argparse.Namespace) -> None:
    """Every kernel that is launched later is compiled, on all cores."""
    cases = plan.edges + plan.steps if plan.device == "cuda" else plan.edges[:1]
    results.add(warm_up(cases, plan.device, os.cpu_count() if plan.device == "cuda" else 1))


def checks_part(plan: Plan, results: Results, _: argparse.Namespace) -> None:
    """Every case against the public code in float64, several at once."""
    alike = dict.fromkeys(replace(case, batch=2, precision="float32") for case in plan.edges + plan.steps)
    cores = os.cpu_count() or 1
    workers = min(len(alike), 8, cores)
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (cores // workers,)) as pool:
        for case, wrong in zip(alike, pool.map(partial(_wrong, plan.device), alike), strict=True):
            results.add({"case": str(case), "wrong": wrong})


def _wrong(device: str, case: Case) -> str:
    try:
        check(case, device)
    except (Wrong, RuntimeError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def times_of(cases: Callable[[Plan], Sequence[Case]], compile: bool = False) -> Callable:
    """A part that times these cases, all sides, or fastdarts alone."""

    def part(plan: Plan, results: Results, options: argparse.Namespace) -> None:
        results.content["machine"] = machine(False, plan.device)
        peak, known = results.content["machine"]["sgemm_gflops"], _checked(results.path, options.label)
        for case in cases(plan):
            wrong = known.get(str(replace(case, batch=2, precision="float32")))
            named = {"case": str(case), "kind": type(case).__name__, "batch": case.batch, "precision": case.precision}
            try:
                if wrong:
                    raise Wrong(wrong)
                row = measure(
                    case, plan.seconds, compile, peak, plan.device, checked=wrong == "", peers=not options.alone
                )
            except (Wrong, RuntimeError) as error:  # of too large a case, the next may fit
                row = {"wrong": f"{type(error).__name__}: {error}".splitlines()[0]}
            results.add(named | row)
            give_back()

    return part


def _checked(beside: Path, label: str) -> dict[str, str]:
    path = beside.parent / f"checks-{label}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return {row["case"]: row["wrong"] for row in rows}


def largest_part(plan: Plan, results: Results, _: argparse.Namespace) -> None:
    """The largest batch of a step, and the peak of each that was tried."""
    budget = 40 * MIB if plan.device == "cpu" else IN_USE * free_memory(torch.device("cuda"))
    for side, case in plan.largest:
        peaks: dict[int, float] = {}

        def peak(n: int, side: str = side, case: StepCase = case, peaks: dict[int, float] = peaks) -> float:
            peaks[n] = batches._peak(case, side, plan.device, n)
            give_back()
            return peaks[n]

        found = batches.largest(peak, budget, {n: peak(n) for n in batches.SMALL})
        best = max((n for n, taken in found.items() if taken <= budget), default=0)
        named = {"side": side, "case": str(replace(case, batch=1)), "budget": budget}
        results.add(named | {"batch": best, "peaks": {str(n): found[n] for n in sorted(found)}})


def profile_part(plan: Plan, results: Results, _: argparse.Namespace) -> None:
    """Where the time of a step goes: host or GPU, and which kernels."""
    on_gpu = plan.device == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA][: 1 + on_gpu]
    for case in plan.profiled:
        run = case.work(OURS, device=plan.device).run
        for _ in range(3):
            run()
        _wait(on_gpu)
        plain = _seconds(run, on_gpu)
        with profile(activities=activities) as profiler:
            wall = _seconds(run, on_gpu)
        field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        kind = "CUDA" if on_gpu else "CPU"  # of the events: operators of the host have the time of their kernels too
        events = [e for e in profiler.key_averages() if e.device_type.name == kind]
        events.sort(key=lambda e: -getattr(e, field))
        kernels = [{"name": e.key, "ms": getattr(e, field) / 1e3, "calls": e.count} for e in events]
        total = {"kernels_ms": sum(k["ms"] for k in kernels), "launches": sum(k["calls"] for k in kernels)}
        times = {"ms": plain * 1e3, "profiled_ms": wall * 1e3}
        results.add({"case": str(case)} | times | total | {"kernels": kernels[:KERNELS]})


def _seconds(run: Callable[[], object], on_gpu: bool) -> float:
    begun = time.perf_counter()
    run()
    _wait(on_gpu)
    return time.perf_counter() - begun


def _wait(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


def one_part(plan: Plan, results: Results, _: argparse.Namespace) -> None:
    """A mixed operation three times, the last one between cudaProfilerStart and Stop: what ncu and compute-sanitizer
    look at."""
    on_gpu = plan.device == "cuda"
    run = (EdgeCase(16, 32, 256) if on_gpu else plan.edges[0]).work(OURS, device=plan.device).run
    run()
    run()
    _wait(on_gpu)
    if on_gpu:
        torch.cuda.profiler.start()
    run()
    _wait(on_gpu)
    if on_gpu:
        torch.cuda.profiler.stop()
    results.add({"ran": 3})


PARTS: dict[str, Callable[[Plan, Results, argparse.Namespace], None]] = {
    "environment": environment_part,
    "warm": warm_part,
    "checks": checks_part,
    "mixed-op": times_of(lambda plan: plan.edges),
    "steps": times_of(lambda plan: plan.steps),
    "compile": times_of(lambda plan: plan.edges[:3] if plan.device == "cuda" else [], compile=True),
    "largest": largest_part,
    "profile": profile_part,
    "one": one_part,
}


def parser() -> argparse.ArgumentParser:
    """Of the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--label", default="", help="which kernels run: part of the file's name")
    parser.add_argument("--alone", action="store_true", help="without the public code")
    return parser


def main() -> None:
    options = parser().parse_args()
    plan = rehearsal() if options.rehearse else real()
    name = options.part + f"-{options.label}" * bool(options.label)
    PARTS[options.part](plan, Results(options.folder / f"{name}.json", plan, options.label), options)


if __name__ == "__main__":
    main()
