"""Searches for something else than classes: python -m benchmarks.beyond_labels [--runs runs/beyond-labels] [--only 'stereo-*'].

The settings are in beyond_labels.toml, beside this file. The work comes in pieces. A piece that is finished is a file
in benchmarks/results/beyond_labels, and is not run again. One that was killed goes on in the folder of its runs.
Several processes share the work: each takes a piece that no other one is at. ``--list`` shows the pieces.

- ``stereo-darts-SEED``: a search for disparity, and the training of what DARTS and DARTS-ES find.
- ``stereo-random-SEED``, ``stereo-published-SEED``: random cells, and the published cells of AutoDispNet.
- ``images-labels-SEED``, ``images-rotation-SEED``, ``images-random-SEED``: cells found with labels and without.
- ``sampled-NUMBER``: a random cell, trained by labels, by rotation and by jigsaw.
"""  # noqa: E501 - the command is one line

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import fastdarts
from benchmarks.pieces import leave, once, run_pieces
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.policies.stopping import early_stopping
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import find_space
from fastdarts.spaces.dense.published import AUTODISPNET_CELLS
from fastdarts.tasks.dense.crops import Normalise
from fastdarts.tasks.dense.pairs import load_pairs, tested_pairs
from fastdarts.tasks.images.scores import find_score
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig

RESULTS = Path(__file__).resolve().parent / "results" / "beyond_labels"
SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SAMPLED = "sampled"
TASKS = "images", "rotation", "jigsaw"
"""By which sampled cells are trained, the one with labels first."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """A part of the work: what is done, and with which seed, or for which sampled cell."""

    what: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.what}-{self.number}"

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.json"


def pieces() -> list[Piece]:
    """All of them, in the order of work: every seed of all before the next, and the sampled cells between."""
    seeds, cells = SETTINGS["seeds"], SETTINGS["correlation"]["cells"]
    share, found = -(-cells // len(seeds)), []
    for number, seed in enumerate(seeds):
        found += [Piece(what, seed) for what in WORK if what != SAMPLED]
        found += [Piece(SAMPLED, cell) for cell in range(number * share, min(cells, (number + 1) * share))]
    return found


def trained(runs: Path, genotype: Row, seed: int, settings: Row) -> tuple[Path, Row]:
    """The run in which a cell was trained from scratch, and what is kept of its result."""
    text = json.dumps(genotype, sort_keys=True)
    name = hashlib.blake2b((text + settings.get("task", "")).encode(), digest_size=6).hexdigest()
    run = runs / f"{name}-{seed}"
    result = once(evaluate, EvaluateConfig, run, **settings, genotype=text, seed=seed)
    return run, {"genotype": genotype} | {k: result[k] for k in ("test_error", "parameters", "macs", "seconds")}


def seen_in_stereo(runs: Path, genotype: Row, seed: int) -> Row:
    """A cell, and the errors of its network on real and on drawn pairs."""
    settings = {"task": "disparity", **SETTINGS["stereo"]["data"], **SETTINGS["stereo"]["evaluate"]}
    run, found = trained(runs, genotype, seed, settings)
    last = read_metrics(run)[-1]
    real = {name: last[f"test_{name}"] for name in ("epe", "bad3", "d1")}
    return found | {"real": real, "drawn": on_drawn(run)}


def stereo_config() -> Any:
    """The settings of the data of trainings for disparity."""
    return EvaluateConfig(task="disparity", **SETTINGS["stereo"]["data"], pairs=SETTINGS["stereo"]["evaluate"]["pairs"])


def on_drawn(run: Path) -> Row:
    """The errors of a trained network on pairs that are drawn for the test."""
    model, pairs, score = fastdarts.load(run), tested_pairs(stereo_config()), find_score("epe", "disparity")
    normalise = Normalise(model.facts.size, model.facts.mean, model.facts.std)
    with torch.inference_mode():
        counted = [
            score.counted(model(joint[None, :6]), joint[None, 6:])
            for joint in (normalise(pairs[index][0]) for index in range(len(pairs)))
        ]
    return score.result(torch.stack(counted).sum(0), len(pairs))


def of_the_median() -> Row:
    """The errors where the median disparity of the training pairs is said everywhere: the numbers to beat."""
    config, score = stereo_config(), find_score("epe", "disparity")
    data = load_pairs(config)
    known = torch.cat([(truth := data.train[index][0][6])[truth.isfinite()] for index in range(len(data.train))])
    found: Row = {"median": known.median().item()}
    for name, pairs in (("real", data.test), ("drawn", tested_pairs(config))):
        truths = [pairs[index][0][None, 6:] for index in range(len(pairs))]
        counted = [score.counted(torch.full_like(truth, found["median"]), truth) for truth in truths]
        found[name] = score.result(torch.stack(counted).sum(0), len(pairs))
    return found


def stereo_darts(seed: int, runs: Path) -> Row:
    """A search for disparity by DARTS. Its rows say where DARTS-ES ends."""
    own = SETTINGS["stereo"]
    settings = {"method": "darts", **own["data"], **own["search"], "seed": seed}
    result = once(search, SearchConfig, runs / "search", **settings)
    rows = read_metrics(runs / "search")
    measured = [(row["epoch"], row["eigenvalue"]) for row in rows if "eigenvalue" in row]
    stop = early_stopping(*zip(*measured, strict=True), **own["early_stopping"], total_epochs=own["search"]["epochs"])
    cells = {"darts": result["genotype"], "darts-es": rows[stop[1]]["genotype"] if stop else result["genotype"]}
    kept = [{k: row[k] for k in ("epoch", "train_error", "valid_error", "eigenvalue") if k in row} for row in rows]
    found = {name: seen_in_stereo(runs / "cells", cell, seed) for name, cell in cells.items()}
    return {"rows": kept, "stop": stop, "seconds": result["seconds"], "cells": found}


def drawn_cells(space: str, nodes: int, seed: int, count: int) -> list[Row]:
    """Cells drawn uniformly."""
    generator, where = torch.Generator().manual_seed(seed), find_space(space)
    return [where.to_dict(where.sample(generator, nodes)) for _ in range(count)]


def stereo_random(seed: int, runs: Path) -> Row:
    """Cells of AutoDispNet's space at random."""
    cells = drawn_cells("autodispnet", AUTODISPNET_CELLS.nodes, seed, SETTINGS["random_cells"])
    return {"cells": {f"random {n}": seen_in_stereo(runs, cell, seed) for n, cell in enumerate(cells)}}


def stereo_published(seed: int, runs: Path) -> Row:
    """The published cells of AutoDispNet."""
    cell = find_space("autodispnet").to_dict(AUTODISPNET_CELLS)
    return {"cells": {"published": seen_in_stereo(runs, cell, seed)}, "median": of_the_median()}


def images(task: str) -> Callable[[int, Path], Row]:
    """The work of a search on Fashion-MNIST by labels or by rotation, and the training of its cell by labels."""

    def work(seed: int, runs: Path) -> Row:
        own = SETTINGS["images"]
        settings = {"method": "darts", **own["search"], **own[task], "seed": seed}
        result = once(search, SearchConfig, runs / "search", **settings)
        _, cell = trained(runs / "cells", result["genotype"], seed, own["evaluate"])
        return {"valid_error": result["valid_error"], "seconds": result["seconds"], "cells": {task: cell}}

    return work


def images_random(seed: int, runs: Path) -> Row:
    """Cells at random, trained by labels."""
    own = SETTINGS["images"]
    cells = drawn_cells(own["search"]["space"], own["search"]["nodes"], seed, SETTINGS["random_cells"])
    return {"cells": {f"random {n}": trained(runs, cell, seed, own["evaluate"])[1] for n, cell in enumerate(cells)}}


def sampled(number: int, runs: Path) -> Row:
    """A random cell, trained by each task."""
    own = SETTINGS["correlation"]
    cell = drawn_cells("darts", own["nodes"], own["seed"], own["cells"])[number]
    return {"cells": {task: trained(runs, cell, own["seed"], _by(task))[1] for task in TASKS}}


def _by(task: str) -> Row:
    return {"task": task, **SETTINGS["correlation"]["evaluate"], **SETTINGS["correlation"][task]}


WORK: dict[str, Callable[[int, Path], Row]] = {
    "images-labels": images("labels"),
    "images-rotation": images("rotation"),
    "images-random": images_random,
    "stereo-darts": stereo_darts,
    "stereo-random": stereo_random,
    "stereo-published": stereo_published,
    SAMPLED: sampled,
}
"""What the pieces are."""


def finished(folder: Path = RESULTS) -> Iterator[Row]:
    """All pieces that are done, by name."""
    for path in sorted(folder.glob("*.json")):
        yield json.loads(path.read_text(encoding="utf-8"))


def work(piece: Piece, runs: Path) -> None:
    """Do a piece, or go on with it, and write its file."""
    about = {"what": piece.what, "number": piece.number}
    leave(piece, about, lambda: WORK[piece.what](piece.number, runs / piece.name))


if __name__ == "__main__":
    run_pieces("Searches for something else than classes.", Path("runs/beyond-labels"), pieces(), work)
