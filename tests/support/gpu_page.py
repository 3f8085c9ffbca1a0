"""Fills the tables of docs/gpu.md from what is counted; --write replaces them.

    python -m tests.support.gpu_page [--write]

A table stands between "<!-- NAME -->" and "<!-- end -->". The numbers come from `fastdarts bench --traffic`, from the
records fastdarts/bench/instructions.json, tests/data/gpu_steps.json (python -m tests.support.gpu_steps) and
tests/data/host_times.json (fastdarts bench --host).
"""

import functools
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch

from fastdarts.bench import traffic
from fastdarts.bench.cases import EAGER, OURS, SUITES, EdgeCase
from fastdarts.bench.measure import MIB, number
from fastdarts.bench.prediction import (
    GPUS,
    LAUNCHED,
    REPLAYED,
    instructions,
    issued,
    predict,
)
from fastdarts.functional import TRAFFIC, Launch
from tests.support.gpu_steps import RECORD as STEPS
from tests.support.gpu_steps import noted, unpack
from tests.support.paths import DATA, ROOT

PAGE = ROOT / "docs" / "gpu.md"
HOST = DATA / "host_times.json"
NAMES = {"triton": "Triton", "cuda": "CUDA C++"}
FIRST = EdgeCase(16, 32)
STEP = "first-order step C16 8 cells"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """In Markdown."""
    heads = [*heads]
    lines = [heads, ["---"] * len(heads), *([*row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@functools.cache
def counted(case: EdgeCase, side: str) -> dict[str, traffic.Count]:
    return traffic.count(case, side)


def launches() -> str:
    """Launches and bytes of mixed operations, of the public code and of fastdarts."""
    rows = []
    for case in SUITES["mixed-op"]:
        ours, eager = counted(case, OURS), counted(case, EAGER)
        for name, found in ours.items():
            rows.append((str(case), name, eager[name], found))
    step = json.loads(STEPS.read_text(encoding="utf-8"))["N64"]
    calls = [*of_calls(step["calls"], "triton", torch.float32)]
    fused = [(launch, times) for call, times in calls for launch in call.launches]
    moved = step["around"]["bytes"] + sum(launch.moved * times for launch, times in fused)
    least = step["around"]["bytes"] + sum(call.least * times for call, times in calls)
    own = sum(times for _, times in fused)
    known = [
        (case, name, eager.launches, found.launches, len(found.kernels), eager.bytes, found.bytes, found.least)
        for case, name, eager, found in rows
    ]
    around, eager = step["around"]["launches"], step["eager"]
    known.append((f"{STEP} N64", "step", eager["launches"], around + own, own, eager["bytes"], moved, least))
    return table(
        ("case", "pass", "launches", "of mixed_op", "MiB", "least MiB", "× the least"),
        (
            (
                case,
                name,
                f"{theirs:,} → {ours:,}",
                f"{own:,}",
                f"{number(before / MIB)} → {number(after / MIB)}",
                number(least / MIB),
                f"{before / least:.2f} → {after / least:.2f}",
            )
            for case, name, theirs, ours, own, before, after, least in known
        ),
    )


def of_calls(calls: list, kind: str, dtype: torch.dtype) -> Iterable[tuple[Any, int]]:
    """(launches and least, how often) of every call of the fused ops."""
    for name, args, times in calls:
        yield TRAFFIC[kind][name](*unpack(args, dtype)), times


def taps() -> str:
    """What a tap of a depthwise window costs, of 16 channels in float32, in its loop and with all around it."""
    rows = []
    for what, useful in USEFUL.items():
        row = [what, str(useful)]
        for kind in TRAFFIC:
            code, regions, units = TAPS[kind][what]
            counts = instructions(kind)[f"{code} fp32 sm_90"]["regions"]
            inside = sum(counts[region]["all"] * times for region, times in regions.items()) / units
            row += [f"{inside:.0f}", f"{around(what, kind):.0f}"]
        rows.append(row)
    ways = [f"{NAMES[kind]}, {where}" for kind in TRAFFIC for where in ("loop", "everything")]
    return table(("a tap of", "useful", *ways), rows)


def around(what: str, kind: str) -> float:
    """All instructions of a launch over its taps; its operations are two a tap, or four where weights learn too."""
    calls = of_calls(calls_of(FIRST), kind, torch.float32)
    found = [launch for call, _ in calls for launch in call.launches if f"`{launch.kernel}`" in what]
    operations = 4 if "gradients" in what and "stage" in what else 2
    values = sum(launch.vector for launch in found) / operations
    warps = sum(issued(launch.runs, GPUS["H200"], 4).warps for launch in found)
    return 32 * USEFUL[what] * warps / values


USEFUL = {  # multiplications and additions of a thread for a tap, in these rows of the table
    "`stages`": 8,
    "`stages_gradients` or `stage_gradients`": 4,
    "`middle_gradients`": 4,
    "`state_gradient`": 4,
}
TAPS = {  # code, how often its regions are run, for how many taps with so many useful instructions
    "triton": {
        "`stages`": ("stages_kernel[C16]", {"i_p/i_c/tap": 1}, 1),
        "`stages_gradients` or `stage_gradients`": ("stages_gradients_kernel[C16]", {"i_p/tap": 1}, 1),
        "`middle_gradients`": ("middle_gradients_kernel[C16]", {"i_p/tap": 1}, 1),
        "`state_gradient`": ("state_gradient_kernel[C16]", {"i_s/tap": 1}, 1),
    },
    "cuda": {  # of a 5×5 window, whose columns are loops or unrolled; a thread has 16 values
        "`stages`": ("stages_kernel<2>", {"t/c/5×5": 1}, 25 * 2),
        "`stages_gradients` or `stage_gradients`": (
            "stage_gradients_kernel<1>",
            {"5×5 gradient/left/kx": 5, "5×5 gradient/left/taps/column": 4},
            25 * 4,
        ),
        "`middle_gradients`": ("middle_gradients_kernel", {"i/5×5/kx": 5}, 25 * 4),
        "`state_gradient`": ("state_gradient_kernel<1>", {"i/5×5 data/column": 5}, 25 * 4),
    },
}


def kernels() -> str:
    """Every launch of one mixed operation, with what it needs and how long it takes."""
    rows = []
    for kind in TRAFFIC:
        for dtype in (torch.float32, torch.bfloat16):
            found = [launch for call, _ in of_calls(calls_of(FIRST), kind, dtype) for launch in call.launches]
            for launch in found if dtype is torch.float32 else ():
                rows.append((NAMES[kind], _short(dtype), launch.kernel, *_facts([launch], dtype)))
            rows.append((NAMES[kind], _short(dtype), f"all {len(found)}", *_facts(found, dtype)))
    heads = ("kernels", "type", "kernel", "MiB read", "written", "through L1", "million instructions")
    return table((*heads, *(f"{gpu}, µs" for gpu in GPUS)), rows)


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def _facts(found: list[Launch], dtype: torch.dtype) -> list[str]:
    sizes = (sum(getattr(launch, name) for launch in found) / MIB for name in ("reads", "writes", "loads"))
    warps = sum(issued(launch.runs, GPUS["H200"], dtype.itemsize).warps for launch in found) / 1e6
    times = []
    for gpu in GPUS.values():
        predicted = [predict(launch, gpu, dtype.itemsize) for launch in found]
        seconds, bound = sum(seconds for seconds, _ in predicted), f" {predicted[0][1]}" if len(found) == 1 else ""
        times.append(f"{seconds * 1e6:.1f}{bound}" if bound else f"{seconds * 1e6:.0f}")
    return [*map(number, sizes), number(warps), *times]


@functools.cache
def calls_of(case: EdgeCase) -> list:
    """The calls of fused ops of one mixed operation, forward and backward."""
    with noted() as calls:
        traffic.count(case, OURS)
    return [[*json.loads(key), 1] for key in calls]


def steps() -> str:
    """Whole steps: the GPU's time or the host's, whichever is longer."""
    rows, record = [], json.loads(STEPS.read_text(encoding="utf-8"))
    host = json.loads(HOST.read_text(encoding="utf-8"))
    for dtype in (torch.float32, torch.bfloat16):
        for batch, step in record.items():
            around, eager = step["around"], step["eager"]
            torch_ops = around["launches"] * LAUNCHED.eager
            ways = {}
            if dtype is torch.float32:
                ways["public code, NCHW"] = ([], eager, LAUNCHED, eager["launches"] * LAUNCHED.eager)
            for kind in TRAFFIC:
                calls = of_calls(step["calls"], kind, dtype)
                found = [(launch, times) for call, times in calls for launch in call.launches]
                if kind in host:
                    cpu = host[kind][STEP] / 1e3
                    ways[NAMES[kind]] = (found, around, LAUNCHED, cpu + torch_ops)
                ways[f"{NAMES[kind]}, CUDA graphs"] = (found, around, REPLAYED, host["replay"] / 1e3)
            for what, (found, rest, way, cpu) in ways.items():
                times = []
                for gpu in GPUS.values():
                    own = sum(predict(launch, gpu, dtype.itemsize, way)[0] * number for launch, number in found)
                    seconds = own + rest["bytes"] / gpu.bandwidth + way.gap * rest["launches"]
                    times.append(f"{max(seconds, cpu) * 1e3:,.1f} {'GPU' if seconds > cpu else 'host'}")
                rows.append((_short(dtype), batch, what, f"{cpu * 1e3:,.0f}", *times))
    return table(("type", "batch", "what", "host ms", *(f"{gpu}, ms" for gpu in GPUS)), rows)


TABLES: dict[str, Callable[[], str]] = {"launches": launches, "taps": taps, "kernels": kernels, "steps": steps}


def filled(page: str) -> str:
    """The page with its tables as they are counted now."""
    for name, fill in TABLES.items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        assert page.count(begin) == 1, f"{PAGE.name} has no place for {name}"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}{fill()}\n{end}{after}"
    return page


def main() -> None:
    text = filled(PAGE.read_text(encoding="utf-8"))
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
