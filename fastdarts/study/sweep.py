"""Sweeps: searches by several methods, in several spaces, with several seeds and other settings, each a point of a
study."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from fastdarts.endings import Stop
from fastdarts.engine.pool import Task, run_tasks
from fastdarts.engine.queue import DECIDED, Queue
from fastdarts.engine.search import search
from fastdarts.engine.storage import open_storage, working
from fastdarts.engine.workers import HERE, Place
from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.ranks import refuse
from fastdarts.runs.run import InUse, alone_in, place_in
from fastdarts.runs.settings import expanded, from_dict, plain_values
from fastdarts.runs.writer import Progress, atomic_write, is_leftover
from fastdarts.study.points import PointWorker, Shared, by_workers
from fastdarts.tasks.settings import SearchConfig
from fastdarts.tasks.task import find_task
from fastdarts.tasks.validation import validate

SETTINGS, RESULT, FOUND = "sweep.toml", "point.json", "sweep.json"


@dataclass(frozen=True)
class Sweep:
    """What a sweep does, and where.

    Attributes:
        file: TOML settings of a search, and a table ``sweep`` with a list of values for each setting that varies.
        run: the folder, with one for each search in it.
        processes: searches at a time on this machine.
        storage, study: where workers of all machines find the points; without a storage there are only those here.
    """

    file: Path
    run: Path
    processes: int = 1
    storage: str | None = None
    study: str | None = None


class Point(NamedTuple):
    """One search of a sweep. settings: all of it, as JSON. varied: those that vary."""

    name: str
    settings: dict[str, Any]
    varied: dict[str, Any]


def read_points(path: Path) -> tuple[dict[str, list[Any]], list[Point]]:
    """The values of each setting that varies, and a point for every combination of them, in the order of the file.

    Raises :class:`FastdartsError` with one sentence if the file cannot be read, or if a search of it makes no sense.
    """
    try:
        common = tomllib.loads(expanded(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FastdartsError(f"cannot read the sweep {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FastdartsError(f"{path} is not valid TOML: {error}") from error
    varied = common.pop("sweep", None)
    lists = isinstance(varied, dict) and all(isinstance(values, list) and values for values in varied.values())
    if not varied or not lists:
        raise FastdartsError(f"{path} has no values to sweep: expected a table [sweep] such as seed = [1, 2, 3]")
    points = []
    for values in itertools.product(*varied.values()):
        own = dict(zip(varied, values, strict=True))
        config = from_dict(common | own, SearchConfig, str(path))
        if config.run or config.resume:
            raise FastdartsError(f"{path} sets run or resume: each search has a folder in that of the sweep")
        validate(config)
        name = "-".join(f"{setting}_{re.sub(r'[^A-Za-z0-9.+]+', '_', str(value))}" for setting, value in own.items())
        settings = {key: value for key, value in plain_values(_absolute(config)).items() if value is not None}
        points.append(Point(name, json.loads(json.dumps(settings)), own))
    names = [point.name for point in points]
    if twice := {name for name in names if names.count(name) > 1}:
        raise FastdartsError(f"{path} has {sorted(twice)[0]} twice: leave out values that come again")
    return varied, points


def _absolute(config: SearchConfig) -> SearchConfig:
    """Paths as they are for every worker, wherever it was started."""
    paths = {name: value.absolute() for name, value in vars(config).items() if isinstance(value, Path)}
    return replace(config, **paths)


def search_point(settings: Mapping[str, Any], folder: Path, place: Place = HERE) -> dict[str, Any]:
    """Search with these settings, and leave point.json behind as the last deed; returns what it holds.

    A search that diverges is a result too: ``failed`` says why.
    """
    if (folder / RESULT).exists():
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))
    config = place.of(from_dict(dict(settings), SearchConfig, f"the point in {folder}", stored=True))
    try:
        found = search(replace(config, **place_in(folder)))
    except NotFinite as error:
        outcome = {"failed": str(error)}
    else:
        outcome = {"metric": _metric(config, found), "seconds": found["seconds"]}
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / RESULT, (json.dumps(outcome) + "\n").encode())
    return outcome


def _search_task(settings: Mapping[str, Any], folder: Path) -> None:
    search_point(settings, folder)


def _metric(config: SearchConfig, found: Mapping[str, Any]) -> float:
    """What the search has found, of which less is better."""
    name = find_task(config.task).of(vars(config)).metric.name
    if name in found:
        return found[name]
    return found["best"] if found["direction"] == "minimize" else -found["best"]  # of a table


def sweep(config: Sweep) -> dict[str, Any]:
    """Do all searches of a sweep that are not done yet, and write sweep.json; the same call goes on after any end.

    Returns what sweep.json holds: for each point its name, the settings that vary, and ``metric`` and ``seconds``, or
    ``failed``. Raises :class:`FastdartsError` before any work if a setting is wrong. After SIGTERM or Ctrl-C the
    searches are saved and can go on.
    """
    refuse("a sweep")
    varied, points = read_points(config.file)
    folder = config.run
    held = [path for path in folder.iterdir() if not is_leftover(path)] if folder.is_dir() else [folder]
    if folder.exists() and held and not (folder / SETTINGS).exists():
        raise FastdartsError(f"{folder} is neither empty nor the folder of a sweep: name another one with --run")
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder), Progress() as progress:
        atomic_write(folder / SETTINGS, expanded(config.file).read_bytes())
        if config.storage is None and config.processes:
            outcomes = _embedded(config, points, progress)
        else:
            outcomes = _on_storage(config, varied, points, progress)
        found = [{"name": p.name, "settings": p.varied, **o} for p, o in zip(points, outcomes, strict=True)]
        text = json.dumps({"kind": "sweep", "points": found}, indent=1, allow_nan=False, default=str)
        atomic_write(folder / FOUND, (text + "\n").encode())
    if all("failed" in one for one in found):
        raise FastdartsError(f"all {len(found)} searches have failed, the first one because {found[0]['failed']}")
    return {"kind": "sweep", "points": found, "run": str(folder)}


def _embedded(config: Sweep, points: list[Point], progress: Progress) -> list[dict[str, Any]]:
    """The searches in processes of this machine."""
    tasks = []
    for point in points:
        folder = config.run / point.name
        folder.mkdir(exist_ok=True)
        rows = point.settings["epochs"]
        tasks.append(Task(point.name, folder / RESULT, rows, _search_task, (point.settings, folder)))
    todo = sum(not task.done for task in tasks)
    progress.line(f"sweep {config.run}: {todo} of {len(tasks)} searches to do, {config.processes} at a time")
    run_tasks(tasks, config.processes, progress, "go on by the same command")
    return [json.loads(task.result.read_text(encoding="utf-8")) for task in tasks]


def _on_storage(
    config: Sweep, varied: dict[str, list[Any]], points: list[Point], progress: Progress
) -> list[dict[str, Any]]:
    """The searches by workers here and elsewhere."""
    shared = Shared.of(config.run, config.processes, config.storage, config.study)
    made = [{"name": point.name, "settings": point.settings, "varied": point.varied} for point in points]
    first = from_dict(points[0].settings, SearchConfig, str(config.file), stored=True)
    facts = {"kind": "sweep", "varied": varied}
    return by_workers(shared, facts, made, search_trials, first, progress, "searches")


def search_trials(storage: str, study: str, run: Path | None = None, place: Place = HERE) -> int:
    """Do searches of a sweep until all have ended, see :func:`fastdarts.study.worker.work`."""
    with working(storage):
        return SweepWorker(Queue(open_storage(storage), study), run, place).work()


class SweepWorker(PointWorker):
    """A worker that does the searches of a sweep."""

    def do(self, trial: Any, stop: Stop) -> bool:
        """Do a search."""
        point, varied = trial.user_attrs[DECIDED], self.queue.facts["varied"]
        if not trial.params:
            shown = {name: (varied[name].index(value), varied[name]) for name, value in point["varied"].items()}
            self.queue.show(trial, {name: pair for name, pair in shown.items() if _is_plain(pair[1])})
        try:
            outcome = search_point(point["settings"], self.run / point["name"], self.place)
        except InUse:  # its process is alive after all
            return False
        values = None if "failed" in outcome else [outcome["metric"]]
        said = outcome.get("failed") or f"{outcome['metric']:g}"
        return self.tell(trial, values, outcome, f"{point['name']}: {said}")


def _is_plain(values: list[Any]) -> bool:
    return all(value is None or isinstance(value, bool | int | float | str) for value in values)
