"""The part of docs/results.md on searches of full length: tables, verdicts and figures from the finished pieces.

``python -m benchmarks.page --write`` fills it in. Verdicts follow from rules that are written beside them.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.full_length import RESULTS, SETTINGS, pieces
from benchmarks.gpu_tables import table
from fastdarts.compare.statistics import Difference, paired
from fastdarts.report.charts import drawing_of_charts
from fastdarts.report.colours import BLUE, GREEN, GREY, ORANGE
from fastdarts.report.curves import mean_line

FIGURES = Path(__file__).resolve().parent.parent / "docs"
TITLES = {
    "darts": "DARTS", "darts-es": "DARTS-ES", "darts-pt": "DARTS-PT", "darts-ada": "DARTS-ADA", "joint": "single level",
    "second-order": "DARTS, second order", "blank-pt": "blank, then DARTS-PT", "blank": "blank",
    "lambda-darts": "Λ-DARTS", "random": "random cells",
}  # fmt: skip
WEAK = {"s4": "noise"}
"""The operation without weights that takes over, where it is not the skip connection."""
MANY = 0.5
"""Share of the operations of a normal cell from which they are many."""

Found = dict[str, Any]
Key = tuple[str, int]


class Outcome(NamedTuple):
    """What a method found in a space with a seed: the test error of its cell, and how many operations of its normal
    cell have no weights, of how many."""

    error: float
    weak: int
    entries: int


def finished(folder: Path = RESULTS) -> list[Found]:
    """All pieces that are done."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def outcome(space: str, cell: Found) -> Outcome:
    names = [name for name, *_ in cell["genotype"]["normal"]]
    return Outcome(cell["test_error"], names.count(WEAK.get(space, "skip_connect")), len(names))


def outcomes(found: Sequence[Found]) -> dict[str, dict[Key, Outcome]]:
    """Of each method, the outcomes by space and seed. Random cells count as seeds of their own."""
    by: dict[str, dict[Key, Outcome]] = defaultdict(dict)
    for piece in found:
        space, key = piece["space"], (piece["space"], piece["seed"])
        if piece["variant"] == "random":
            by["random"] |= {(space, n): outcome(space, cell) for n, cell in enumerate(piece["derived"])}
            continue
        cells = {cell["epoch"]: outcome(space, cell) for cell in piece["derived"]}
        by[piece["variant"]][key] = cells["result"]
        if "projection" in piece:
            by["blank-pt" if piece["variant"] == "blank" else "darts-pt"][key] = outcome(space, piece["projection"])
        if piece["variant"] == "darts":
            stop = piece["stop"]
            by["darts-es"][key] = cells[stop[1]] if stop else cells["result"]
            if stop is None:
                by["darts-ada"][key] = cells["result"]
    return by


def method_table(found: Sequence[Found]) -> str:
    """Every method in every space: errors, operations without weights, and the difference from DARTS by seed."""
    by = outcomes(found)
    rows = []
    for space in SETTINGS["variants"]["darts"]["spaces"]:
        base = {seed: one.error for (where, seed), one in by["darts"].items() if where == space}
        for method, title in TITLES.items():
            mine = {seed: one for (where, seed), one in by[method].items() if where == space}
            if not mine:
                continue
            errors = [one.error for one in mine.values()]
            weak = statistics.fmean(one.weak for one in mine.values())
            difference = None
            if method not in ("darts", "random"):
                difference = paired({seed: one.error for seed, one in mine.items()}, base)
            entries = next(iter(mine.values())).entries
            rows.append([space, title, str(len(errors)), _spread(errors), f"{weak:.1f} of {entries}", said(difference)])
    return table(["space", "method", "n", "test error, %", "without weights", "beside DARTS, points"], rows)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def said(found: Difference | None) -> str:
    """A difference with its interval."""
    if found is None:
        return "–"
    return f"{found.mean:+.2f}" + ("" if found.low is None else f" [{found.low:+.2f}, {found.high:+.2f}]")


def verdict(found: Difference | None, claimed: int) -> str:
    """Whether a claim about the sign of a difference holds: its 95 % interval lies on that side, on the other, or
    holds 0."""
    if found is None or found.low is None:
        return "undecided: too few pieces are finished"
    if found.low <= 0 <= found.high:
        return "undecided: the interval holds 0"
    return "confirmed" if (found.mean > 0) == (claimed > 0) else "refuted"


def claims(found: Sequence[Found]) -> Iterator[list[str]]:
    """Rows of the table of claims: claim, source, what was measured, pairs, verdict."""
    by = outcomes(found)
    darts = [piece for piece in found if piece["variant"] == "darts"]
    many = [one.weak >= MANY * one.entries for one in by["darts"].values()]
    collapsed = sum(many)
    state = "undecided: no piece is finished"
    if many:
        state = "confirmed" if collapsed > len(many) / 2 else "refuted" if not collapsed else "in part"
    yield [
        "DARTS ends in operations without weights", "Zela et al. 2020",
        f"in {collapsed} of {len(many)} normal cells they are at least half", str(len(many)), state,
    ]  # fmt: skip
    risen = sum(piece["stop"] is not None for piece in darts)
    state = "undecided: no piece is finished"
    if darts:
        state = "confirmed" if risen > len(darts) / 2 else "refuted" if not risen else "in part"
    yield [
        "The largest eigenvalue rises", "Zela et al. 2020",
        f"the rule of DARTS-ES detects it in {risen} of {len(darts)} searches", str(len(darts)), state,
    ]  # fmt: skip
    yield _over_epochs(darts, "derived", "test_error", "The derived cell gets worse", +1)
    yield _over_epochs(darts, "rows", "valid_error", "while the supernet's validation error falls", -1)
    for method, source in {
        "darts-es": "Zela et al. 2020", "darts-ada": "Zela et al. 2020", "darts-pt": "Wang et al. 2021",
        "blank-pt": "Wang et al. 2021", "lambda-darts": "Movahedi et al. 2023",
    }.items():  # fmt: skip
        yield _beside(by, method, "darts", f"{TITLES[method]} finds better cells than DARTS", source, -1)
    yield _beside(
        by, "second-order", "darts", "The second order finds better cells than the first", "Liu et al. 2019", -1
    )
    yield _beside(by, "joint", "darts", "A single level finds worse cells than two", "Liu et al. 2019", +1)
    means = defaultdict(list)
    for (space, _), one in by["random"].items():
        means[space].append(one.error)
    drawn = {k: statistics.fmean(means[k[0]]) for k in by["darts"] if k[0] in means}
    mine = {k: one.error for k, one in by["darts"].items()}
    yield _row(
        mine, drawn, "DARTS finds no better cells than chance", "Li and Talwalkar 2019; Yang et al. 2020", +1,
        "test error of DARTS − mean of random cells of its space",
    )  # fmt: skip


def _over_epochs(darts: Sequence[Found], part: str, value: str, claim: str, sign: int) -> list[str]:
    """How a number of the searches by DARTS moves from the first derived cell to the last."""
    first, final = SETTINGS["derived"]["every"] - 1, SETTINGS["search"]["epochs"] - 1
    at = [{row["epoch"]: row[value] for row in piece[part]} for piece in darts]
    early = {n: rows[first] for n, rows in enumerate(at)}
    late = {n: rows[final] for n, rows in enumerate(at)}
    return _compared(late, early, claim, "Zela et al. 2020", sign, f"epoch {final + 1} − epoch {first + 1}")


def _beside(by: dict[str, dict[Key, Outcome]], method: str, base: str, claim: str, source: str, sign: int) -> list[str]:
    mine, other = ({k: one.error for k, one in by[name].items()} for name in (method, base))
    return _row(mine, other, claim, source, sign, f"test error of {TITLES[method]} − {TITLES[base]}")


def _row(mine: dict[Key, float], other: dict[Key, float], claim: str, source: str, sign: int, what: str) -> list[str]:
    keys = sorted(mine.keys() & other.keys())
    numbered = ({n: values[key] for n, key in enumerate(keys)} for values in (mine, other))
    return _compared(*numbered, claim, source, sign, what)


def _compared(
    mine: dict[int, float], other: dict[int, float], claim: str, source: str, sign: int, what: str
) -> list[str]:
    found = paired(mine, other)
    return [claim, source, f"{what}: {said(found)} points", str(found.n if found else 0), verdict(found, sign)]


def section(found: Sequence[Found]) -> str:
    """The part of the page."""
    done = {piece["piece"] for piece in found}
    planned = [piece.name for piece in pieces()]
    parts = [f"{len(done)} of {len(planned)} pieces are finished. What is not there yet is not in the tables."]
    if found:
        machines = sorted({f"{piece['machine']['cpu']} ({piece['machine']['isa']})" for piece in found})
        parts.append(f"Measured on: {'; '.join(machines)}. Each piece names its commit.")
        parts.append(table(["claim", "source", "measured", "pairs", "verdict"], list(claims(found))))
        parts += [f"![Searches by DARTS in space {space}](full-length-{space}.svg)" for space in figures(found)]
        parts += ["<details markdown><summary>All methods and spaces</summary>", method_table(found), "</details>"]
    return "\n\n".join(parts)


def figures(found: Sequence[Found]) -> dict[str, str]:
    """Of every space with searches by DARTS, a drawing: errors, eigenvalue and operations without weights by epoch."""
    drawn = {}
    for space in SETTINGS["variants"]["darts"]["spaces"]:
        mine = [piece for piece in found if (piece["variant"], piece["space"]) == ("darts", space)]
        if not mine:
            continue
        weak = WEAK.get(space, "skip_connect")
        errors = mean_line([_points(piece["rows"], "valid_error") for piece in mine], "supernet, validation", BLUE)
        cells = [[cell for cell in piece["derived"] if cell["epoch"] != "result"] for piece in mine]
        regular = [[c for c in some if (c["epoch"] + 1) % SETTINGS["derived"]["every"] == 0] for some in cells]
        errors += mean_line([_points(some, "test_error") for some in regular], "derived cell, test", ORANGE)
        counts = [
            [(row["epoch"] + 1, sum(name == weak for name, *_ in row["genotype"]["normal"])) for row in piece["rows"]]
            for piece in mine
        ]
        curvature = mean_line([_points(piece["rows"], "eigenvalue") for piece in mine], "largest", GREEN)
        charts = [
            (f"{space}: error, %", " %", errors),
            ("eigenvalue of the alphas' Hessian", "", curvature),
            (f"{weak} in the normal cell", "", mean_line(counts, weak, GREY)),
        ]
        drawn[space] = str(drawing_of_charts(f"Searches by DARTS in space {space}, {len(mine)} seeds", charts)) + "\n"
    return drawn


def _points(rows: Sequence[Found], key: str) -> list[tuple[float, float]]:
    return [(row["epoch"] + 1, row[key]) for row in rows if key in row]
