"""The commands that search: ``fastdarts search`` and ``fastdarts project``."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastdarts import ranks
from fastdarts.cli.flags import BySettings
from fastdarts.errors import FastdartsError
from fastdarts.runs.checks import check_setting
from fastdarts.runs.kinds import Batch, Count, NotNegative, NotNegativeInt, Positive, Seed, Seeds, Workers
from fastdarts.tasks.settings import SearchConfig
from fastdarts.tasks.task import find_task


@dataclass(frozen=True)
class Search(BySettings):
    """Search for a cell and leave its genotype, checkpoint and report in the run's folder."""

    seeds: Seeds = 1
    """Searches with seeds seed, seed+1, ..., each in a subfolder of its own. The same command goes on with them."""

    def run(self) -> None:
        """Search and print the genotype, how good its supernet is, and the report's path."""
        settings = self.settings
        check_setting("seeds", self.seeds, Seeds)
        if getattr(settings, "supernet", None) is not None and settings.resume is None:
            raise FastdartsError(
                f"--supernet is {settings.supernet}: a supernet is projected by fastdarts project, with the settings "
                "of its search"
            )
        if self.seeds > 1:
            _search_seeds(settings, self.seeds)
        else:
            _search(settings)


@dataclass(frozen=True)
class Project:
    """Derive the genotype of a finished search by what its supernet loses without each candidate, tuning it in between
    (DARTS-PT; after a search by method blank, blank-PT)."""

    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of the search."""
    decide_every: Batch | None = None
    """Epochs of tuning from one decision to the next (5)."""
    criterion: Literal["accuracy", "loss"] | None = None
    """Measure by which a candidate is judged: that of the supernet without it (accuracy)."""
    bn_statistics: Literal["batch", "running"] | None = None
    """Statistics by which BatchNorm normalises there: those of the batch (the default), or the running ones. The
    running ones lag behind decisions made since the last tuning."""
    learning_rate: Positive | None = None
    """SGD learning rate of the tuning, which stays (a tenth of the search's)."""
    alignment_every: NotNegativeInt | None = None
    """Epochs between two measurements of the layer alignment (the search's)."""
    seed: Seed | None = None
    """Seed of the order of decisions and of the images (the search's)."""
    data: Path | None = None
    """Folder of the dataset (the search's)."""
    workers: Workers | None = None
    """Processes that prepare images (the search's)."""
    device: str | None = None
    """Device: cpu, cuda, cuda:1, ... (the search's)."""
    threads: Count | None = None
    """CPU threads (the search's)."""
    checkpoint_minutes: NotNegative | None = None
    """Minutes between checkpoints within an epoch or a decision (the search's)."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Folder for everything the run leaves; by default a new one under runs/."""
    resume: Path | None = None
    """Folder of a projection to go on with."""

    def run(self) -> None:
        """Project and print what a search prints."""
        from fastdarts.engine.projecting import Projecting, projected, projection_epochs
        from fastdarts.runs.run import stored_config

        if (self.folder is None) == (self.resume is None):
            raise FastdartsError("project needs the folder of a search, or --resume and that of a projection")
        config = projected(self.folder) if self.folder else stored_config(self.resume, "search", SearchConfig)
        if not isinstance(config, Projecting):
            raise FastdartsError(f"{self.resume} is no projection: go on with it by fastdarts search --resume")
        names = (
            "decide_every", "criterion", "bn_statistics", "learning_rate", "alignment_every", "seed", "data", "workers",
            "device", "threads", "checkpoint_minutes",
        )  # fmt: skip
        given = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in given.items() if value is not None}
        if "learning_rate" in given:
            given["learning_rate_min"] = given["learning_rate"]
        config = replace(config, **given, run=self.run_folder, resume=self.resume)
        _search(replace(config, epochs=projection_epochs(config)))


def _search_seeds(settings: SearchConfig, seeds: int) -> None:
    from fastdarts.compare.page import write_page
    from fastdarts.compare.table import compare, text
    from fastdarts.engine.seeds import search_seeds

    command = shlex.join(["fastdarts", *sys.argv[1:]])
    folder = Path(search_seeds(settings, seeds, f"go on with: {command}")["run"])
    if ranks.rank():
        return
    found = compare([folder])
    print(text(found))
    write_page(found, folder / "compare.html")
    print(f"page {folder / 'compare.html'}")


def _search(settings: SearchConfig) -> None:
    from fastdarts.engine.search import search

    result = search(settings)
    if ranks.rank():
        return
    print(f"genotype {json.dumps(result['genotype'])}")
    metric = find_task(settings.task).of(vars(settings)).metric
    if result.get("metric", metric.name) == metric.name:
        said = metric.said(result[metric.name])
    else:  # of a table
        said = f"best {result['metric']} {result['best']:g} of {result['queries']} queries"
    print(f"{said}  ({result['seconds']:.1f} s)")
    print(f"report {Path(result['run']) / 'report.html'}")
