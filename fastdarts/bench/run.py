"""``fastdarts bench``: check, time and tabulate suites of cases."""

from __future__ import annotations

import json as jsonlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from fastdarts.bench.cases import COMPILED, EAGER, LAST, OURS, SIDES, SUITES, Case
from fastdarts.bench.check import Wrong, check
from fastdarts.bench.measure import give_back, interleave, peak_memory, pin_malloc, saved_bytes, sgemm_peak
from fastdarts.bench.updates import Weights, cases, measure_flat, print_flat
from fastdarts.errors import FastdartsError
from fastdarts.functional import native
from fastdarts.recorder import atomic_write, environment

MIB = 2**20


def bench(
    suite: Sequence[str],
    threads: int | None = None,
    batch: int | None = None,
    seconds: float = 5.0,
    compile: bool = False,
    default_malloc: bool = False,
    json: Path | None = None,
) -> None:
    """Time every case of the suites, print the table and write ``json`` if it is given.

    Raises :class:`FastdartsError` for settings that make no sense and where there are no native kernels, before any
    work; and at the end, if results were wrong, for the cases that were not timed.
    """
    _validate(threads, batch, seconds, json)
    if json is not None:
        try:
            atomic_write(json, b"{}")
        except OSError as error:
            raise FastdartsError(f"--json is {json}: it cannot be written ({error})") from error
    if threads is not None:
        torch.set_num_threads(threads)
    pinned = not default_malloc and pin_malloc()
    report = {"machine": machine(pinned), "cases": []}
    try:
        for name in suite:
            if name == "flat":
                report["flat"] = _flat(seconds)
                if json is not None:
                    atomic_write(json, jsonlib.dumps(report, indent=1).encode())
            for case in SUITES.get(name, ()):
                case = replace(case, batch=batch or case.batch)
                print(f"{name}: {case} ...", file=sys.stderr)
                try:
                    row = measure(case, seconds, compile, report["machine"]["sgemm_gflops"])
                except Wrong as error:
                    row = {"case": str(case), "wrong": str(error)}
                report["cases"].append({"suite": name} | row)
                if json is not None:  # after every case: a large one may be killed for want of memory
                    atomic_write(json, jsonlib.dumps(report, indent=1).encode())
                give_back()
    finally:  # whoever has waited enough gets what there is
        if report["cases"] or "flat" not in report:
            print_report(report)
        if "flat" in report:
            print_flat(report["flat"], report["machine"])
    if wrong := [row for row in report["cases"] if "wrong" in row]:
        raise FastdartsError(f"{len(wrong)} cases were not timed, the first because {wrong[0]['wrong']}")


def _flat(seconds: float) -> list[dict[str, Any]]:
    weights = Weights()
    rows = []
    for case in cases(weights):
        print(f"flat: {case} ...", file=sys.stderr)
        rows.append(measure_flat(case, weights, seconds))
    return rows


def _validate(threads: int | None, batch: int | None, seconds: float, json: Path | None) -> None:
    cores = os.cpu_count() or 1
    if threads is not None and not 0 < threads <= 4 * cores:
        raise FastdartsError(f"--threads is {threads}: expected 1 to {4 * cores} on {cores} cores")
    if batch is not None and not 0 < batch <= 4096:
        raise FastdartsError(f"--batch is {batch}: expected 1 to 4096 images")
    if not 0 <= seconds <= 3600:
        raise FastdartsError(f"--seconds is {seconds}: expected 0 to 3600")
    if json is not None and (json.is_dir() or not json.parent.is_dir()):
        raise FastdartsError(f"--json is {json}: expected a file in a folder that exists")
    if not native()["loaded"]:
        raise FastdartsError(f"nothing to time, {native()['reason']}")


def machine(pinned: bool) -> dict[str, Any]:
    """What the numbers hold for."""
    known = environment()
    return {name: known[name] for name in ("cpu", "threads", "torch", "fastdarts")} | {
        "isa": native()["isa"],
        "compiler": native()["compiler"],
        "malloc": "pinned" if pinned else "default",
        "sgemm_gflops": sgemm_peak() / 1e9,
    }


def measure(case: Case, seconds: float, compile: bool, sgemm_gflops: float) -> dict[str, Any]:
    """Times, page faults, memory and share of the machine's peak of every side; raises :class:`Wrong` first."""
    check(case)
    gflop = case.flops() / 1e9
    sides: dict[str, dict[str, Any]] = {side: _memory(case, side) for side in (EAGER, LAST, OURS)}
    work = {side: case.work(side) for side in (EAGER, LAST, OURS)}
    if compile:
        begun = time.perf_counter()
        try:
            work[COMPILED] = case.work(COMPILED)
            work[COMPILED].run()
            sides[COMPILED] = {"compile_seconds": time.perf_counter() - begun}
        except Exception as error:  # whatever the compiler or the C++ compiler behind it may raise
            work.pop(COMPILED, None)
            sides[COMPILED] = {"failed": _reason(error)}
    timings = interleave({side: work[side].run for side in SIDES if side in work}, seconds)
    for side, timing in timings.items():
        sides[side].update(
            ms=timing.median * 1e3,
            rounds_ms=[s * 1e3 for s in timing.seconds],
            page_faults=timing.faults,
            sgemm_share=gflop / timing.median / sgemm_gflops,
            saved_per_byte=saved_bytes(work[side].forward, work[side].x, *work[side].model.parameters())
            / work[side].x.nbytes,
        )
    return {"case": str(case), "gflop": gflop, "sides": {side: sides[side] for side in SIDES if side in sides}}


def _memory(case: Case, side: str) -> dict[str, Any]:
    """The peak in a process of its own, started before this one fills its memory, which it never gives back."""
    try:
        return {"peak_mib": peak_memory(prepare, case, side) / MIB}
    except Exception as error:  # killed for want of memory, or no /proc to read
        return {"peak_failed": _reason(error)}


def prepare(case: Case, side: str) -> Callable[[], object]:
    """One call of a side, for a process of its own that has loaded what a smaller call needs."""
    replace(case, batch=2).work(side).run()
    return case.work(side).run


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def print_report(report: dict[str, Any]) -> None:
    """The machine, the table in Markdown, what its columns mean, and the reason of whatever is missing."""
    facts, rows = report["machine"], report["cases"]
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    compiled = any(COMPILED in row.get("sides", ()) for row in rows)
    peers = [EAGER, LAST] + [COMPILED] * compiled
    table = Table("case", *peers, OURS, "speed-up", "of sgemm peak", "saved / x", "peak MiB", box=box.MARKDOWN)
    notes = []
    for row in rows:
        if "wrong" in row:
            table.add_row(row["case"], "not timed")
            notes.append(f"{row['case']}: not timed, {row['wrong']}")
            continue
        sides = row["sides"]
        table.add_row(
            row["case"],
            *(number(sides[side].get("ms")) for side in (*peers, OURS)),
            " / ".join(f"{sides[p]['ms'] / sides[OURS]['ms']:.1f}×" for p in peers if "ms" in sides[p]),
            _beside(row, "sgemm_share", lambda share: f"{share:.1%}") if row["gflop"] else "no convolution",
            _beside(row, "saved_per_byte"),
            _beside(row, "peak_mib"),
        )
        for side, values in sides.items():
            notes += [f"{row['case']}, {side}: {values[key]}" for key in ("failed", "peak_failed") if key in values]
            if "compile_seconds" in values:
                notes.append(f"{row['case']}, {side}: {values['compile_seconds']:.0f} s to compile")
    timed = [values for row in rows for values in row.get("sides", {}).values() if "ms" in values]
    faults = max((values["page_faults"] for values in timed), default=0)
    console.print(
        f"{facts['cpu']} ({facts['isa']}), {facts['threads']} threads, torch.mm {facts['sgemm_gflops']:.0f} GFLOP/s, "
        f"torch {facts['torch']}, fastdarts {facts['fastdarts']} ({facts['compiler']}), malloc {facts['malloc']}, "
        f"at most {faults:,} page faults a call\n"
    )
    console.print(table)
    console.print("", LEGEND, *notes, sep="\n")


LEGEND = """\
Median ms of rounds in which the sides take turns; a short side's turn begins with a call that is not timed. Columns
with an arrow: the public code in NCHW / in channels-last → fastdarts. Of sgemm peak: 2 · outputs · C_in / groups · k²
operations for each convolution of a forward pass, thrice for forward and backward, per second, as a share of what
torch.mm does. Saved / x: bytes that a forward pass keeps for its backward, per byte of its input. Peak: of a whole
process over one call, less its size before, malloc's defaults."""


def number(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return "failed"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _beside(row: dict[str, Any], key: str, form: Callable[[float | None], str] = number) -> str:
    eager, last, ours = (form(row["sides"][side].get(key)) for side in (EAGER, LAST, OURS))
    return f"{eager} / {last} → {ours}"
