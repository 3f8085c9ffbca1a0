"""The part of docs/results.md on searches for something else than classes, from the finished pieces.

``python -m benchmarks.page --write`` fills it in. Verdicts follow from rules that are written beside them.
"""

from __future__ import annotations

import functools
import math
import operator
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.beyond_labels import SETTINGS, TASKS, pieces
from benchmarks.claims import NONE_YET, said, verdict
from benchmarks.gpu_tables import table
from fastdarts.compare.statistics import Difference, paired
from fastdarts.report.charts import Line, drawing_of_charts
from fastdarts.report.colours import BLUE, ORANGE

FIGURE = "pretext"
STEREO = {"darts": "DARTS", "darts-es": "DARTS-ES", "published": "published cells", "random": "random cells"}
IMAGES = {"labels": "found by labels", "rotation": "found by rotation", "random": "random cells"}
NORMAL = 1.959964
"""The 97.5 % quantile of the normal distribution."""

Found = dict[str, Any]
Cells = dict[str, dict[int, list[Found]]]


def cells_of(found: Sequence[Found], part: str) -> Cells:
    """The trained cells of the pieces whose name begins with ``part``: by where they come from, and by seed."""
    by: Cells = defaultdict(lambda: defaultdict(list))
    for piece in found:
        if piece["what"].startswith(part):
            for name, cell in piece["cells"].items():
                by[name.split()[0]][piece["number"]].append(cell)
    return by


def value(cell: Found, *path: str) -> float:
    """The number at the end of ``path``."""
    return functools.reduce(operator.getitem, path, cell)


def means(by_seed: dict[int, list[Found]], *path: str) -> dict[int, float]:
    """By seed, the mean of a number of its cells."""
    return {seed: statistics.fmean(value(cell, *path) for cell in cells) for seed, cells in by_seed.items()}


def spread(by_seed: dict[int, list[Found]], *path: str) -> str:
    """Mean ± standard deviation over all cells."""
    values = [value(cell, *path) for cells in by_seed.values() for cell in cells]
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def stereo_table(by: Cells) -> str:
    """Errors on real and on drawn pairs of cells from each source, and their difference from random cells."""
    rows = []
    for name, title in STEREO.items():
        if mine := by.get(name):
            beside = [
                "–" if name == "random" else said(paired(means(mine, where, "epe"), means(by["random"], where, "epe")))
                for where in ("real", "drawn")
            ]
            cells = sum(map(len, mine.values()))
            errors = [spread(mine, *path) for path in (("real", "epe"), ("drawn", "epe"), ("real", "bad3"))]
            size = statistics.fmean(means(mine, "parameters").values())
            rows.append([title, str(cells), *errors, *beside, f"{size:,.0f}"])
    heads = [
        "cells", "n", "EPE of real pairs, px", "EPE of drawn pairs, px", "bad-3 of real pairs, %",
        "real, beside random, px", "drawn, beside random, px", "parameters",
    ]  # fmt: skip
    return table(heads, rows)


def images_table(by: Cells) -> str:
    """Test errors with labels of cells from each source, and their difference from cells that were found by labels."""
    rows = []
    for name, title in IMAGES.items():
        if mine := by.get(name):
            beside = (
                "–"
                if name == "labels"
                else said(paired(means(mine, "test_error"), means(by.get("labels", {}), "test_error")))
            )
            sizes = [f"{statistics.fmean(means(mine, name).values()):,.0f}" for name in ("macs", "parameters")]
            cells = sum(map(len, mine.values()))
            rows.append([title, str(cells), spread(mine, "test_error"), beside, *sizes])
    heads = ["cells", "n", "test error, %", "beside those found by labels, points", "MACs", "parameters"]
    return table(heads, rows)


def equal(found: Difference | None, margin: float) -> tuple[str, str]:
    """Whether errors are equal, and why: the 95 % interval of their difference is within the margin, or is above it."""
    if found is None or found.low is None:
        return "undecided", NONE_YET if found is None else "no interval"
    if -margin <= found.low and found.high <= margin:
        return "confirmed", f"within {margin:g}"
    return ("refuted", f"above {margin:g}") if found.low > margin else ("undecided", f"wider than {margin:g}")


def correlation(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float] | None:
    """The rank correlation of Spearman and its 95 % interval by Fisher's transformation; None for under four pairs.

    The standard error of atanh(r) is sqrt(1.06 / (n - 3)) (Fieller, Hartley and Pearson 1957).
    """
    from scipy.stats import spearmanr  # here, as it takes a while to import

    if len(first) < 4:
        return None
    r = float(spearmanr(first, second).statistic)
    if not math.isfinite(r):
        return None
    half, middle = NORMAL * math.sqrt(1.06 / (len(first) - 3)), math.atanh(min(max(r, -0.999999), 0.999999))
    return r, math.tanh(middle - half), math.tanh(middle + half)


def errors_of(found: Sequence[Found]) -> dict[str, list[float]]:
    """The test errors of the sampled cells by task, in one order."""
    cells = [piece["cells"] for piece in found if piece["what"] == "sampled"]
    return {task: [cell[task]["test_error"] for cell in cells] for task in TASKS}


def claims(found: Sequence[Found]) -> Iterator[list[str]]:
    """Rows of the table of claims: claim, source, what was measured, pairs, verdict, why."""
    stereo, images = cells_of(found, "stereo-"), cells_of(found, "images-")
    for name, source in {
        "darts": "Saikia et al. 2019", "darts-es": "Zela et al. 2020", "published": "Saikia et al. 2019",
    }.items():  # fmt: skip
        for where in ("real", "drawn"):
            gap = paired(means(stereo.get(name, {}), where, "epe"), means(stereo.get("random", {}), where, "epe"))
            claim = f"Disparity: {STEREO[name]} {'are' if name == 'published' else 'finds cells'} better than random"
            yield _row(f"{claim} cells, on {where} pairs", source, gap, "EPE − that of random cells", "px", -1)
    for where in ("real", "drawn"):
        gap = paired(means(stereo.get("darts-es", {}), where, "epe"), means(stereo.get("darts", {}), where, "epe"))
        yield _row(
            f"Disparity: DARTS-ES finds better cells than DARTS, on {where} pairs", "Zela et al. 2020", gap,
            "EPE − that of DARTS", "px", -1,
        )  # fmt: skip
    gap = paired(means(images.get("rotation", {}), "test_error"), means(images.get("labels", {}), "test_error"))
    margin = SETTINGS["images"]["equal"]["margin"]
    yield [
        f"Cells found by rotation are as good as those found by labels, within {margin:g} point", "Liu et al. 2020",
        f"difference of the test errors: {said(gap)} points", str(gap.n if gap else 0), *equal(gap, margin),
    ]  # fmt: skip
    errors = errors_of(found)
    for task in TASKS[1:]:
        measured = correlation(errors["images"], errors[task])
        decided, text = ("undecided", NONE_YET), "–"
        if measured is not None:
            r, low, high = measured
            sign = "confirmed" if low > 0 else "refuted" if high < 0 else "undecided"
            decided = sign, "holds 0" if sign == "undecided" else "above 0" if low > 0 else "below 0"
            text = f"{r:+.2f} [{low:+.2f}, {high:+.2f}]"
        yield [
            f"Cells that learn {task} well learn labels well", "Liu et al. 2020",
            f"rank correlation of the test errors: {text}", str(len(errors[task])), *decided,
        ]  # fmt: skip


def _row(claim: str, source: str, gap: Difference | None, what: str, unit: str, sign: int) -> list[str]:
    return [claim, source, f"{what}: {said(gap)} {unit}", str(gap.n if gap else 0), *verdict(gap, sign)]


def section(found: Sequence[Found]) -> str:
    """The part of the page."""
    done, planned = len(found), len(pieces())
    parts = [f"{done} of {planned} pieces are finished. What is not there yet is not in the tables."]
    if not found:
        return parts[0]
    machines = sorted({f"{piece['machine']['cpu']} ({piece['machine']['isa']})" for piece in found})
    parts.append(f"Measured on: {'; '.join(machines)}. Each piece names its commit.")
    parts.append(table(["claim", "source", "measured", "pairs", "verdict", "why"], list(claims(found))))
    if by := cells_of(found, "stereo-"):
        parts += ["Disparity:", stereo_table(by)]
        medians = [piece["median"] for piece in found if "median" in piece]
        if medians:
            real, drawn = (medians[0][where]["epe"] for where in ("real", "drawn"))
            parts.append(
                f"Who says the median disparity of the training pairs everywhere has {real:.2f} px on the real pairs "
                f"and {drawn:.2f} px on the drawn ones."
            )
        stops = {piece["number"]: piece["stop"] for piece in found if piece["what"] == "stereo-darts"}
        said_of = [
            f"seed {seed}: " + (f"after epoch {stop[0] + 1}, back to epoch {stop[1] + 1}" if stop else "never")
            for seed, stop in stops.items()
        ]
        parts += [f"DARTS-ES ends its search with {'; with '.join(said_of)}."] * bool(said_of)
    if by := cells_of(found, "images-"):
        parts += ["Fashion-MNIST, cells trained with labels:", images_table(by)]
    if figure(found):
        parts.append(f"![Errors without labels beside errors with labels]({FIGURE}.svg)")
    return "\n\n".join(parts)


def figure(found: Sequence[Found]) -> str | None:
    """Of the sampled cells, errors without labels over errors with labels; None for under two cells."""
    errors = errors_of(found)
    if len(errors["images"]) < 2:
        return None
    charts = []
    for task, colour in zip(TASKS[1:], (BLUE, ORANGE), strict=True):
        points = sorted(zip(errors["images"], errors[task], strict=True))
        charts.append((f"error of {task}, %", " %", [Line("one point a cell", colour, points, loose=True)]))
    title = f"Test errors of {len(errors['images'])} random cells, trained by labels and by a task without labels"
    return str(drawing_of_charts(title, charts, "error with labels, %")) + "\n"
