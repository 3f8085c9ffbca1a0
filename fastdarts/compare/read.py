"""The runs that are compared: found in folders, read, and each search joined with the evaluations of its genotype."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fastdarts.errors import FastdartsError
from fastdarts.nn.operations import SKIP_CONNECTIONS
from fastdarts.report.reader import RESULT, Records, last, read_records
from fastdarts.runs.stored import is_number, read_table
from fastdarts.runs.writer import METRICS
from fastdarts.tasks.settings import SearchConfig

FREE = {*SearchConfig.free_on_resume, "seed", "seeds", "device", "threads", "genotype"} - {"plugin"}
"""Settings in which runs of one group may differ: where things are, what is computed on, and the seeds."""
PROBLEM = (
    "dataset",
    "data",
    "samples",
    "image_size",
    "test_portion",
    "split_seed",
    "train_portion",
    "space",
    "task",
    "metric",
    "level",
    "vocabulary",
    "evaluator",
    "table",
)
"""Settings that say what is learned: between runs that differ here, errors say nothing."""
CHOICE = ("space",)
"""Among them those that the test does not depend on: searches in two spaces find networks for the same images."""
MANY = 3
"""Methods that are named one by one in a sentence, at most."""
BUDGET = ("epochs", "batch_size", "channels", "layers", "precision", "queries")
"""Settings that say how much is spent: runs that differ here are compared with care."""


@dataclass
class Compared:
    """A search, with the evaluations of its genotype, or evaluations of a genotype whose search is not given.

    seed: that of the search; of evaluations alone that of the first training.
    evaluations: the evaluations that count.
    """

    records: Records
    seed: int
    evaluations: list[Records] = field(default_factory=list)

    @property
    def is_search(self) -> bool:
        """Whether it is a search."""
        return not self.records.is_evaluation

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides its group, beside the method. Of a supernet that is projected it is how it was searched."""
        config = {name: value for name, value in self.records.config.items() if name not in FREE}
        return config | ({"supernet": _searched(Path(config["supernet"]))} if config.get("supernet") else {})

    @property
    def method(self) -> str:
        """The method, or which genotype was evaluated."""
        known = self.records.config.get("method")
        return str(known) if self.is_search and known else f"genotype of {self.records.folder.name}"

    def test_errors(self) -> list[float]:
        """Of all trainings of its genotype."""
        return [error for one in self.evaluations for error in _tested(one)]

    def facts(self) -> dict[str, Any]:
        """Numbers of the run, None for those that it has not.

        test: mean test error or perplexity of its trainings; valid: error of the supernet or of the best candidate;
        skips, parameters, macs; seconds of the search; memory: bytes at the peak.
        """
        tested, run = self.test_errors(), self.records
        size = next(iter(self.evaluations), None)
        size = {} if size is None else size.environment | size.result
        metric = run.task.metric.name
        valid = run.result.get(metric, last(run.rows, metric)) if self.is_search else None
        usage = read_table(run.folder / "usage.json") or {} if self.is_search else {}
        return {
            "test": sum(tested) / len(tested) if tested else None,
            "valid": valid,
            "skips": _skips(run),
            "parameters": size.get("parameters"),
            "macs": size.get("macs"),
            "seconds": run.result.get("seconds") if self.is_search else None,
            "memory": usage.get("peak_memory"),
        }

    @property
    def is_baseline(self) -> bool:
        """Whether it is a random search: what it looked at did not hang on what it had found."""
        found = self.records.result
        return found.get("baseline", "candidates" in found) is True and "genotypes" not in self.records.config


class Collected(NamedTuple):
    """The runs that can be compared, and what a reader should know about them, a sentence each.

    judged: the number by which they are compared: "test" if all or at least two methods have it, else "valid".
    """

    runs: list[Compared]
    judged: str
    notes: list[str]


def _searched(folder: Path) -> str:
    """The method of the search in ``folder``, or the folder where that cannot be read."""
    try:
        return str(read_records(folder).config.get("method", folder))
    except FastdartsError:
        return str(folder)


def _tested(run: Records) -> list[float]:
    found = run.result.get("test_errors") or [run.result.get("test_perplexity")]
    return [value for value in found if is_number(value)]


def _skips(run: Records) -> int | None:
    if not run.genotype or run.space.cell.made_of:  # no cell for images
        return None
    return sum(op in SKIP_CONNECTIONS for edges, _ in run.cells(run.genotype).values() for op, *_ in edges)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The folders of runs among ``paths`` and below them.

    Raises :class:`FastdartsError` for a path that is none and holds none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise FastdartsError(f"{path} is no folder: expected the folder of a run, or one that holds such folders")
        own = [path] if (path / METRICS).exists() else sorted(file.parent for file in path.rglob(METRICS))
        if not own:
            raise FastdartsError(f"{path} holds no run, as no folder in it has {METRICS}: name folders of runs")
        found |= {folder.resolve(): folder for folder in own}
    return list(found.values())


def collect(paths: Sequence[Path]) -> Collected:
    """The finished runs among ``paths`` and below them.

    Raises :class:`FastdartsError` if there is none, or if a file of one is damaged.
    """
    folders = find_runs(paths)
    finished = [folder for folder in folders if (folder / RESULT).exists()]
    notes = []
    if left := [str(folder) for folder in folders if folder not in finished]:
        notes.append(f"Not finished, and so left out: {', '.join(left)}.")
    if not finished:
        raise FastdartsError(f"none of {len(folders)} runs is finished, such as {folders[0]}: go on with them first")
    records = [read_records(folder) for folder in finished]
    searches = [run for run in records if not run.is_evaluation]
    evaluations, note = _alike([run for run in records if run.is_evaluation])
    runs = [Compared(run, int(run.config.get("seed", 0))) for run in searches]
    alone = []
    for evaluation in evaluations:
        of_it = [run for run in runs if _genotype(run.records) == _genotype(evaluation)]
        for run in of_it:
            run.evaluations.append(evaluation)
        if not of_it:
            alone.append(Compared(evaluation, int(evaluation.config.get("seed", 0)), [evaluation]))
    notes += [note] * bool(note)
    notes += filter(None, [_twice(runs)])
    every = [*runs, *alone]
    tested = {run.method for run in every if run.test_errors()}
    judged = "test" if len(tested) > 1 or tested == {run.method for run in every} else "valid"
    fixed = [name for name in PROBLEM if not (judged == "test" and name in CHOICE)]
    cautious = (*BUDGET, *(name for name in PROBLEM if name not in fixed))
    for found in (_unlike(every, fixed, "their errors cannot be compared"),
                  _unlike(runs, cautious, "compare them with care"), _devices(runs)):  # fmt: skip
        notes += [found] * bool(found)
    if runs and not any(run.is_baseline for run in runs):
        notes.append("No random search is among the runs, which would show what a search is worth.")
    return Collected(every, judged, notes)


def _genotype(run: Records) -> str:
    stored = run.result.get("genotype") or {}
    return json.dumps(stored, sort_keys=True)


def _alike(evaluations: list[Records]) -> tuple[list[Records], str]:
    """Those that most have in common all settings with, and a sentence about the others."""
    keys = [json.dumps({k: v for k, v in run.config.items() if k not in FREE}, sort_keys=True) for run in evaluations]
    if len({*keys}) < 2:
        return evaluations, ""
    most = max(keys, key=lambda key: (Counter(keys)[key], json.loads(key).get("epochs", 0)))
    kept = [run for run, key in zip(evaluations, keys, strict=True) if key == most]
    tables = [json.loads(key) for key in {*keys}]
    names = [
        name for name in {name for table in tables for name in table} if len({str(t.get(name)) for t in tables}) > 1
    ]
    shown = ", ".join(f"{name} {json.loads(most).get(name)}" for name in sorted(names))
    left = [str(run.folder) for run in evaluations if run not in kept]
    return kept, f"Evaluations differ: only those with {shown} count, and left out are {', '.join(left)}."


def _twice(runs: list[Compared]) -> str:
    """Runs with the same settings and seed are the same run; the first one counts."""
    seen: dict[str, Compared] = {}
    copies = []
    for run in [*runs]:
        key = json.dumps([run.method, run.seed, run.settings], sort_keys=True, default=str)
        if key in seen:
            copies.append(str(run.records.folder))
            runs.remove(run)
        seen.setdefault(key, run)
    return f"Repeated with the same settings and seed, and so left out: {', '.join(copies)}." if copies else ""


def _unlike(runs: Sequence[Compared], names: Sequence[str], so: str) -> str:
    parts = []
    for name in names:
        if name == "data" and any(run.records.config.get("dataset") not in (None, "folder") for run in runs):
            continue  # the same images wherever they lie
        by_value: dict[str, set[str]] = {}
        for run in runs:
            if name in run.records.config or name not in BUDGET:  # what a method does not have is no budget of it
                by_value.setdefault(str(run.records.config.get(name, "left out")), set()).add(run.method)
        if len(by_value) > 1:
            parts.append(f"{name} is {_by_method(by_value)}")
    return f"The runs differ, so {so}: {', and '.join(parts)}." if parts else ""


def _by_method(found: dict[str, set[str]]) -> str:
    """Each value with its methods, the most common one for "all others" where those are many."""
    most = max(found, key=lambda value: len(found[value]))
    others = len(found[most]) > MANY
    shown = [f"{value} ({', '.join(sorted(of))})" for value, of in found.items() if value != most or not others]
    return "; ".join(shown + [f"{most} (all others)"] * others)


def _devices(runs: Sequence[Compared]) -> str:
    found = sorted({f"{run.records.environment.get('device', '?')}" for run in runs})
    return f"Times and memory come from different devices: {', '.join(found)}." if len(found) > 1 else ""


def groups(runs: Sequence[Compared]) -> dict[str, list[Compared]]:
    """The runs by method, and by what differs between the settings of the runs of a method, in order of appearance.

    Runs of one group have the same settings, but for the seed and what results do not depend on.
    """
    labels = {id(run): run.method for run in runs}
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        names = sorted({name for run in own for name in run.settings})
        differ = [name for name in names if len({str(run.settings.get(name)) for run in own}) > 1]
        for run in own:
            shown = (f"{name} {run.settings.get(name, 'left out')}" for name in differ)
            labels[id(run)] = " ".join([method, *([f"({', '.join(shown)})"] if differ else [])])
    found: dict[str, list[Compared]] = {}
    for run in runs:
        found.setdefault(labels[id(run)], []).append(run)
    return found
