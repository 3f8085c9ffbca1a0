"""The tables of docs/results.md on methods under one budget, from CSV files of ``fastdarts compare``:

    fastdarts compare runs/every-method --csv benchmarks/results/every-method.csv
    fastdarts compare runs/search-families --csv benchmarks/results/search-families.csv

``python -m benchmarks.page --write`` fills them in.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_tables import table
from fastdarts.compare.statistics import mean_of, paired

RESULTS = Path(__file__).resolve().parent / "results"
RESULT, FAMILIES = RESULTS / "every-method.csv", RESULTS / "search-families.csv"
HEADS = ["method", "n", "test error, %", "beside {}, points", "skips", "parameters", "search, s", "peak MiB"]

Row = dict[str, str]


def every_method(path: Path = RESULT, baseline: str = "darts (unrolled False)", title: str = "DARTS") -> str:
    """A line for each method: means over its searches, those that were evaluated, from few errors to many.

    The differences are from the group ``baseline``, whose name is ``title``.
    """
    if not path.exists():
        return "Not measured yet."
    groups: dict[str, list[Row]] = defaultdict(list)
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["test"]:
                groups[row["group"]].append(row)
    base = _errors(groups[baseline])
    ordered = sorted(groups.items(), key=lambda pair: _mean(pair[1], "test"))
    heads = [head.format(title) for head in HEADS]
    return table(heads, [_line(name, rows, base if name != baseline else None) for name, rows in ordered])


def families(path: Path = FAMILIES) -> str:
    """The same of ``examples/search_families.py``, beside random search."""
    return every_method(path, "random", "random search")


def _line(name: str, rows: Sequence[Row], base: dict[int, float] | None) -> list[str]:
    found = mean_of([*_errors(rows).values()])
    error = f"{found.mean:.2f}" + ("" if found.std is None else f" ± {found.std:.2f}")
    gap = None if base is None else paired(_errors(rows), base)
    beside = "–" if gap is None else f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
    shown = name.replace("(unrolled False)", "first order").replace("(unrolled True)", "second order")
    sizes = (
        f"{_mean(rows, 'parameters'):,.0f}",
        f"{_mean(rows, 'seconds'):.0f}",
        f"{_mean(rows, 'memory') / 2**20:,.0f}",
    )
    return [shown, str(found.n), error, beside, f"{_mean(rows, 'skips'):.1f}", *sizes]


def _errors(rows: Sequence[Row]) -> dict[int, float]:
    return {int(row["seed"]): float(row["test"]) for row in rows}


def _mean(rows: Sequence[Row], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)
