"""Does DARTS collapse in S2, S3 and S4, and do DARTS-ES, DARTS-ADA, DARTS-PT and Λ-DARTS recover?

    python examples/robustness.py --runs runs/robustness --seeds 0 1 2

Fashion-MNIST at a size that a core can do: 12x12 pixels, 4 channels, 5 cells of 2 nodes (published: 16, 8 and 4), 384
images for the weights and 384 for the alphas. Other settings are the published ones but for what a shorter search
forces: 20 epochs of 50; the eigenvalue every 2 epochs as published, in averages of 3 measurements, compared over a lag
of 2, from epoch 4 on (published: 5, 4 and 10, of 50 epochs); one epoch of tuning between two decisions of DARTS-PT (5).
First order.

With these settings the alphas make 120 steps of 3e-4, where published searches make 19,550; in the second block they
make 120 steps of 0.05 and may move as far as there. That is not published.

A run that has its result.json is not run again, and one that was killed goes on, so the command can be repeated until
it is done, and commands for different seeds may run side by side. After each run the tables of all that is finished are
written to table.md in the folder of the runs, and the rows to table.csv; --seeds without a number does no more than
that. docs/results.md shows the rows of benchmarks/results/robustness.csv. DARTS-ES returns to an
epoch of the search by DARTS, and where its criterion never detects, so that nothing differs from DARTS, neither it nor
DARTS-ADA is a run of its own; a cell that several methods find is trained once per seed. Λ-DARTS runs as published and
with --keep-kinks, without which the finite difference of its regulariser is mostly error.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import itertools
import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search_vs_random import once

from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.projecting import projected
from fastdarts.engine.search import search
from fastdarts.policies.stopping import early_stopping
from fastdarts.runs.writer import atomic_write, read_metrics
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig

SEARCH = {
    "dataset": "fashion-mnist", "image_size": 12, "samples": 768, "channels": 4, "layers": 5, "nodes": 2, "epochs": 20,
    "gap_every": 0, "threads": 1,
}  # fmt: skip
CRITERION = {"window": 3, "lag": 2, "start": 4}
EIGENVALUE_EVERY = 2
EVALUATE = {
    "dataset": "fashion-mnist", "image_size": 12, "samples": 5000, "channels": 8, "layers": 5, "epochs": 3,
    "auxiliary": False, "cutout": 0.0, "drop_path_prob": 0.0, "learning_rate": 0.1, "threads": 1,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {"published": {}, "faster alphas": {"arch_learning_rate": 0.05}}
SPACES = {"s2": "skip_connect", "s3": "skip_connect", "s4": "noise"}  # and what takes over a cell that collapses
METHODS = {
    "darts": "DARTS", "darts-es": "DARTS-ES", "darts-ada": "DARTS-ADA", "darts-pt": "DARTS-PT",
    "lambda-darts": "Λ-DARTS", "lambda-darts-kept-kinks": "Λ-DARTS, kinks kept",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What a method found with a seed: ``weak`` of the 4 operations of the normal cell are skip connections (in S4
    noise), the largest ``eigenvalue`` at the end (None where it is not measured), errors in percent."""

    setting: str
    space: str
    method: str
    seed: int
    genotype: dict[str, Any]
    weak: int
    eigenvalue: float | None
    valid_error: float
    note: str = ""
    test_error: float | None = None


class Unfinished(Exception):
    """A run has no result yet."""


def read(work, config_type, run: Path, **settings) -> dict[str, Any]:
    """In place of :func:`once`: the result in the folder ``run``, which is not worked on."""
    if not (run / "result.json").exists():
        raise Unfinished
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def rows_of(once: Callable[..., dict], runs: Path, setting: str, space: str, seed: int) -> Iterator[Row]:
    """The row of each method once its search and the training of its cell are done."""
    for row in searched(once, runs, setting, space, seed):
        text = json.dumps(row.genotype, sort_keys=True)
        cell = runs / "cells" / f"{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}-{seed}"
        tested = once(evaluate, EvaluateConfig, cell, **EVALUATE, genotype=text, seed=seed)
        yield replace(row, test_error=tested["test_error"])


def searched(once: Callable[..., dict], runs: Path, setting: str, space: str, seed: int) -> Iterator[Row]:
    """The row of each method once its search is done."""
    folder = runs / setting.replace(" ", "-") / f"{space}-{seed}"
    settings = {**SEARCH, **SETTINGS[setting], "space": space, "seed": seed}

    def row(method: str, epoch: dict[str, Any], note: str = "") -> Row:
        weak = sum(op == SPACES[space] for op, _ in epoch["genotype"]["normal"])
        found = epoch["genotype"], weak, epoch.get("eigenvalue"), epoch["valid_error"]
        return Row(setting, space, method, seed, *found, note)

    darts = folder / "darts"
    once(search, SearchConfig, darts, **settings, method="darts", eigenvalue_every=EIGENVALUE_EVERY)
    epochs = read_metrics(darts)
    yield row("darts", epochs[-1])
    measured = [(epoch["epoch"], epoch["eigenvalue"]) for epoch in epochs if "eigenvalue" in epoch]
    stop = early_stopping(*zip(*measured, strict=True), **CRITERION, total_epochs=SEARCH["epochs"])
    yield row("darts-es", epochs[stop[1]], f"back to epoch {stop[1]}") if stop else row("darts-es", epochs[-1], "never")

    pt = folder / "darts-pt"
    once(search, lambda **where: replace(projected(darts, decide_every=1), **where), pt)
    yield row("darts-pt", read_metrics(pt)[-1])

    for method, keep in (("lambda-darts", False), ("lambda-darts-kept-kinks", True)):
        own = {"method": "lambda-darts", "keep_kinks": keep, "eigenvalue_every": SEARCH["epochs"]}
        once(search, SearchConfig, folder / method, **settings, **own)
        yield row(method, read_metrics(folder / method)[-1])

    if stop is None:
        yield row("darts-ada", epochs[-1], "never")
        return
    ada = folder / "darts-ada"
    own = {"method": "darts-ada", "eigenvalue_every": EIGENVALUE_EVERY}
    own |= {f"es_{name}": value for name, value in CRITERION.items()}
    result = once(search, SearchConfig, ada, **settings, **own)
    back = ", ".join(str(event["epoch"]) for event in result["rollbacks"])
    yield row("darts-ada", read_metrics(ada)[-1], f"back to epoch {back}")


def finished(runs: Path) -> list[Row]:
    """What there is in the folder ``runs``."""
    rows = []
    for setting, space in itertools.product(SETTINGS, SPACES):
        for folder in sorted((runs / setting.replace(" ", "-")).glob(f"{space}-*")):
            with suppress(Unfinished):
                rows.extend(rows_of(read, runs, setting, space, int(folder.name.split("-")[1])))
    return rows


def tables(rows: list[Row]) -> str:
    """All rows in Markdown: for each setting the means over seeds, then every seed."""
    parts = []
    for setting in SETTINGS:
        mine = [row for row in rows if row.setting == setting]
        if not mine:
            continue
        title = setting + ("" if setting == "published" else " (not published)")
        parts.append(f"**Settings: {title}**\n")
        parts.append(
            "| space | method | seeds | skips (S4: noise) of 4 | eigenvalue | supernet error % | test error % |"
        )
        parts.append("|---|---|---|---|---|---|---|")
        for space in SPACES:
            for method, name in METHODS.items():
                some = [row for row in mine if (row.space, row.method) == (space, method)]
                if some:
                    cells = [_spread([getattr(row, column) for row in some], form) for column, form in COLUMNS.items()]
                    parts.append(f"| {space.upper()} | {name} | {len(some)} | " + " | ".join(cells) + " |")
        parts.append("\n| space | method | seed | skips / noise | eigenvalue | supernet error % | test error % | |")
        parts.append("|---|---|---|---|---|---|---|---|")
        for row in sorted(mine, key=lambda r: (r.space, list(METHODS).index(r.method), r.seed)):
            cells = [_spread([getattr(row, column)], form) for column, form in COLUMNS.items()]
            head = f"| {row.space.upper()} | {METHODS[row.method]} | {row.seed} | "
            parts.append(head + " | ".join(cells) + f" | {row.note} |")
        parts.append("")
    return "\n".join(parts)


def comma_separated(rows: list[Row]) -> str:
    """A line of CSV for each row, rounded as in the tables."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", "space", "method", "seed", *COLUMNS, "note"])
    for row in rows:
        numbers = [_spread([getattr(row, column)], form) for column, form in COLUMNS.items()]
        known = ["" if number == "–" else number for number in numbers]
        writer.writerow([row.setting, row.space, row.method, row.seed, *known, row.note])
    return text.getvalue()


COLUMNS = {"weak": "{:g}", "eigenvalue": "{:.3f}", "valid_error": "{:.1f}", "test_error": "{:.2f}"}


def _spread(values: list[float | None], form: str) -> str:
    if None in values:
        return "–"
    if len(values) == 1:
        return form.format(values[0])
    form = "{:.1f}" if form == "{:g}" else form
    return f"{form.format(statistics.mean(values))} ± {form.format(statistics.stdev(values))}"


def write(runs: Path) -> None:
    """Write what is finished to table.md and table.csv."""
    rows = finished(runs)
    runs.mkdir(parents=True, exist_ok=True)
    atomic_write(runs / "table.md", tables(rows).encode())
    atomic_write(runs / "table.csv", comma_separated(rows).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    args = parser.parse_args()
    for setting, seed, space in itertools.product(SETTINGS, args.seeds, SPACES):
        for _ in rows_of(once, args.runs, setting, space, seed):
            write(args.runs)
    write(args.runs)
    print(tables(finished(args.runs)))


if __name__ == "__main__":
    main()
