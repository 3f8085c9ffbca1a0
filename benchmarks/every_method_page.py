"""The part of docs/results.md on every method under one budget, from the CSV of ``fastdarts compare``:

fastdarts compare runs/every-method --csv benchmarks/results/every-method.csv
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.claims import DIFFERENCE, LI, Claim, beside, compared, needed, said
from benchmarks.figures import Interval, intervals
from benchmarks.gpu_tables import table
from fastdarts.compare.statistics import mean_of, paired

RESULT = Path(__file__).resolve().parent / "results" / "every-method.csv"
BASELINE = "darts (unrolled False)"
PROCESSOR = "an AVX-512 EPYC (family 26)"
"""Where the searches of the file were made."""
HEADS = [
    "method", "n", "test error, %", "beside DARTS, points", f"pairs for {DIFFERENCE:g} points", "skips", "parameters",
    "search, s", "peak MiB",
]  # fmt: skip
NAMES = {BASELINE: "darts", "darts (unrolled True)": "second-order"}
"""Names of groups in claims, where they are others."""

Row = dict[str, str]


def read(path: Path = RESULT) -> dict[str, list[Row]]:
    """The searches of every method, those that were evaluated."""
    groups: dict[str, list[Row]] = defaultdict(list)
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["test"]:
                    groups[row["group"]].append(row)
    return groups


def every_method(groups: dict[str, list[Row]]) -> str:
    """A line for each method: means over its searches, from few errors to many."""
    base = _errors(groups[BASELINE])
    ordered = sorted(groups.items(), key=lambda pair: _mean(pair[1], "test"))
    return table(HEADS, [_line(name, rows, base if name != BASELINE else None) for name, rows in ordered])


def every_seed(groups: dict[str, list[Row]]) -> str:
    """A line for each search."""
    rows = [
        [_shown(name), row["seed"], f"{float(row['test']):.2f}", row["skips"], f"{float(row['seconds']):.0f}"]
        for name, some in sorted(groups.items())
        for row in some
    ]
    return table(["method", "seed", "test error, %", "skips", "search, s"], rows)


def section(groups: dict[str, list[Row]]) -> str:
    """The part of the page."""
    if not groups:
        return "Not measured yet."
    hours = sum(float(row["seconds"]) for rows in groups.values() for row in rows) / 3600
    searches = sum(map(len, groups.values()))
    parts = (
        "![Test error of every method beside DARTS](every-method.svg)",
        f"*`python examples/every_method.py`; {searches} searches on {PROCESSOR}; {hours:.1f} hours of one "
        "thread for the searches, with other jobs beside them.*",
        "<details markdown><summary>Every method</summary>",
        every_method(groups),
        "</details>",
        "<details markdown><summary>Every seed</summary>",
        every_seed(groups),
        "</details>",
    )
    return "\n\n".join(parts)


def figure(groups: dict[str, list[Row]]) -> str:
    """The difference of every method from DARTS with its interval."""
    base = _errors(groups[BASELINE])
    rows = []
    for name, some in groups.items():
        gap = paired(_errors(some), base)
        if name != BASELINE and gap is not None:
            rows.append(Interval(_shown(name), gap.mean, gap.low, gap.high))
    title = "Test error beside DARTS under one budget, mean and 95 % interval"
    return intervals(title, "points of test error", rows, ("better than DARTS", "worse"))


def claims(groups: dict[str, list[Row]]) -> Iterator[Claim]:
    """What the searches say about each claim."""
    errors = {NAMES.get(name, name): _errors(rows) for name, rows in groups.items()}
    yield from beside("small budget", errors)
    if "random" in errors and "darts" in errors:
        claim = f"Random search is at most {DIFFERENCE:g} points worse than DARTS"
        yield compared(claim, LI, "small budget", -1, "", errors["random"], errors["darts"], DIFFERENCE)


def _shown(name: str) -> str:
    return name.replace("(unrolled False)", "first order").replace("(unrolled True)", "second order")


def _line(name: str, rows: Sequence[Row], base: dict[int, float] | None) -> list[str]:
    found = mean_of([*_errors(rows).values()])
    error = f"{found.mean:.2f}" + ("" if found.std is None else f" ± {found.std:.2f}")
    gap = None if base is None else paired(_errors(rows), base)
    sizes = (
        f"{_mean(rows, 'parameters'):,.0f}",
        f"{_mean(rows, 'seconds'):.0f}",
        f"{_mean(rows, 'memory') / 2**20:,.0f}",
    )
    return [_shown(name), str(found.n), error, said(gap), needed(gap), f"{_mean(rows, 'skips'):.1f}", *sizes]


def _errors(rows: Sequence[Row]) -> dict[int, float]:
    return {int(row["seed"]): float(row["test"]) for row in rows}


def _mean(rows: Sequence[Row], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)
