"""The part of docs/results.md on the second order over whole searches: how far searches with the same start and other
products come apart, from the finished pieces of full length."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.claims import said
from benchmarks.full_length_page import TITLES, caption
from benchmarks.gpu_tables import table
from fastdarts.compare.statistics import paired
from fastdarts.report.charts import Line, drawing_of_charts
from fastdarts.report.colours import BLUE, GREEN, GREY, ORANGE
from fastdarts.report.curves import mean_line

PAIRS = {
    ("second-order", "darts"): ("published difference beside first order", BLUE),
    ("second-order-exact", "darts"): ("exact product beside first order", GREEN),
    ("second-order-exact", "second-order"): ("exact product beside published difference", ORANGE),
}
"""What is compared, search by search: both have the same start, batches and settings but for the product."""
SEEDS = "two seeds of first order"

Found = dict[str, Any]
Row = dict[str, Any]


class Apart(NamedTuple):
    """How two searches come apart.

    Attributes:
        distance: of every epoch, counted from 1, the share of the mixing weights of an edge that lies on other
            candidates: half the sum of the absolute differences, as a mean over all edges of all kinds of cells.
        parted: the first epoch, from 1, whose derived cells differ; None if none does.
        alike: the share of the epochs whose derived cells are the same.
        changed: how many of the operations of the last derived cells differ, and of how many.
        error: how much worse the result of the first is than that of the second, in points of test error.
    """

    distance: list[tuple[int, float]]
    parted: int | None
    alike: float
    changed: tuple[int, int]
    error: float


def distance(one: Row, other: Row) -> float:
    """The share of the mixing weights that lies on other candidates, as a mean over the edges of both rows."""
    names = sorted(name for name in one if name.startswith("weights_"))
    edges = [pair for name in names for pair in zip(one[name], other[name], strict=True)]
    return statistics.fmean(sum(abs(a - b) for a, b in zip(*pair, strict=True)) / 2 for pair in edges)


def apart(one: Found, other: Found) -> Apart:
    """How the search of one piece comes apart from that of another."""
    rows = [*zip(one["rows"], other["rows"], strict=True)]
    same = [_entries(a["genotype"]) == _entries(b["genotype"]) for a, b in rows]  # their order says nothing
    last = [_entries(piece["rows"][-1]["genotype"]) for piece in (one, other)]
    errors = [_result(piece) for piece in (one, other)]
    return Apart(
        [(a["epoch"] + 1, distance(a, b)) for a, b in rows],
        next((a["epoch"] + 1 for (a, _), alike in zip(rows, same, strict=True) if not alike), None),
        sum(same) / len(same),
        (len(last[0] - last[1]), len(last[0])),
        errors[0] - errors[1],
    )


def _entries(genotype: Row) -> set[tuple[str, int, str, int]]:
    """The operations of a genotype: kind of cell, node, operation, source."""
    kinds = {kind: cell for kind, cell in genotype.items() if kind in ("normal", "reduce")}
    return {(kind, n // 2, op, source) for kind, cell in kinds.items() for n, (op, source) in enumerate(cell)}


def _result(piece: Found) -> float:
    return next(cell["test_error"] for cell in piece["derived"] if cell["epoch"] == "result")


def _by_seed(found: Sequence[Found], variant: str, space: str) -> dict[int, Found]:
    return {p["seed"]: p for p in found if (p["variant"], p["space"]) == (variant, space)}


def _spaces(found: Sequence[Found]) -> list[str]:
    """The spaces with a search of the second order."""
    return sorted({p["space"] for p in found if p["variant"].startswith("second-order")})


def compared_in(found: Sequence[Found], space: str) -> dict[tuple[str, str], dict[int, Apart]]:
    """Of each of :data:`PAIRS`, how the searches with each seed come apart."""
    made = {}
    for first, second in PAIRS:
        mine, other = _by_seed(found, first, space), _by_seed(found, second, space)
        if seeds := sorted(mine.keys() & other.keys()):
            made[first, second] = {seed: apart(mine[seed], other[seed]) for seed in seeds}
    return made


def section(found: Sequence[Found]) -> str:
    """The part of the page."""
    parts, rows, seeds = [], [], []
    for space in _spaces(found):
        for pair, by in compared_in(found, space).items():
            rows.append([space, PAIRS[pair][0], str(len(by)), *_line(found, space, pair, by)])
            seeds += [[space, PAIRS[pair][0], str(seed), *_values(one)] for seed, one in by.items()]
        parts.append(f"![Searches of the second order in space {space}](second-order-{space}.svg)")
        parts.append(caption([p for p in found if p["space"] == space and p["variant"] in {*itertools.chain(*PAIRS)}]))
    if not rows:
        return "No search of the second order is finished that has a search of the first order beside it."
    heads = [
        "space",
        "pair",
        "n",
        "weights elsewhere, %",
        "cells part in epoch",
        "epochs alike, %",
        "operations changed",
    ]
    parts.append(table([*heads, "test error, points"], rows))
    own = [*heads[:2], "seed", *heads[3:], "test error, points"]
    parts += ["<details markdown><summary>Every seed</summary>", table(own, seeds), "</details>"]
    return "\n\n".join(parts)


def _line(found: Sequence[Found], space: str, pair: tuple[str, str], by: Mapping[int, Apart]) -> list[str]:
    """Means over the seeds, and the difference of the test errors with its interval."""
    ones = [*by.values()]
    errors = [{seed: _result(p) for seed, p in _by_seed(found, name, space).items()} for name in pair]
    parted = [one.parted for one in ones if one.parted is not None]
    changed = statistics.fmean(one.changed[0] for one in ones)
    return [
        f"{100 * statistics.fmean(one.distance[-1][1] for one in ones):.1f}",
        " to ".join(dict.fromkeys((str(min(parted)), str(max(parted))))) if parted else "never",
        f"{100 * statistics.fmean(one.alike for one in ones):.0f}",
        f"{changed:.1f} of {ones[0].changed[1]}",
        said(paired(*errors)),
    ]


def _values(one: Apart) -> list[str]:
    parted, changed = "never" if one.parted is None else str(one.parted), "{} of {}".format(*one.changed)
    return [f"{100 * one.distance[-1][1]:.1f}", parted, f"{100 * one.alike:.0f}", changed, f"{one.error:+.2f}"]


def figures(found: Sequence[Found]) -> dict[str, str]:
    """Of every space with such pairs, a drawing: the distance by epoch, beside that of other seeds, and the errors."""
    drawn = {}
    for space in _spaces(found):
        pairs = compared_in(found, space)
        if not pairs:
            continue
        lines = []
        for pair, by in pairs.items():
            points = [[(epoch, 100 * value) for epoch, value in one.distance] for one in by.values()]
            lines += mean_line(points, *PAIRS[pair])
        others = itertools.combinations(_by_seed(found, "darts", space).values(), 2)
        between = [[(epoch, 100 * value) for epoch, value in apart(a, b).distance] for a, b in others]
        if between:
            means = [(at[0][0], statistics.fmean(value for _, value in at)) for at in zip(*between, strict=True)]
            lines.append(Line(SEEDS, GREY, means, dashed=True))
        errors = []
        for variant, colour in (("darts", GREY), ("second-order", BLUE), ("second-order-exact", GREEN)):
            each = [
                [(row["epoch"] + 1, row["valid_error"]) for row in piece["rows"]]
                for piece in _by_seed(found, variant, space).values()
            ]
            errors += mean_line(each, TITLES[variant], colour) if each else []
        charts = [("mixing weights elsewhere, %", " %", lines), ("supernet, validation error, %", " %", errors)]
        drawn[space] = str(drawing_of_charts(f"The second order in space {space}", charts)) + "\n"
    return drawn
