"""Times, memory and share of the peak of every side of a case."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from fastdarts.bench.cases import COMPILED, EAGER, LAST, OURS, REPLAYED, SIDES, Case, EdgeCase, prepare
from fastdarts.bench.check import Wrong, check
from fastdarts.bench.measure import MIB, gpu_peak_memory, interleave, peak_memory, reason, saved_bytes
from fastdarts.bench.replay import replay, replay_step
from fastdarts.errors import FastdartsError


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
            sides[COMPILED] = {"failed": reason(error)}
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
                sides[replayed] = {"failed": reason(error)}
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
        return {"failed": reason(error)}


def _memory(case: Case, side: str) -> dict[str, Any]:
    """The peak in a process of its own, started before this one fills its memory, which it never gives back."""
    try:
        return {"peak_mib": peak_memory(prepare, case, side) / MIB}
    except Exception as error:  # killed for want of memory, or no /proc to read
        return {"peak_failed": reason(error)}
