"""The part of docs/results.md on collapse in S2, S3 and S4, from what examples/robustness.py has found."""

from __future__ import annotations

import csv
import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.claims import ZELA, Claim, beside, counted, needed, said
from benchmarks.figures import Interval, intervals
from benchmarks.gpu_tables import table
from fastdarts.compare.statistics import Difference, paired

RESULT = Path(__file__).resolve().parent / "results" / "robustness.csv"
SETTINGS = {"published": "120 steps", "faster alphas": "120 fast steps"}
"""The settings of the searches, and the names of the places where claims are asked."""
TITLES = {
    "darts": "DARTS", "darts-es": "DARTS-ES", "darts-ada": "DARTS-ADA", "darts-pt": "DARTS-PT",
    "lambda-darts": "Λ-DARTS", "lambda-darts-kept-kinks": "Λ-DARTS, kinks kept",
}  # fmt: skip
CLAIMED = {"lambda-darts": "lambda-darts, published difference", "lambda-darts-kept-kinks": "lambda-darts"}
"""Names of methods in claims: what Λ-DARTS means is its gradient, which only kept kinks give."""
ENTRIES = 4
"""Operations of a normal cell."""
CAPTION = (
    "*`python examples/robustness.py`; 108 rows on a shared AVX-512 Xeon; 0.8 hours of one thread, trainings included.*"
)

Row = dict[str, str]


def read(path: Path = RESULT) -> list[Row]:
    """What was found: a row for each setting, space, method and seed."""
    with open(path, newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def errors(rows: Sequence[Row], setting: str) -> dict[str, dict[tuple[str, str], float]]:
    """Of each method the test errors by space and seed."""
    by: dict[str, dict[tuple[str, str], float]] = {method: {} for method in TITLES}
    for row in rows:
        if row["setting"] == setting:
            by[row["method"]][row["space"], row["seed"]] = float(row["test_error"])
    return by


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """What the searches say about each claim."""
    for setting, where in SETTINGS.items():
        mine = [row for row in rows if row["setting"] == setting]
        weak = [int(row["weak"]) >= ENTRIES / 2 for row in mine if row["method"] == "darts"]
        ends = "DARTS ends in operations without weights"
        yield counted(ends, ZELA, where, "half of a cell or more", sum(weak), len(weak))
        risen = [row["note"].startswith("back") for row in mine if row["method"] == "darts-es"]
        rises = "The largest eigenvalue rises"
        yield counted(rises, ZELA, where, "detected", sum(risen), len(risen))
        yield from beside(where, {CLAIMED.get(name, name): own for name, own in errors(rows, setting).items()})


def differences(rows: Sequence[Row], setting: str) -> dict[str, Difference]:
    """Of each method the difference from DARTS over all spaces and seeds."""
    by = errors(rows, setting)
    keys = {key: number for number, key in enumerate(sorted(by["darts"]))}
    numbered = {name: {keys[key]: error for key, error in own.items()} for name, own in by.items()}
    return {name: paired(own, numbered["darts"]) for name, own in numbered.items() if name != "darts"}


def figures(rows: Sequence[Row]) -> dict[str, str]:
    """Of each setting a drawing of the differences from DARTS."""
    made = {}
    for setting, where in SETTINGS.items():
        found = differences(rows, setting)
        drawn = [Interval(TITLES[name], gap.mean, gap.low, gap.high) for name, gap in found.items()]
        title = f"Test error beside DARTS in S2, S3 and S4, {where}"
        made[setting.replace(" ", "-")] = intervals(
            title, "points of test error", drawn, ("better than DARTS", "worse")
        )
    return made


def section(rows: Sequence[Row]) -> str:
    """The part of the page: a figure, means and seeds of each setting."""
    parts = []
    for setting in SETTINGS:
        mine = [row for row in rows if row["setting"] == setting]
        title = setting + ("" if setting == "published" else " (not published)")
        parts += [f"**Settings: {title}**", f"![Test error beside DARTS](robustness-{setting.replace(' ', '-')}.svg)"]
        parts += [CAPTION, "<details markdown><summary>Means</summary>", _means(mine, differences(rows, setting))]
        parts += ["</details>", "<details markdown><summary>Every seed</summary>", _seeds(mine), "</details>"]
    return "\n\n".join(parts)


def _means(rows: Sequence[Row], found: dict[str, Difference]) -> str:
    lines = []
    for space, method in itertools.product(("s2", "s3", "s4"), TITLES):
        some = [row for row in rows if (row["space"], row["method"]) == (space, method)]
        columns = [_spread([row[name] for row in some], digits) for name, digits in COLUMNS.items()]
        lines.append([space.upper(), TITLES[method], str(len(some)), *columns])
    heads = ["space", "method", "seeds", "skips (S4: noise) of 4", "eigenvalue", "supernet error %", "test error %"]
    gaps = [[TITLES[name], said(gap), needed(gap)] for name, gap in found.items()]
    both = table(heads, lines), table(["all spaces", "beside DARTS, points", "pairs for 0.5 points"], gaps)
    return "\n\n".join(both)


COLUMNS = {"weak": 1, "eigenvalue": 3, "valid_error": 1, "test_error": 2}


def _spread(values: Sequence[str], digits: int) -> str:
    if "" in values:
        return "–"
    numbers = [float(value) for value in values]
    return f"{statistics.mean(numbers):.{digits}f} ± {statistics.stdev(numbers):.{digits}f}"


def _seeds(rows: Sequence[Row]) -> str:
    heads = ["space", "method", "seed", "skips / noise", "eigenvalue", "supernet error %", "test error %", ""]
    names = "seed", "weak", "eigenvalue", "valid_error", "test_error", "note"
    return table(
        heads, [[row["space"].upper(), TITLES[row["method"]], *(row[name] or "–" for name in names)] for row in rows]
    )
