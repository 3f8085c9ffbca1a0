"""How long a launch, a call or a step takes on a GPU, predicted from what is counted; no measurement."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fastdarts.errors import FastdartsError
from fastdarts.functional import Launch, Run

ISSUE = 0.6  # of the four instructions a clock that a multiprocessor can issue, at most
WARP_ISSUE = 0.2  # instructions a clock of one warp: it waits for what it computed 4 clocks ago, or loaded 30 to 600
RECORD = Path(__file__).with_name("instructions.json")
SCHEDULERS, REGISTERS, THREADS, BLOCKS = 4, 65536, 2048, 32  # of a multiprocessor, on all generations
TYPES = {4: "fp32", 2: "bf16"}  # by bytes of a value


class Gpu(NamedTuple):
    """Peaks: bytes a second from memory, operations a second in products by bytes of a value; the rest is a clock's."""

    bandwidth: float
    matrix: dict[int, float]
    multiprocessors: int
    clock: float
    lanes: int  # float32 operations a clock and multiprocessor, a multiplication and addition for one
    shared: int  # KiB of shared memory a multiprocessor
    arch: int

    @property
    def l1(self) -> float:
        """Bytes a second through L1: 128 a clock and multiprocessor."""
        return 128 * self.multiprocessors * self.clock

    @property
    def vector(self) -> float:
        """Operations a second outside products."""
        return 2 * self.lanes * self.multiprocessors * self.clock


HOPPER = {4: 494e12, 2: 989e12}
GPUS = {  # the makers' peaks
    "A100": Gpu(2.04e12, {4: 156e12, 2: 312e12}, 108, 1.41e9, 64, 164, 80),
    "H100": Gpu(3.35e12, HOPPER, 132, 1.98e9, 128, 228, 90),
    "H200": Gpu(4.8e12, HOPPER, 132, 1.98e9, 128, 228, 90),
}


class Host(NamedTuple):
    """How launches come: seconds from one to the next on the GPU when nothing else bounds it, and CPU time of one."""

    gap: float
    eager: float


LAUNCHED = Host(3e-6, 7e-6)  # one by one; CPU time of an operation of PyTorch on a current host
REPLAYED = Host(1.5e-6, 0.0)  # as one CUDA graph


@functools.cache
def instructions(kind: str) -> dict[str, dict]:
    """The record of "triton" or "cuda" kernels by the newest version of their compiler."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    versions = [name for name in record if name.startswith(kind)]
    if not versions:
        raise FastdartsError(f"{RECORD.name} holds no instructions of {kind} kernels: record them with tests/support")
    newest = max(versions, key=lambda name: tuple(int(part) for part in name.split()[1].split(".")))
    return record[newest]


class Issued(NamedTuple):
    """Instructions of all warps of a launch, and the seconds that issuing them takes."""

    warps: float
    seconds: float


def issued(runs: Iterable[Run], gpu: Gpu, itemsize: int) -> Issued:
    """Of a launch: its programs are spread over the multiprocessors, and the one with most of them ends last."""
    total, programs, resident = 0.0, 0, 0
    for run in runs:
        facts = code_of(run, gpu, itemsize)
        total += run.programs * run.warps * per_warp(facts["regions"], run)
        programs += run.programs
        resident = max(resident, run.warps * min(_fitting(facts, run, gpu), -(-programs // gpu.multiprocessors)))
    if not programs:
        return Issued(0, 0)
    busiest = total / programs * -(-programs // gpu.multiprocessors)
    rate = min(SCHEDULERS * ISSUE, resident * WARP_ISSUE)
    return Issued(total, busiest / (rate * gpu.clock))


def code_of(run: Run, gpu: Gpu, itemsize: int) -> dict:
    """What is recorded of the code of a run."""
    return instructions(run.kind)[f"{run.code} {TYPES[itemsize]} sm_{gpu.arch}"]


def per_warp(regions: dict[str, dict[str, float]], run: Run) -> float:
    """Instructions of one warp of a program."""
    return sum(counts["all"] * runs_of(region, run) for region, counts in regions.items())


def runs_of(region: str, run: Run) -> float:
    """How often a program runs a region: the product of its elements' trips."""
    path, times = region.split("/") if region else [], 1.0
    for i, name in enumerate(path):
        around = ("/".join(path[k : i + 1]) for k in range(i))
        times *= run.trips[next((longer for longer in around if longer in run.trips), name)]
    return times


def _fitting(facts: dict, run: Run, gpu: Gpu) -> int:
    """Blocks that a multiprocessor has room for; it gives registers to warps by 256, and keeps a KiB a block."""
    warps = REGISTERS // (-(-32 * facts["registers"] // 256) * 256)
    shared = gpu.shared * 1024 // (facts["shared"] + run.shared + 1024)
    return max(1, min(BLOCKS, THREADS // 32 // run.warps, warps // run.warps, shared))


def predict(launch: Launch, gpu: Gpu, itemsize: int, host: Host = LAUNCHED) -> tuple[float, str]:
    """(seconds, what bounds them): the longest of its bounds, no measurement."""
    bounds = {
        "memory": launch.moved / gpu.bandwidth,
        "L1": launch.loads / gpu.l1,
        "arithmetic": launch.vector / gpu.vector + launch.matrix / gpu.matrix[itemsize],
        "issue": issued(launch.runs, gpu, itemsize).seconds,
    }
    bound = max(bounds, key=bounds.get)
    return bounds[bound] + host.gap, bound if bounds[bound] > host.gap else "launch"
