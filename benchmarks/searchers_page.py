"""The parts of docs/results.md on searches without gradients: five families, and searchers in a table.

    fastdarts compare runs/search-families --csv benchmarks/results/search-families.csv
    python examples/regret_over_queries.py --table runs/study-tiny/study.json \\
        --json benchmarks/results/searchers/tiny.json --copy benchmarks/results/searchers/tiny.csv

``python -m benchmarks.page --write`` fills them in.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.every_method_page import every_method, read
from benchmarks.gpu_tables import table
from fastdarts.compare.statistics import paired
from fastdarts.report.charts import Line, drawing_of_charts
from fastdarts.report.colours import BLUE, GREEN, GREY, ORANGE

RESULTS = Path(__file__).resolve().parent / "results"
RESULT, FAMILIES = RESULTS / "searchers" / "tiny.json", RESULTS / "search-families.csv"
FIGURE = "regret-over-queries"
SHOWN = 5, 10, 20, 40
"""Queries after which the table says the regret."""
DRAWN = {"random": GREY, "evolution": BLUE, "reinforce": ORANGE, "tpe": GREEN}

Found = dict[str, Any]


def families(path: Path = FAMILIES) -> str:
    """A line for each family, beside random search."""
    groups = read(path)
    return every_method(groups, "random", "random search") if groups else "Not measured yet."


def finished(path: Path = RESULT) -> Found | None:
    """What the example has measured; None before."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def section(found: Found | None) -> str:
    """The part of the page: conditions, figure and table."""
    if found is None:
        return "Not measured yet."
    searches = found["searches"]
    shown = [count for count in SHOWN if count <= found["queries"]]
    rows = [_row(name, one, searches["random"], shown) for name, one in searches.items()]
    heads = ["searcher", "settings", *(f"after {count}" for count in shown), "mean beside random, points", "seconds"]
    facts = (
        f"{found['seeds']} seeds of {found['queries']} queries each, in the {found['metric'].replace('_', ' ')} of "
        f"{found['architectures']} architectures. An architecture drawn at random has a regret of "
        f"{found['mean_regret']:.2f} points. Measured on: {found['machine']}"
    )
    picture = f"![Regret over queries in the table of the tiny space]({FIGURE}.svg)"
    return "\n\n".join([facts + ".", picture, table(heads, rows)])


def _row(name: str, one: Found, random: Found, shown: Sequence[int]) -> list[str]:
    means = [f"{statistics.fmean(run[count - 1] for run in one['regrets']):.2f}" for count in shown]
    own, base = (dict(enumerate(statistics.fmean(run) for run in each["regrets"])) for each in (one, random))
    gap = None if one is random else paired(own, base)
    beside = "–" if gap is None else f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in one["settings"].items())
    return [name, settings or "published", *means, beside, f"{one['seconds']:.1f}"]


def figure(found: Found) -> str:
    """The mean regret over the queries of the searchers that say most."""
    lines = []
    for name, colour in DRAWN.items():
        runs = found["searches"][name]["regrets"]
        points = [(query, statistics.fmean(run)) for query, run in enumerate(zip(*runs, strict=True), 1)]
        lines.append(Line(name, colour, points))
    title = f"Regret over queries, mean of {found['seeds']} seeds"
    return str(drawing_of_charts(title, [("regret, points", "", lines)], "query")) + "\n"
