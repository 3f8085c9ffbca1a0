"""How far from the best cell is what each method finds? python -m benchmarks.regret SPACE [--runs runs/regret].

SPACE is tiny, whose 81 architectures `fastdarts study tiny` has all trained from scratch, or nasbench201, of which a
random sample of cells is trained here. Every method of the registry that trains a supernet searches on the same images,
and what it finds is looked up, or trained like the sample. Methods that the space cannot have are listed with the
reason.

The settings are in regret.toml, beside this file. Results are in benchmarks/results/regret/SPACE.json, renewed after
every piece. A finished piece is not done again, and a killed search goes on in the folder of the runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.pieces import facts, once
from fastdarts.engine.capture import Graphs
from fastdarts.engine.device import prepare_device
from fastdarts.engine.evaluation import recipe
from fastdarts.engine.isolation import isolated
from fastdarts.engine.projecting import projected
from fastdarts.engine.search import search
from fastdarts.engine.training import Job, train_all
from fastdarts.errors import FastdartsError
from fastdarts.registry import methods
from fastdarts.runs.run import InUse, Run, place_in
from fastdarts.runs.writer import Progress, atomic_write
from fastdarts.spaces import Architecture, find_space, parse_architecture
from fastdarts.study.config import StudyConfig
from fastdarts.study.report import STUDY
from fastdarts.study.tiny import operations, study
from fastdarts.tasks.images.batches import Kept
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.prepare import prepare_data
from fastdarts.tasks.images.transforms import eval_transform, train_transform
from fastdarts.tasks.settings import AlphaConfig, EvaluateConfig, SearchConfig, SupernetConfig, resolve

RESULTS = Path(__file__).resolve().parent / "results" / "regret"
SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SPACES = "tiny", "nasbench201"
CHUNK = 20
"""Cells of the sample that are trained in one run, on batches that are made once."""

Found = dict[str, Any]


class Store:
    """The results of a space: a file that is renewed after every piece."""

    def __init__(self, space: str):
        self.path = RESULTS / f"{space}.json"
        known = self.path.exists()
        empty: Found = {"space": space, "machines": [], "core_seconds": 0.0, "refused": {}, "table": [], "searches": []}
        self.found: Found = json.loads(self.path.read_text(encoding="utf-8")) if known else empty
        if (here := facts()) not in self.found["machines"]:
            self.found["machines"].append(here)
        self._before = time.process_time()

    def has(self, method: str, seed: int) -> bool:
        return any((one["method"], one["seed"]) == (method, seed) for one in self.found["searches"])

    def errors(self, architecture: str) -> list[float]:
        """The test errors of an architecture by seed, none if it is not trained."""
        return next((row["test_errors"] for row in self.found["table"] if row["architecture"] == architecture), [])

    def save(self) -> None:
        """Write the file, with the core seconds since it was last written added."""
        now = time.process_time()
        self.found["core_seconds"], self._before = self.found["core_seconds"] + now - self._before, now
        RESULTS.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path, (json.dumps(self.found, indent=1) + "\n").encode())


def settings_of(space: str, name: str) -> Found:
    """The settings of a search by the method called ``name``, with the learning rate of its alphas scaled."""
    own = dict(SETTINGS["methods"].get(name, {}))
    given = SETTINGS["shared"] | {name: SETTINGS["search"][name] for name in ("epochs", "gap_every")}
    given |= {k: v for k, v in SETTINGS[space].items() if not isinstance(v, dict)} | own
    given |= {"method": own.get("method", name), "space": space}
    released = resolve(SearchConfig(method=given["method"], space=space))
    if isinstance(released, AlphaConfig):
        given["arch_learning_rate"] = round(released.arch_learning_rate * SETTINGS["search"]["factor"], 9)
    known = {field.name for field in fields(released)}
    return {name: value for name, value in given.items() if name in known}


def names() -> list[str]:
    """The methods of the registry that train a supernet and find a cell, and the variants of the settings."""
    inside = [name for name, one in methods().items() if issubclass(one.settings, SupernetConfig)]
    own = [*inside, *(name for name in SETTINGS["methods"] if name not in inside)]
    return [name for name in own if name not in SETTINGS["search"]["only_projected"]]


def searched(space: str, runs: Path, seed: int, store: Store) -> Iterator[tuple[str, Path]]:
    """The method and the folder of each search with ``seed`` that the results do not hold yet, once it is done."""

    def run(name: str) -> Path:
        folder = runs / space / f"{name}-{seed}"
        once(search, SearchConfig, folder, **settings_of(space, name), seed=seed)
        return folder

    def projection(name: str, of: str, decide_every: int) -> Path:
        made, folder = projected(run(of), decide_every), runs / space / f"{name}-{seed}"
        once(search, lambda **where: replace(made, **where), folder)
        return folder

    for name in names():
        if store.has(name, seed):
            continue
        try:
            own = SETTINGS["projections"].get(name)
            refuse_foreign_cells(space, name if own is None else own["of"])
            yield name, projection(name, **own) if own else run(name)
        except InUse:
            raise
        except FastdartsError as error:
            if store.found["refused"].get(name) != str(error):
                store.found["refused"][name] = str(error)
                store.save()


def refuse_foreign_cells(space: str, name: str) -> None:
    """Raise :class:`FastdartsError` if cells of the method called ``name`` may be none of the table of tiny."""
    if (
        space == "tiny"
        and not resolve(SearchConfig(**settings_of(space, name))).build(find_space(space)).selection.keeps_edges
    ):
        raise FastdartsError("its cells may have other edges than the 81 architectures")


def found_in(space: str, folder: Path) -> tuple[str, Architecture]:
    """The name of the architecture that a search has found, and the architecture."""
    architecture = parse_architecture((folder / "genotype.json").read_text(encoding="utf-8"))
    return title(architecture), architecture


def title(architecture: Architecture) -> str:
    """A text that tells architectures of a space apart."""
    if architecture.space.name == "tiny":
        return json.dumps(operations(architecture.genotype))
    return architecture.space.text(architecture.genotype)


def trained(folder: Path, cells: Sequence[Architecture], seed: int) -> list[float]:
    """Test errors in percent of ``cells``, each trained from scratch with this seed; all see the same batches."""
    text = json.dumps([[title(cell) for cell in cells], seed])
    folder = folder / f"cells-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))["test_errors"]
    first = json.dumps(cells[0].to_dict())
    given = SETTINGS["shared"] | {"layers": SETTINGS[cells[0].space.name]["layers"]}
    given |= SETTINGS[cells[0].space.name]["train"]
    settings = EvaluateConfig(**given, genotype=first, seed=seed, **place_in(folder)).resolved(*cells[0])
    data, indices = prepare_data(settings)
    device = prepare_device(settings)
    both = (
        Kept(data.train, indices, settings.batch_size, train_transform(data), seed),
        Kept(data.test, range(len(data.test)), settings.batch_size, eval_transform(data), 0),
    )
    jobs = [Job(cell, seed, {"sample": number}) for number, cell in enumerate(cells)]
    with isolated(), Run(settings, "study", "cells") as run, Progress() as progress:
        run.describe(device, classes=len(data.classes), images=len(indices), image_shape=(data.channels, *data.size))
        graphs = Graphs(settings.graphs, device, progress.line)
        of = jobs, recipe(settings), Objective(data)
        errors = train_all(*of, lambda _: both, "test", run, progress, graphs, judge_last=True)
        run.recorder.write_json("result.json", {"kind": "study", "test_errors": errors})
    return errors


def sampled() -> list[Architecture]:
    """The random cells of NAS-Bench-201, all different."""
    space, own = find_space("nasbench201"), SETTINGS["nasbench201"]["sample"]
    generator = torch.Generator().manual_seed(own["seed"])
    cells: dict[str, Architecture] = {}
    while len(cells) < own["cells"]:
        cell = Architecture(space, space.sample(generator, space.nodes))
        cells.setdefault(title(cell), cell)
    return [*cells.values()]


def fill_sample(store: Store, runs: Path) -> None:
    """Train what is missing of the sample: all cells with seed 0, then the first ones with seed 1."""
    cells = sampled()
    for seed, count in ((0, len(cells)), (1, SETTINGS["nasbench201"]["sample"]["twice"])):
        for start in range(0, count, CHUNK):
            chunk = cells[start : min(start + CHUNK, count)]
            if all(len(store.errors(title(cell))) > seed for cell in chunk):
                continue
            for cell, error in zip(chunk, trained(runs / "nasbench201", chunk, seed), strict=True):
                add(store, title(cell), [*store.errors(title(cell)), error], True)
            store.save()


def add(store: Store, architecture: str, errors: Sequence[float], in_sample: bool) -> None:
    """Put an architecture into the table, in place of what it held of it."""
    row = {"architecture": architecture, "sampled": in_sample, "test_errors": list(errors)}
    table = {one["architecture"]: one for one in store.found["table"]}
    store.found["table"] = [*(table | {architecture: row}).values()]


def take_study(store: Store, folder: Path) -> None:
    """Put the table of the study in ``folder`` into the results, if the study is finished.

    Raises :class:`FastdartsError` if it was made with other settings.
    """
    if "study_searches" in store.found or not (folder / STUDY).exists():
        return
    found, wanted = json.loads((folder / STUDY).read_text(encoding="utf-8")), SETTINGS["tiny"]["study"]
    if strange := [name for name, value in wanted.items() if found["settings"].get(name) != value]:
        raise FastdartsError(
            f"the study in {folder} has other settings than regret.toml ({', '.join(strange)}): name another one"
        )
    for row in found["architectures"]:
        add(store, json.dumps(row["operations"]), row["test_errors"], True)
    store.found["core_seconds_of_study"] = found["training_seconds"] + found["search_seconds"]
    kept = "regrets", "valid_errors"
    store.found["study_searches"] = [{name: one[name] for name in kept} for one in found["searches"]]
    store.save()


def work(space: str, runs: Path, given: Path | None = None) -> None:
    """All that the results of ``space`` do not hold yet. ``given`` is the folder of a study of tiny that somebody else
    makes; without it the study is made in the folder of the runs, after the searches.

    Raises :class:`FastdartsError` in the end if that study is not finished.
    """
    folder = runs / "study-tiny" if given is None else given
    store = Store(space)
    if space == "nasbench201":
        fill_sample(store, runs)
    for seed in SETTINGS["search"]["seeds"]:
        for method, run in searched(space, runs, seed, store):
            name, architecture = found_in(space, run)
            if space == "tiny":
                take_study(store, folder)
            elif not store.errors(name):
                add(store, name, trained(runs / space, [architecture], 0), False)
            store.found["searches"].append({"method": method, "seed": seed, "architecture": name})
            store.save()
    if space == "tiny":
        if given is not None and not (folder / STUDY).exists():
            raise FastdartsError(
                f"the study in {folder} is not finished: call this again when it is, or leave --study out"
            )
        if not (folder / STUDY).exists():
            study(StudyConfig(**SETTINGS["tiny"]["study"], processes=1, run=folder))
        take_study(store, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("space", choices=SPACES, help="space of the table")
    parser.add_argument("--runs", type=Path, default=Path("runs/regret"), help="folder of the runs")
    parser.add_argument("--study", type=Path, help="folder of a study of tiny that is there (made in RUNS/study-tiny)")
    args = parser.parse_args()
    work(args.space, args.runs, args.study)


if __name__ == "__main__":
    main()
