"""``fastdarts bench --warm``: all Triton kernels of some cases are compiled ahead of time, on all cores.

One process takes two seconds or more for each of 200 kernels. Here every process goes the way of all cases without
launching anything, and compiles its share of the kernels that it meets. Triton's cache on disk holds them afterwards.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import multiprocessing
import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from fastdarts.bench.cases import OURS, Case
from fastdarts.endings import leave_to_parent
from fastdarts.errors import FastdartsError

BATCH = 16  # every larger batch that 16 divides needs the same kernels, but for one or two


def warm_up(cases: Sequence[Case], device: str, processes: int | None) -> dict[str, Any]:
    """Compile what ``cases`` launch, and what checks them; print and return how many kernels, and how long it took.

    On ``device`` "cpu" for an H100, whose kernels need no GPU to be compiled.
    """
    if importlib.util.find_spec("triton") is None:
        raise FastdartsError("--warm compiles Triton's kernels, but Triton is not installed: pip install triton")
    processes, begun = processes or os.cpu_count() or 1, time.perf_counter()
    alike = list(dict.fromkeys(replace(case, batch=BATCH) for case in cases))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, leave_to_parent) as pool:
        shares = [pool.submit(compile_share, alike, device, own, processes) for own in range(processes)]
        counts = [share.result() for share in shares]
    found = {
        "kernels": max(met for met, _ in counts),
        "compiled": sum(done for _, done in counts),
        "processes": processes,
        "seconds": time.perf_counter() - begun,
    }
    print(
        f"{found['compiled']} of {found['kernels']} kernels compiled or found in Triton's cache by {processes} "
        f"processes in {found['seconds']:.0f} s"
    )
    return found


def compile_share(cases: Sequence[Case], device: str, own: int, processes: int) -> tuple[int, int]:
    """Compile every kernel whose number leaves ``own`` when divided by ``processes``; how many were met and compiled.

    All processes meet the kernels in one order.
    """
    torch.set_num_threads(1)
    jit = importlib.import_module("triton.runtime.jit").JITFunction
    real, numbers, done = jit._do_compile, itertools.count(), 0
    with importlib.import_module("fastdarts.bench.no_launch").triton(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counted = jit._do_compile

        def shared(kernel: Any, key: str, signature: Any, place: int, *rest: Any) -> Any:
            nonlocal done
            if next(numbers) % processes == own:
                real(kernel, key, signature, place, *rest)
                del kernel.device_caches[place][0][key]  # nothing is to be launched
                done += 1
            return counted(kernel, key, signature, place, *rest)

        jit._do_compile = shared
        convolutions = torch.backends.cudnn.conv
        for case in cases:
            case.work(OURS, device=device).run()
            before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
            try:
                for edge in case.edges():
                    replace(edge, batch=2, precision="float32").work(OURS, device=device).run()
            finally:
                convolutions.fp32_precision = before
            replace(case.rough(), precision="float32").work(OURS, device=device).run()
    return next(numbers), done
