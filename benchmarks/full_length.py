"""Searches of full length at small width: python -m benchmarks.full_length [--runs runs/full-length] [--only 's2-*'].

The settings are in full_length.toml, beside this file. The work comes in pieces, each a variant, a space and a seed.
A piece that is finished is a file in benchmarks/results/full_length, and is not run again. One that was killed goes
on in the folder of its runs. Several processes share the work: each takes a piece that no other one is at. ``--list``
shows the pieces and what is done.

A piece holds the rows of the search, and the test errors of the cells that it derived on the way, each trained from
scratch. The result of DARTS-ES is read from the trajectory of DARTS, which is the same up to the epoch where it ends.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.pieces import leave, once, run_pieces
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.projecting import projected
from fastdarts.engine.search import search
from fastdarts.policies.stopping import early_stopping
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import find_space
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig

RESULTS = Path(__file__).resolve().parent / "results" / "full_length"
SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
KEPT = ("train_error", "valid_error", "supernet_error_batch_stats", "discretisation_gap", "eigenvalue", "genotype")
"""What is kept of a row, with the mixing weights."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """A variant in a space with a seed."""

    variant: str
    space: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.space}-{self.variant}-{self.seed}"

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.json"

    @property
    def own(self) -> dict[str, Any]:
        """The settings of the variant."""
        return SETTINGS["variants"][self.variant]

    def found(self) -> dict[str, Any] | None:
        """Its results, None before it is finished."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else None


def pieces() -> list[Piece]:
    """All of them, in the order of work."""
    variants = SETTINGS["variants"].items()
    made = [Piece(name, space, seed) for name, own in variants for seed in own["seeds"] for space in own["spaces"]]
    return sorted(made, key=lambda piece: piece.seed)


def stop_of(rows: list[Row]) -> tuple[int, int] | None:
    """Of a trajectory of DARTS, the epoch where DARTS-ES ends and the one to which it returns, both from 0."""
    rule = dict(SETTINGS["early_stopping"])
    every = rule.pop("every")
    measured = [(row["epoch"], row["eigenvalue"]) for row in rows if row["epoch"] % every == 0]
    return early_stopping(*zip(*measured, strict=True), **rule, total_epochs=SETTINGS["search"]["epochs"])


def trained(runs: Path, genotype: Row, seed: int) -> dict[str, Any]:
    """A cell, and what its network comes to when it is trained from scratch."""
    text = json.dumps(genotype, sort_keys=True)
    run = runs / f"{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}-{seed}"
    result = once(evaluate, EvaluateConfig, run, **SETTINGS["evaluate"], genotype=text, seed=seed)
    return {"genotype": genotype, **{name: result[name] for name in ("test_error", "parameters", "macs", "seconds")}}


def shortened(run: Path) -> list[Row]:
    """The rows of a run with what is kept of them, mixing weights to four digits."""
    kept = []
    for row in read_metrics(run):
        weights = {name: value for name, value in row.items() if name.startswith("weights_")}
        rounded = {name: [[round(w, 4) for w in edge] for edge in table] for name, table in weights.items()}
        kept.append({"epoch": row["epoch"], **{name: row[name] for name in KEPT if name in row}, **rounded})
    return kept


def searched(piece: Piece, runs: Path) -> dict[str, Any]:
    """A search, its projection where the variant has one, and the trainings of what they derived."""
    settings = {**SETTINGS["search"], "method": "darts", **piece.own["settings"], "space": piece.space}
    folder = runs / piece.name
    result = once(search, SearchConfig, folder / "search", **settings, seed=piece.seed)
    rows = shortened(folder / "search")
    found: dict[str, Any] = {"result": {k: v for k, v in result.items() if k != "genotype"}, "rows": rows}
    every = SETTINGS["derived"]["every"]
    wanted = {row["epoch"]: row["genotype"] for row in rows if (row["epoch"] + 1) % every == 0}
    if all("eigenvalue" in row for row in rows):
        found["stop"] = stop_of(rows)
        if found["stop"]:
            wanted[found["stop"][1]] = rows[found["stop"][1]]["genotype"]
    if "decide_every" in piece.own:
        made = projected(folder / "search", decide_every=piece.own["decide_every"])
        projection = once(search, lambda **where: replace(made, **where), folder / "projection")
        found["projection"] = {"rows": shortened(folder / "projection"), "seconds": projection["seconds"]}
        found["projection"] |= trained(folder / "cells", found["projection"]["rows"][-1]["genotype"], piece.seed)
    cells = {epoch: trained(folder / "cells", genotype, piece.seed) for epoch, genotype in sorted(wanted.items())}
    cells["result"] = trained(folder / "cells", result["genotype"], piece.seed)
    return found | {"derived": [{"epoch": epoch, **cell} for epoch, cell in cells.items()]}


def drawn(piece: Piece, runs: Path) -> dict[str, Any]:
    """Cells drawn at random, each trained from scratch with a seed of its own."""
    space, generator = find_space(piece.space), torch.Generator().manual_seed(piece.seed)
    cells = [space.to_dict(space.sample(generator, 4)) for _ in range(piece.own["cells"])]
    return {"derived": [trained(runs / piece.name, cell, seed) for seed, cell in enumerate(cells)]}


def work(piece: Piece, runs: Path) -> None:
    """Do a piece, or go on with it, and write its file."""
    about = {"piece": piece.name, "variant": piece.variant, "space": piece.space, "seed": piece.seed}
    leave(piece, about, lambda: (searched if "settings" in piece.own else drawn)(piece, runs))


def is_due(piece: Piece) -> bool:
    """Whether a piece is still to be done. DARTS-ADA waits for DARTS, and is DARTS where its rule never detects."""
    if piece.path.exists():
        return False
    if "after" not in piece.own:
        return True
    before = replace(piece, variant=piece.own["after"]).found()
    return before is not None and before["stop"] is not None


if __name__ == "__main__":
    run_pieces(__doc__.splitlines()[0], Path("runs/full-length"), pieces(), work, is_due)
