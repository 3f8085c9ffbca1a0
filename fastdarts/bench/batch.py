"""``fastdarts bench --suite batch``: the largest batch whose step of a search fits into so much memory, measured."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from fastdarts.bench.cases import EAGER, LAST, OURS, StepCase, prepare
from fastdarts.bench.check import check
from fastdarts.bench.measure import MIB, gpu_peak_memory, number, peak_memory, seconds_apart
from fastdarts.engine.memory import MODES, format_bytes
from fastdarts.engine.search import step_memory
from fastdarts.functional import why_plain
from fastdarts.tasks.images.task import ImageProblem

SMALL = 4, 8  # images of the first measurements
STEP = StepCase(unrolled=False)  # the published supernet
Way = tuple[str, str, StepCase]
"""What a row is called, its side of a case, and the case."""


def ways(device: str) -> list[Way]:
    """The public code in both memory formats, and fastdarts with every value of --memory, in bf16 if it has kernels."""
    public = [(side, side, STEP) for side in (EAGER, LAST)]
    ours = [(f"{OURS}, {memory}", OURS, replace(STEP, memory=memory)) for memory in MODES]
    if not why_plain(torch.device(device), torch.bfloat16):
        ours += [(f"{name}, bf16", side, replace(case, precision="bf16")) for name, side, case in ours]
    return public + ours


def measure_batch(budgets: Sequence[int], seconds: float, device: str, pinned: bool) -> Iterator[dict[str, Any]]:
    """A row for each budget and each of :func:`ways`: the largest batch whose step takes at most so many bytes, every
    measurement that found it, and the images per second at it.

    Raises :class:`fastdarts.bench.check.Wrong` before if results must not be timed.
    """
    for case in dict.fromkeys(case for *_, case in ways(device) if case.precision == "float32"):
        check(case, device)
    known: dict[str, dict[int, float]] = {}
    for budget, (name, side, case) in product(budgets, ways(device)):
        print(f"batch: {name} in {format_bytes(budget)} ...", file=sys.stderr)
        peak = partial(_peak, case, side, device)
        found = known[name] = largest(peak, budget, known.get(name) or {n: peak(n) for n in SMALL})
        best = max((n for n, taken in found.items() if taken <= budget), default=0)
        row = {"way": name, "budget": budget, "batch": best, "peaks": {str(n): found[n] for n in sorted(found)}}
        if best:
            per_step = seconds_apart(seconds, pinned, prepare, replace(case, batch=best), side, device)
            row |= {"ms": per_step * 1e3, "images_per_s": best / per_step}
            if side == OURS:
                images = ImageProblem.of_shape(10, 3, (case.size, case.size))
                row["estimate"] = step_memory(replace(case, batch=best).config, images, torch.device(device)).peak
        yield row


def grain(batch: int) -> int:
    """How close the smallest batch that does not fit must be to the largest that does: 1/32, or one image."""
    return max(1, batch // 32)


def largest(peak: Callable[[int], float], budget: float, known: dict[int, float]) -> dict[int, float]:
    """``known`` and what else was measured until one batch fits into ``budget`` and the next by :func:`grain` does not.

    ``peak(n)`` says what a batch of n images takes, infinity if it could not be computed. The next batch is where the
    line through the two measurements nearest to the budget meets it.
    """
    known = dict(known)
    while True:
        fits = max((n for n, taken in known.items() if taken <= budget), default=0)
        over = min((n for n, taken in known.items() if taken > budget and n > fits), default=None)
        if over is not None and over - fits <= grain(fits):
            return known
        n, low = _meeting(known, budget), fits + grain(fits)
        if over is None:
            n = max(n or 2 * fits, low)
        elif n is None or low > over - grain(fits) or not math.isfinite(known[over]):
            n = (fits + over) // 2
        else:
            n = min(max(n, low), over - grain(fits))
        known[n] = peak(n)


def _meeting(known: dict[int, float], budget: float) -> int | None:
    """Where the line through two measurements meets the budget; None if there is no such line."""
    finite = sorted((n for n, taken in known.items() if math.isfinite(taken)), key=lambda n: abs(known[n] - budget))
    if len(finite) < 2:
        return None
    a, b = finite[:2]
    slope = (known[a] - known[b]) / (a - b)
    return max(1, int(a + (budget - known[a]) / slope)) if slope > 0 else None


def _peak(case: StepCase, side: str, device: str, batch: int) -> float:
    """Bytes that a step takes: of a process of its own, or of the tensors on a GPU."""
    case = replace(case, batch=batch)
    try:
        if device == "cpu":
            return peak_memory(prepare, case, side, device)
        return gpu_peak_memory(prepare(case, side, device))
    except (torch.OutOfMemoryError, RuntimeError, OSError) as error:  # of the GPU, or a process killed for want of it
        print(f"batch: {batch} images cannot be computed ({type(error).__name__})", file=sys.stderr)
        return math.inf


def print_batch(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    """The machine, a table in Markdown for each budget, and what its columns mean."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    where = facts.get("gpu") or f"{facts['cpu']} ({facts['isa']}), {facts['threads']} threads"
    console.print(f"{where}, torch {facts['torch']}, fastdarts {facts['fastdarts']}")
    for budget in dict.fromkeys(row["budget"] for row in rows):
        title = f"largest batch in {format_bytes(budget)}"
        columns = "step", title, "", "peak MiB", "estimated", "the next", "images / GiB", "images / s"
        table = Table(*columns, box=box.MARKDOWN)
        own = [row for row in rows if row["budget"] == budget]
        for row in own:
            peaks, best = {int(n): taken for n, taken in row["peaks"].items()}, row["batch"]
            after = min(n for n in peaks if n > best)
            times = [f"{best / peer['batch']:.1f}×" for peer in own[:2] if peer["batch"]]
            table.add_row(
                row["way"],
                str(best),
                " / ".join(times) if row not in own[:2] else "",
                number(peaks[best] / MIB) if best else "",
                number(row["estimate"] / MIB) if "estimate" in row else "",
                f"{after}: {number(peaks[after] / MIB)}",
                number(best * 2**30 / budget),
                number(row["images_per_s"]) if best else "",
            )
        console.print("", table)
    console.print("", LEGEND)


LEGEND = """\
A first-order step of the published supernet: alphas, then weights. Peak: of a whole process over one step, less its
size before, malloc's defaults (on a GPU, of the tensors): interpreter, weights and images are aside. The next: a batch
that is larger by 1/32 or one image, and what it takes. Times: the largest batch beside those of the public code.
Results were compared with the public code's before, but for bf16, which has an error of its own."""
