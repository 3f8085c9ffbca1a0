"""The comparison as one self-contained HTML page: tables, and the curves of all methods over each other."""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from fastdarts.compare.table import HOW, Column, Comparison, Group, best, columns, seed_columns, spread
from fastdarts.report.charts import Line, line_chart
from fastdarts.report.markup import EMPTY, Html, element, joined
from fastdarts.report.page import html_page, table_row
from fastdarts.report.reader import Records, Row, points
from fastdarts.runs.writer import atomic_write

COLOURS = (
    "#2563eb", "#d97706", "#15803d", "#8b3fe0", "#be123c", "#0891b2", "#4d7c0f", "#c026d3", "#854d0e", "#475569",
)  # fmt: skip


def write_page(found: Comparison, path: Path) -> None:
    """Write the page to ``path``."""
    atomic_write(path, html_page("fastdarts: runs compared", _body(found, path)).encode())


def _body(found: Comparison, path: Path) -> Html:
    runs = sum(len(group.runs) for group in found.groups)
    header = element(
        "header", element("h1", "Runs compared"), element("p", f"{len(found.groups)} methods, {runs} runs")
    )
    said = [element("p", sentence) for sentence in filter(None, [best(found), *found.notes])]
    sections = {
        "Methods": joined((_table(columns(found)), element("p", HOW), *said)),
        "Seeds": _table(seed_columns(found)),
        "Curves": _curves(found),
        "Runs": _runs(found, path),
    }
    return joined(
        (header, *(element("section", element("h2", title), body) for title, body in sections.items() if body)), "\n"
    )


def _table(table: Sequence[Column]) -> Html:
    rows = zip(*(column.texts for column in table), strict=True)
    head = table_row([column.title for column in table], "th")
    return element("div", element("table", head, *map(table_row, rows)), class_="wide numbers")


def _curves(found: Comparison) -> Html:
    task = found.groups[0].runs[0].records.task
    kinds = found.groups[0].runs[0].records.space.kinds
    judged = task.metric.title.removeprefix("valid ")
    wanted = [
        (task.metric.name, task.metric.title.capitalize(), task.metric.unit, "search"),
        ("train_loss", "Training loss of the search", "", "search"),
        ("discretisation_gap", "Discretisation gap", " points", "search"),
        *((f"skip_{kind}", f"Skip connections, {title}", "", "search") for kind, title in kinds.items()),
        *((f"entropy_{kind}", f"Entropy of an edge, {title}", " nats", "search") for kind, title in kinds.items()),
        ("test_error", f"Test {judged} of the evaluation", task.metric.unit, "evaluation"),
        ("train_loss", "Training loss of the evaluation", "", "evaluation"),
    ]
    charts = []
    for key, title, unit, of in wanted:
        lines = [_line(group, key, of, COLOURS[i % len(COLOURS)]) for i, group in enumerate(found.groups)]
        charts.append(line_chart(title, [line for line in lines if line.points], unit))
    return element("div", *charts, class_="charts") if any(charts) else EMPTY


def _line(group: Group, key: str, of: str, colour: str) -> Line:
    """The mean over the runs of a group, epoch by epoch, with a band of one standard deviation."""
    records = [run.records for run in group.runs if run.is_search] if of == "search" else []
    records += [one for run in group.runs for one in run.evaluations] if of == "evaluation" else []
    at = defaultdict(list)
    for run in records:
        for rows in _trainings(run):
            for epoch, value in points(rows, key):
                at[epoch].append(value)
    means = [(epoch, statistics.fmean(at[epoch])) for epoch in sorted(at)]
    band = [(epoch, mean - spread(at[epoch]), mean + spread(at[epoch])) for epoch, mean in means]
    many = any(len(values) > 1 for values in at.values())
    return Line(group.name, colour, means, band=band if many else ())


def _trainings(run: Records) -> list[list[Row]]:
    """The rows of each training; of a random search those of the candidate that it has found."""
    trainings = run.trainings()
    if run.parts == "sample":
        return [trainings[sample] for _, sample in run.ranking()[:1]]
    return [*trainings.values()]


def _runs(found: Comparison, path: Path) -> Html:
    """The folders, with links to the reports that are there."""
    lines = []
    for group in found.groups:
        for run in group.runs:
            for records in dict.fromkeys(one.folder for one in (run.records, *run.evaluations)):
                report, shown = records / "report.html", str(records)
                if report.exists():
                    shown = element("a", shown, href=_link(report, path))
                lines.append((group.name, run.seed, shown))
    head = table_row(("Method", "Seed", "Folder"), "th")
    return element("div", element("table", head, *map(table_row, lines)), class_="wide")


def _link(report: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(report.resolve(), path.resolve().parent)).as_posix()
    except ValueError:  # on another drive
        return report.resolve().as_uri()
