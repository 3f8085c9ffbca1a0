"""What a search without gradients has asked for: how good each architecture was, the best so far, and its cost."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from fastdarts.report.charts import Line, line_chart, number
from fastdarts.report.colours import BLUE, GREEN, ORANGE
from fastdarts.report.markup import EMPTY, Html, element, joined
from fastdarts.report.page import sortable_table
from fastdarts.report.reader import Records
from fastdarts.report.words import CHARTS
from fastdarts.runs.stored import is_number

SHOWN = ("metric", "best", "cost")
"""Numbers of the rows of queries that the section shows, so that no other one has to."""
_LISTED = 100  # architectures in the table


def entries(run: Records) -> list[dict[str, Any]]:
    """What was asked for, in order: metric and cost, without a metric where it failed. Empty for other runs."""
    if isinstance(found := run.result.get("history"), list):
        return [entry for entry in found if isinstance(entry, dict)]
    return [row for row in run.rows if "architecture" in row]


def is_queries(run: Records) -> bool:
    """Whether each row is an architecture that was judged, and no epoch of a training."""
    return bool(run.rows) and "architecture" in run.rows[0]


def falls(run: Records) -> bool:
    """Whether less of the metric is better; of an unfinished run, whether its best has fallen."""
    if "direction" in run.result:
        return run.result["direction"] == "minimize"
    best = [row["best"] for row in run.rows if is_number(row.get("best"))]
    return bool(best) and best[-1] < best[0]


def best_so_far(run: Records) -> list[tuple[int, float]]:
    """(query, best metric until then), queries counted from 1."""
    known = [(query, entry["metric"]) for query, entry in enumerate(entries(run), 1) if is_number(entry.get("metric"))]
    best = accumulate((metric for _, metric in known), min if falls(run) else max)
    return [(query, metric) for (query, _), metric in zip(known, best, strict=True)]


def title(run: Records) -> str:
    """What the metric is called."""
    return str(run.result.get("metric", "metric")).replace("_", " ")


def queries(run: Records) -> Html:
    """Charts of metrics over queries and over costs, and the best architectures."""
    asked = entries(run)
    known = [(query, entry) for query, entry in enumerate(asked, 1) if is_number(entry.get("metric"))]
    if not known:
        return EMPTY
    name = title(run)
    each = Line(name, BLUE, [(query, entry["metric"]) for query, entry in known], loose=True)
    lines = [each, Line("best so far", ORANGE, best_so_far(run))]
    shown = "Best so far over queries"
    charts = [line_chart(shown, lines, axis="query", about=CHARTS[shown]), _against_cost(run, name)]
    failed = sum("failed" in entry for entry in asked)
    reasons = dict.fromkeys(str(entry["failed"]) for entry in asked if "failed" in entry)
    text = f"{failed} of {len(asked)} architectures failed, such as one because {next(iter(reasons), '')}."
    note = element("p", text) if failed else EMPTY
    return joined((element("div", *filter(None, charts), class_="charts"), note, _table(run, known, name)))


def _against_cost(run: Records, name: str) -> Html:
    """Metric against cost, with the Pareto front."""
    known = [entry for entry in entries(run) if is_number(entry.get("metric")) and is_number(entry.get("cost"))]
    if not known:
        return EMPTY
    points = sorted((entry["cost"], entry["metric"]) for entry in known)
    kind = str(run.config.get("cost", "cost"))
    shown = "Pareto front"
    lines = [Line(name, BLUE, points, loose=True), Line(f"front over {kind}", GREEN, [*_front(points, falls(run))])]
    return line_chart(shown, lines, axis=kind, about=CHARTS[shown])


def _front(points: list[tuple[float, float]], less: bool) -> Iterator[tuple[float, float]]:
    """The points, by ascending cost, that are better than all that cost less."""
    best = None
    for _, metric in sorted(points, key=lambda point: (point[0], point[1] if less else -point[1])):
        if best is None or (metric < best if less else metric > best):
            best = metric
            yield _, metric


def _table(run: Records, known: list[tuple[int, dict[str, Any]]], name: str) -> Html:
    """The best architectures, each once."""
    order = sorted(known, key=lambda pair: pair[1]["metric"], reverse=not falls(run))
    first: dict[str, tuple[int, dict[str, Any]]] = {}
    for query, entry in order:
        first.setdefault(str(entry.get("architecture")), (query, entry))
    costs = any("cost" in entry for _, entry in known)
    head = ("Query", name.capitalize(), *(["Cost"] * costs), "Architecture")
    lines = [
        (query, number(entry["metric"]), *([_cost(entry.get("cost", 0))] * costs), text)
        for text, (query, entry) in [*first.items()][:_LISTED]
    ]
    left = len(first) - len(lines)
    note = element("p", f"The best {len(lines)} of {len(first)}.") if left > 0 else EMPTY
    return joined((note, sortable_table(head, lines, "candidates")))


def _cost(value: float) -> str:
    """A count as a whole number, or milliseconds."""
    return f"{value:,.0f}" if float(value).is_integer() else number(value)
