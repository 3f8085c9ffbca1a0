"""The part of docs/results.md on searches of full length: tables, claims and figures from the finished pieces."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.claims import DIFFERENCE, NONE_YET, ZELA, Claim, beside, chance, compared, counted, needed, said
from benchmarks.full_length import RESULTS, SETTINGS, pieces
from benchmarks.gpu_tables import table
from fastdarts.compare.statistics import expected_best, paired
from fastdarts.report.charts import drawing_of_charts
from fastdarts.report.colours import BLUE, GREEN, GREY, ORANGE
from fastdarts.report.curves import mean_line

TITLES = {
    "darts": "DARTS", "darts-es": "DARTS-ES", "darts-pt": "DARTS-PT", "darts-ada": "DARTS-ADA", "joint": "single level",
    "second-order": "DARTS, second order", "second-order-exact": "DARTS, second order, exact",
    "blank-pt": "blank, then DARTS-PT", "blank": "blank", "lambda-darts": "Λ-DARTS", "random": "random cells",
}  # fmt: skip
WEAK = {"s4": "noise"}
"""The operation without weights that takes over, where it is not the skip connection."""
MANY = 0.5
"""Share of the operations of a normal cell from which they are many."""

WHERE = "full length"
"""Where claims were asked."""

Found = dict[str, Any]
Key = tuple[str, int]


class Outcome(NamedTuple):
    """What a method found in a space with a seed: the test error of its cell, how many operations of its normal cell
    have no weights, of how many, and the seconds of the search; of a random cell those of its training."""

    error: float
    weak: int
    entries: int
    seconds: float


def finished(folder: Path = RESULTS) -> list[Found]:
    """All pieces that are done."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def outcome(space: str, cell: Found, seconds: float) -> Outcome:
    names = [name for name, *_ in cell["genotype"]["normal"]]
    return Outcome(cell["test_error"], names.count(WEAK.get(space, "skip_connect")), len(names), seconds)


def outcomes(found: Sequence[Found]) -> dict[str, dict[Key, Outcome]]:
    """Of each method, the outcomes by space and seed. Random cells count as seeds of their own."""
    by: dict[str, dict[Key, Outcome]] = defaultdict(dict)
    for piece in found:
        space, key = piece["space"], (piece["space"], piece["seed"])
        if piece["variant"] == "random":
            by["random"] |= {
                (space, n): outcome(space, cell, cell["seconds"]) for n, cell in enumerate(piece["derived"])
            }
            continue
        seconds = piece["result"]["seconds"]
        cells = {cell["epoch"]: outcome(space, cell, seconds) for cell in piece["derived"]}
        by[piece["variant"]][key] = cells["result"]
        if "projection" in piece:
            both = seconds + piece["projection"]["seconds"]
            name = "blank-pt" if piece["variant"] == "blank" else "darts-pt"
            by[name][key] = outcome(space, piece["projection"], both)
        if piece["variant"] == "darts":
            stop = piece["stop"]
            by["darts-es"][key] = cells["result"]
            if stop:
                until = seconds * (stop[0] + 1) / len(piece["rows"])
                by["darts-es"][key] = cells[stop[1]]._replace(seconds=until)
            else:
                by["darts-ada"][key] = cells["result"]
    return by


def budget(searched: Sequence[Outcome], drawn: Sequence[Outcome]) -> int | None:
    """How many random cells are trained in the time of a search, None without random cells."""
    if not drawn:
        return None
    seconds = statistics.fmean(one.seconds for one in searched) / statistics.fmean(one.seconds for one in drawn)
    return max(1, round(seconds))


def method_table(found: Sequence[Found]) -> str:
    """Every method in every space: errors, operations without weights, the difference from DARTS by seed, how many
    pairs would show half a point, and the best of as many random cells as are trained in the time of a search."""
    by = outcomes(found)
    rows = []
    for space in SETTINGS["variants"]["darts"]["spaces"]:
        base = {seed: one.error for (where, seed), one in by["darts"].items() if where == space}
        drawn = [one for (where, _), one in by["random"].items() if where == space]
        for method, title in TITLES.items():
            mine = {seed: one for (where, seed), one in by[method].items() if where == space}
            if not mine:
                continue
            ones = [*mine.values()]
            weak = statistics.fmean(one.weak for one in ones)
            difference, cells = None, None
            if method not in ("darts", "random"):
                difference = paired({seed: one.error for seed, one in mine.items()}, base)
            if method != "random":
                cells = budget(ones, drawn)
            line = [
                space,
                title,
                str(len(ones)),
                _spread([one.error for one in ones]),
                f"{weak:.1f} of {ones[0].entries}",
            ]
            rows.append([*line, said(difference), needed(difference), _best(cells, [one.error for one in drawn])])
    heads = ["space", "method", "n", "test error, %", "without weights", "beside DARTS, points"]
    return table([*heads, f"pairs for {DIFFERENCE:g} points", "best of N random cells"], rows)


def _best(cells: int | None, errors: Sequence[float]) -> str:
    """The expected best of so many random cells, or of all there are."""
    if cells is None:
        return "–"
    count = min(cells, len(errors))
    short = f" ({cells} would be equal)" if count < cells else ""
    return f"{expected_best(errors, count):.2f} of {count}{short}"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def claims(found: Sequence[Found]) -> Iterator[Claim]:
    """What the searches of full length say about each claim."""
    by = outcomes(found)
    darts = [piece for piece in found if piece["variant"] == "darts"]
    many = [one.weak >= MANY * one.entries for one in by["darts"].values()]
    ends = "DARTS ends in operations without weights"
    yield counted(ends, ZELA, WHERE, "half of a cell or more", sum(many), len(many))
    risen = sum(piece["stop"] is not None for piece in darts)
    rises = "The largest eigenvalue rises"
    yield counted(rises, ZELA, WHERE, "detected", risen, len(darts))
    warned = [_warned(piece) for piece in darts if piece["stop"]]
    before, without = "It rises before the derived cell gets worse", "no rise detected" if darts else NONE_YET
    yield counted(before, ZELA, WHERE, "it does", sum(warned), len(warned), without)
    yield _over_epochs(darts, "derived", "test_error", "The derived cell gets worse", +1)
    yield _over_epochs(darts, "rows", "valid_error", "The supernet's validation error falls meanwhile", -1)
    errors = {name: {key: one.error for key, one in ones.items()} for name, ones in by.items()}
    yield from beside(WHERE, {name: errors.get(name, {}) for name in TITLES})
    means = defaultdict(list)
    for (space, _), error in errors.get("random", {}).items():
        means[space].append(error)
    mine = {key: error for key, error in errors.get("darts", {}).items() if key[0] in means}
    drawn = {key: statistics.fmean(means[key[0]]) for key in mine}
    yield chance(WHERE, mine, drawn)


def _warned(piece: Found) -> bool:
    """Whether the rise is detected before the cell that is derived next after the best one, and the last is worse."""
    every = SETTINGS["derived"]["every"]
    errors = {cell["epoch"]: cell["test_error"] for cell in piece["derived"] if cell["epoch"] != "result"}
    regular = {epoch: error for epoch, error in errors.items() if (epoch + 1) % every == 0}
    best, last = min(regular, key=regular.__getitem__), max(regular)
    return regular[last] > regular[best] and piece["stop"][0] < best + every


def _over_epochs(darts: Sequence[Found], part: str, value: str, claim: str, sign: int) -> Claim:
    """How a number of the searches by DARTS moves from the first derived cell to the last."""
    first, final = SETTINGS["derived"]["every"] - 1, SETTINGS["search"]["epochs"] - 1
    at = [{row["epoch"]: row[value] for row in piece[part]} for piece in darts]
    early, late = ({n: rows[epoch] for n, rows in enumerate(at)} for epoch in (first, final))
    return compared(claim, ZELA, WHERE, sign, f"epoch {final + 1} − {first + 1}", late, early)


def hours(piece: Found) -> float:
    """Hours of one thread that a piece took: its search, its projection, and its trainings, each cell once."""
    cells = {json.dumps(cell["genotype"]): cell["seconds"] for cell in piece["derived"]}
    seconds = sum(cells.values()) + piece.get("result", {}).get("seconds", 0.0)
    projection = piece.get("projection")
    return (seconds + (projection["seconds"] if projection else 0.0)) / 3600


def caption(found: Sequence[Found]) -> str:
    """What figures and tables of these pieces hold for: command, processors, hours."""
    machines = sorted({f"{piece['machine']['cpu']} ({piece['machine']['isa']})" for piece in found})
    return (
        f"*`python -m benchmarks.full_length`; {len(found)} pieces on {'; '.join(machines)}; "
        f"{sum(map(hours, found)):.1f} hours of one thread, with other jobs beside it.*"
    )


def section(found: Sequence[Found]) -> str:
    """The part of the page."""
    done = {piece["piece"] for piece in found}
    planned = [piece.name for piece in pieces()]
    parts = [f"{len(done)} of {len(planned)} pieces are finished. What is not there yet is not in the tables."]
    if found:
        for space in figures(found):
            mine = [piece for piece in found if (piece["variant"], piece["space"]) == ("darts", space)]
            parts += [f"![Searches by DARTS in space {space}](full-length-{space}.svg)", caption(mine)]
        parts += [
            "<details markdown><summary>All methods and spaces</summary>", method_table(found), caption(found),
            "</details>", "<details markdown><summary>Every seed</summary>", seed_table(found), "</details>",
        ]  # fmt: skip
    return "\n\n".join(parts)


def seed_table(found: Sequence[Found]) -> str:
    """Every outcome."""
    rows = [
        [space, title, str(seed), f"{one.error:.2f}", f"{one.weak} of {one.entries}", f"{one.seconds / 60:.0f}"]
        for method, title in TITLES.items()
        for (space, seed), one in sorted(outcomes(found)[method].items())
    ]
    return table(["space", "method", "seed", "test error, %", "without weights", "minutes of the search"], rows)


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
