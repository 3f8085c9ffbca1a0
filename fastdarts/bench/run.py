"""``fastdarts bench``: check, time and tabulate suites of cases."""

from __future__ import annotations

import json as jsonlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastdarts.bench import host as host_counts
from fastdarts.bench import methods, recurrent
from fastdarts.bench import traffic as counter
from fastdarts.bench.batch import STEP, measure_batch, print_batch
from fastdarts.bench.cases import SUITES, Case
from fastdarts.bench.check import Wrong
from fastdarts.bench.forecast import Forecast, format_duration
from fastdarts.bench.machine import machine
from fastdarts.bench.measure import give_back, pin_malloc, reason
from fastdarts.bench.table import print_report
from fastdarts.bench.timing import measure
from fastdarts.bench.updates import Weights, cases, measure_flat, print_flat
from fastdarts.bench.warm import warm_up
from fastdarts.engine.memory import format_bytes
from fastdarts.errors import FastdartsError
from fastdarts.functional import implementations
from fastdarts.runs.checks import parse_bytes
from fastdarts.runs.writer import atomic_write


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
    if cases and not _named(suite, batch, precision, cases):
        known = [*dict.fromkeys(word for name in _named(suite, batch, precision, ()) for word in name.split())]
        raise FastdartsError(
            f"--cases is {' '.join(cases)}, which no case of --suite {' '.join(suite)} has in its name: "
            + (f"expected some of {', '.join(known)}" if known else "leave it out")
        )
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
                    row = {"case": str(case), "wrong": reason(error)}
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


def _named(suite: Sequence[str], batch: Sequence[int], precision: Sequence[str], words: Sequence[str]) -> list[str]:
    """The names of the cases of the suites that have one of these words, or of all cases."""
    found = [str(case) for name in suite for case in _cases(name, batch, precision, words)]
    return found + [str(case) for case in methods.cases() if "methods" in suite and _chosen(case, words)]


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


def _said(row: dict[str, Any]) -> str:
    """What is known of a case as soon as it is measured: the median of every side, or why there is none."""
    timed = [f"{side} {facts['ms']:.3g} ms" for side, facts in row.get("sides", {}).items() if "ms" in facts]
    return row.get("wrong") or ", ".join(timed) or "counted"
