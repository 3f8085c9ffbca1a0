"""``fastdarts bench``: check, time and tabulate suites of cases."""

from __future__ import annotations

import json as jsonlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from fastdarts.bench import host as host_counts
from fastdarts.bench import methods, recurrent
from fastdarts.bench import traffic as counter
from fastdarts.bench.batch import STEP, measure_batch, print_batch
from fastdarts.bench.cases import (
    COMPILED,
    EAGER,
    LAST,
    OURS,
    REPLAYED,
    SIDES,
    SUITES,
    Case,
    EdgeCase,
    prepare,
)
from fastdarts.bench.check import Wrong, check
from fastdarts.bench.forecast import Forecast, format_duration
from fastdarts.bench.measure import (
    MIB,
    copy_bandwidth,
    give_back,
    gpu_peak_memory,
    interleave,
    number,
    peak_memory,
    pin_malloc,
    saved_bytes,
    sgemm_peak,
)
from fastdarts.bench.replay import replay, replay_step
from fastdarts.bench.updates import Weights, cases, measure_flat, print_flat
from fastdarts.bench.warm import warm_up
from fastdarts.engine.memory import format_bytes
from fastdarts.errors import FastdartsError
from fastdarts.functional import implementations, native
from fastdarts.runs.checks import parse_bytes
from fastdarts.runs.writer import atomic_write, environment

SMI = "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit"


def bench(
    suite: Sequence[str],
    device: str = "cpu",
    threads: int | None = None,
    batch: Sequence[int] = (),
    cases: Sequence[str] = (),
    seconds: float = 5.0,
    precision: Sequence[str] = ("float32",),
    compile: bool = False,
    traffic: bool = False,
    warm: bool = False,
    host: bool = False,
    implementation: str = "triton",
    default_malloc: bool = False,
    budget: Sequence[str] = ("1GiB",),
    json: Path | None = None,
) -> None:
    """Time every case of the suites, print the table and write ``json`` if it is given; or count their ``traffic``, or
    what the ``host`` does for launches of an ``implementation``.

    Raises :class:`FastdartsError` for settings that make no sense and where there are no kernels for the device, before
    any work; and at the end, if results were wrong, for the cases that were not timed.
    """
    _validate("cpu" if traffic or host else device, threads, batch, seconds, json)
    budgets = [_budget(text, device) for text in budget] if "batch" in suite and not traffic else []
    if budgets and batch:
        raise FastdartsError("--suite batch looks for the batch itself, but --batch is given: leave one of them out")
    if "rnn" in suite:
        flags = {"--device cuda": device == "cuda", "--compile": compile, "--traffic": traffic}
        _validate_recurrent([flag for flag, given in flags.items() if given], batch)
    if "methods" in suite and (device != "cpu" or batch or compile or traffic):
        raise FastdartsError(
            "--suite methods has its own batch and times two sides on a CPU: leave --device, --batch, --compile and "
            "--traffic out"
        )
    if "bf16" in precision and (others := [name for name in suite if name not in SUITES]):
        raise FastdartsError(f"--precision is bf16, but --suite {others[0]} has its own: leave one of them out")
    if host:
        given = {"--traffic": traffic, "--batch": batch, "--compile": compile, "--device cuda": device == "cuda"}
        host_counts.validate(suite, [flag for flag, value in given.items() if value])
    if json is not None:
        try:
            atomic_write(json, b"{}")
        except OSError as error:
            raise FastdartsError(f"--json is {json}: it cannot be written ({error})") from error
    if host:
        host_counts.count(suite, implementation, seconds, json)
        return
    if warm:
        warm_up([case for name in suite for case in _cases(name, batch, precision, cases)], device, threads)
        return
    if threads is not None:
        torch.set_num_threads(threads)
    report: dict[str, Any] = {"cases": []}
    forecast = None
    if not traffic:
        report["machine"] = machine(not default_malloc and pin_malloc(), device)
        timed = [case for name in suite for case in _cases(name, batch, precision, cases)]
        if timed and device == "cpu":
            forecast = Forecast(timed, seconds, compile, report["machine"]["sgemm_gflops"])
            print(f"{len(timed)} cases, about {format_duration(forecast.left)}", file=sys.stderr)

    def save() -> None:  # after every case: a large one may be killed for want of memory
        if json is not None:
            atomic_write(json, jsonlib.dumps(report, indent=1).encode())

    try:
        for name in suite:
            if name == "flat" and not traffic:
                report["flat"] = _flat(seconds, device)
                save()
            if name == "rnn":
                report["rnn"] = []
                for row in _recurrent(seconds, batch):
                    report["rnn"].append(row)
                    save()
            if name == "methods":
                report["methods"] = []
                for row in _methods(seconds, cases):
                    report["methods"].append(row)
                    save()
            if name == "batch" and not traffic:
                report["batch"] = []
                try:
                    for row in measure_batch(budgets, seconds, device, not default_malloc):
                        report["batch"].append(row)
                        save()
                except Wrong as error:
                    report["cases"].append({"suite": name, "case": str(STEP), "wrong": str(error)})
            for case in _cases(name, batch, precision, cases, traffic):
                print(f"{name}: {case} ...", file=sys.stderr)
                begun = time.perf_counter()
                try:
                    if traffic:
                        row = counter.measure(case)
                    else:
                        row = measure(case, seconds, compile, report["machine"]["sgemm_gflops"], device)
                except Wrong as error:
                    row = {"case": str(case), "wrong": str(error)}
                except torch.OutOfMemoryError as error:  # of the GPU: the next case may fit
                    row = {"case": str(case), "wrong": _reason(error)}
                report["cases"].append({"suite": name} | row)
                save()
                print(f"  {_said(row)}", file=sys.stderr)
                give_back()
                if forecast is not None and (left := forecast.after(case, time.perf_counter() - begun)):
                    print(f"  about {format_duration(left)} left", file=sys.stderr)
    finally:  # whoever has waited enough gets what there is
        if report["cases"] or not {"flat", "rnn", "batch", "methods"} & report.keys():
            (counter.print_report if traffic else print_report)(report)
        if report.get("batch"):
            print_batch(report["batch"], report["machine"])
        if "flat" in report:
            print_flat(report["flat"], report["machine"])
        if "rnn" in report:
            recurrent.print_recurrent(report["rnn"], report["machine"])
        if "methods" in report:
            methods.print_methods(report["methods"], report["machine"])
    measured = [*report["cases"], *report.get("rnn", ()), *report.get("methods", ())]
    if wrong := [row for row in measured if "wrong" in row]:
        raise FastdartsError(f"{len(wrong)} cases were not timed, the first because {wrong[0]['wrong']}")


def _cases(
    name: str, batch: Sequence[int], precision: Sequence[str], chosen: Sequence[str], traffic: bool = False
) -> list[Case]:
    cases = dict.fromkeys(  # with --batch, cases that differ in their batch alone are one
        replace(case, batch=n, precision=kind)
        for case in SUITES.get(name, ())
        for n in batch or (case.batch,)
        for kind in precision
    )
    return [case for case in cases if _chosen(case, chosen) and (not traffic or counter.counts(case))]


def _chosen(case: object, words: Sequence[str]) -> bool:
    """Whether the name of a case has one of these words; all are chosen if there are none."""
    return not words or not {*words}.isdisjoint(str(case).split())


def _flat(seconds: float, device: str) -> list[dict[str, Any]]:
    weights = Weights(device=device)
    rows = []
    for case in cases(weights):
        print(f"flat: {case} ...", file=sys.stderr)
        rows.append(measure_flat(case, weights, seconds))
    return rows


def _recurrent(seconds: float, batch: Sequence[int]) -> Iterator[dict[str, Any]]:
    for case in (replace(whole, batch=n) for whole in recurrent.SUITE for n in batch or (whole.batch,)):
        print(f"rnn: {case} ...", file=sys.stderr)
        try:
            row = recurrent.measure(case, seconds)
        except Wrong as error:
            row = {"case": str(case), "wrong": str(error)}
        yield row
        give_back()


def _methods(seconds: float, chosen: Sequence[str]) -> Iterator[dict[str, Any]]:
    for case in (case for case in methods.cases() if _chosen(case, chosen)):
        print(f"methods: {case} ...", file=sys.stderr)
        try:
            row = methods.measure(case, seconds)
        except Wrong as error:
            row = {"case": str(case), "method": case.method, "wrong": str(error)}
        print(f"  {_said(row)}", file=sys.stderr)
        yield row
        give_back()


def _validate(device: str, threads: int | None, batch: Sequence[int], seconds: float, json: Path | None) -> None:
    cores = os.cpu_count() or 1
    if threads is not None and not 0 < threads <= 4 * cores:
        raise FastdartsError(f"--threads is {threads}: expected 1 to {4 * cores} on {cores} cores")
    if outside := [n for n in batch if not 0 < n <= 4096]:
        raise FastdartsError(f"--batch is {outside[0]}: expected 1 to 4096 images")
    if not 0 <= seconds <= 3600:
        raise FastdartsError(f"--seconds is {seconds}: expected 0 to 3600")
    if json is not None and (json.is_dir() or not json.parent.is_dir()):
        raise FastdartsError(f"--json is {json}: expected a file in a folder that exists")
    if device == "cuda" and not torch.cuda.is_available():
        raise FastdartsError("--device is cuda, but torch sees no CUDA device: run on a machine with a GPU")
    name = "native" if device == "cpu" else "triton"
    [kernels] = [row for row in implementations() if (row.op, row.device, row.name) == ("mixed_op", device, name)]
    if not kernels.available:
        raise FastdartsError(f"nothing to time, {kernels.reason}")


def _validate_recurrent(flags: Sequence[str], batch: Sequence[int]) -> None:
    if flags:
        raise FastdartsError(f"--suite rnn times two sides on a CPU, but {flags[0]} is given: leave one of them out")
    if 1 in batch:
        raise FastdartsError("--batch is 1, but one stream has no batch statistics: --suite rnn takes 2 or more")


def _budget(text: str, device: str) -> int:
    budget = parse_bytes(text, "--budget")
    if device == "cpu":
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        there = torch.cuda.get_device_properties(0).total_memory
    if budget > there:
        raise FastdartsError(f"--budget is {text}: the machine has {format_bytes(there)}, name no more than that")
    return budget


def machine(pinned: bool, device: str = "cpu") -> dict[str, Any]:
    """What the numbers hold for."""
    known = environment()
    facts = {name: known[name] for name in ("cpu", "threads", "torch", "fastdarts", "started")} | {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "isa": native()["isa"],
        "compiler": native()["compiler"],
        "malloc": "pinned" if pinned else "default",
        "sgemm_gflops": sgemm_peak(device) / 1e9,
    }
    if device == "cuda":
        facts |= {"triton": known["triton"], "copy_gb_per_s": copy_bandwidth(device) / 1e9} | gpu()
    return facts


def _commit() -> str | None:
    """The commit of the sources that run, with a + where they differ from it; None outside a repository."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=7",
        "--exclude=*",
        "--dirty=+",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def gpu() -> dict[str, Any]:
    """The GPU's name, memory and multiprocessors; driver, clocks and power limit if nvidia-smi says them."""
    device = torch.cuda.get_device_properties(0)
    facts = {
        "gpu": device.name,
        "gpu_gib": device.total_memory / 2**30,
        "multiprocessors": device.multi_processor_count,
    }
    command = ["nvidia-smi", f"--id=GPU-{device.uuid}", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return facts | {"nvidia_smi": _reason(error)}
    return facts | dict(zip(SMI, answer.strip().split(", "), strict=True))


def measure(
    case: Case,
    seconds: float,
    compile: bool,
    sgemm_gflops: float,
    device: str = "cpu",
    *,
    checked: bool = False,
    peers: bool = True,
) -> dict[str, Any]:
    """Times, page faults, memory and share of the machine's peak of every side, or of fastdarts alone without
    ``peers``; raises :class:`Wrong` first, if the case was not ``checked`` before.

    Bfloat16 has an error of its own, so that float32 is checked for it.
    """
    if not checked:
        check(replace(case, precision="float32"), device)
    eager = (EAGER, LAST) if peers else ()
    gflop = case.flops() / 1e9
    memory = _memory if device == "cpu" else _gpu_memory
    sides: dict[str, dict[str, Any]] = {side: memory(case, side) for side in (*eager, OURS)}
    work = {side: case.work(side, device=device) for side in (*eager, OURS) if "failed" not in sides[side]}
    if compile:
        begun = time.perf_counter()
        try:
            work[COMPILED] = case.work(COMPILED, device=device)
            work[COMPILED].run()
            sides[COMPILED] = {"compile_seconds": time.perf_counter() - begun}
        except Exception as error:  # whatever the compiler or the C++ compiler behind it may raise
            work.pop(COMPILED, None)
            sides[COMPILED] = {"failed": _reason(error)}
    if device == "cuda":
        for replayed, side in REPLAYED.items():
            if side not in sides or (side != OURS and not isinstance(case, EdgeCase)):
                continue  # a step of the public code reads its losses, which no graph can
            try:
                work[replayed] = replay(case, side) if isinstance(case, EdgeCase) else replay_step(case)
                sides[replayed] = {}
            except Wrong:
                raise
            except (RuntimeError, FastdartsError) as error:
                sides[replayed] = {"failed": _reason(error)}
    order = [side for side in (*SIDES, *REPLAYED) if side in sides]
    timings = interleave({side: work[side].run for side in order if side in work}, seconds)
    for side, timing in timings.items():
        sides[side].update(
            ms=timing.median * 1e3,
            rounds_ms=[s * 1e3 for s in timing.seconds],
            sgemm_share=gflop / timing.median / sgemm_gflops,
        )
        if device == "cpu":
            sides[side]["page_faults"] = timing.faults
        if side not in REPLAYED:
            saved = saved_bytes(work[side].forward, work[side].x, *work[side].model.parameters())
            sides[side]["saved_per_byte"] = saved / work[side].x.nbytes
    return {"case": str(case), "gflop": gflop, "sides": {side: sides[side] for side in order}}


def _gpu_memory(case: Case, side: str) -> dict[str, Any]:
    """The peak of the tensors over a call that is not the first; too large a case fails here."""
    try:
        run = case.work(side, device="cuda").run
        run()
        return {"peak_mib": gpu_peak_memory(run) / MIB}
    except torch.OutOfMemoryError as error:
        if side == OURS:
            raise
        return {"failed": _reason(error)}


def _memory(case: Case, side: str) -> dict[str, Any]:
    """The peak in a process of its own, started before this one fills its memory, which it never gives back."""
    try:
        return {"peak_mib": peak_memory(prepare, case, side) / MIB}
    except Exception as error:  # killed for want of memory, or no /proc to read
        return {"peak_failed": _reason(error)}


def _said(row: dict[str, Any]) -> str:
    """What is known of a case as soon as it is measured: the median of every side, or why there is none."""
    timed = [f"{side} {facts['ms']:.3g} ms" for side, facts in row.get("sides", {}).items() if "ms" in facts]
    return row.get("wrong") or ", ".join(timed) or "counted"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def print_report(report: dict[str, Any]) -> None:
    """The machine, the table in Markdown, what its columns mean, and the reason of whatever is missing."""
    facts, rows = report["machine"], report["cases"]
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    seen = {side for row in rows for side in row.get("sides", ())}
    peers = [side for side in (EAGER, LAST, COMPILED) if side in seen or side != COMPILED]
    replayed = [side for side in REPLAYED if side in seen]
    table = Table(
        "case", *peers, OURS, *replayed, "speed-up", "of sgemm peak", "saved / x", "peak MiB", box=box.MARKDOWN
    )
    notes = []
    for row in rows:
        if "wrong" in row:
            table.add_row(row["case"], "not timed")
            notes.append(f"{row['case']}: not timed, {row['wrong']}")
            continue
        sides = row["sides"]
        table.add_row(
            row["case"],
            *(number(sides[side].get("ms")) if side in sides else "" for side in (*peers, OURS, *replayed)),
            " / ".join(f"{sides[p]['ms'] / sides[OURS]['ms']:.1f}×" for p in peers if "ms" in sides[p]),
            _beside(row, "sgemm_share", _percent) if row["gflop"] else "no convolution",
            _beside(row, "saved_per_byte"),
            _beside(row, "peak_mib"),
        )
        for side, values in sides.items():
            notes += [f"{row['case']}, {side}: {values[key]}" for key in ("failed", "peak_failed") if key in values]
            if "compile_seconds" in values:
                notes.append(f"{row['case']}, {side}: {values['compile_seconds']:.0f} s to compile")
    timed = [values for row in rows for values in row.get("sides", {}).values() if "ms" in values]
    faults = max((values.get("page_faults", 0) for values in timed), default=0)
    software = f"torch {facts['torch']}, fastdarts {facts['fastdarts']}"
    if "gpu" in facts:
        smi = ", ".join(f"{name} {facts[name]}" for name in SMI if name in facts) or facts["nvidia_smi"]
        console.print(
            f"{facts['gpu']} ({smi}), torch.mm {facts['sgemm_gflops']:,.0f} GFLOP/s, copy "
            f"{facts['copy_gb_per_s']:,.0f} GB/s, {software}, triton {facts['triton']}, {facts['cpu']}\n"
        )
    else:
        console.print(
            f"{facts['cpu']} ({facts['isa']}), {facts['threads']} threads, torch.mm {facts['sgemm_gflops']:.0f} "
            f"GFLOP/s, {software} ({facts['compiler']}), malloc {facts['malloc']}, "
            f"at most {faults:,} page faults a call\n"
        )
    console.print(table)
    console.print("", LEGEND + (ON_GPU if "gpu" in facts else ON_CPU), *notes, sep="\n")


LEGEND = """\
Median ms of rounds in which the sides take turns; a short side's turn begins with a call that is not timed. Columns
with an arrow: the public code in NCHW / in channels-last → fastdarts. Of sgemm peak: 2 · outputs · C_in / groups · k²
operations for each convolution of a forward pass, thrice for forward and backward, per second, as a share of what
torch.mm does. Saved / x: bytes that a forward pass keeps for its backward, per byte of its input. Peak: """
ON_CPU = """of a whole
process over one call, less its size before, malloc's defaults."""
ON_GPU = """of the
tensors on the GPU over one call, less those before. Times are of the host, from an idle GPU to an idle GPU."""


def _percent(share: float | None) -> str:
    return "failed" if share is None else f"{share:.1%}"


def _beside(row: dict[str, Any], key: str, form: Callable[[float | None], str] = number) -> str:
    eager, last, ours = (form(row["sides"][side].get(key)) for side in (EAGER, LAST, OURS))
    return f"{eager} / {last} → {ours}"
