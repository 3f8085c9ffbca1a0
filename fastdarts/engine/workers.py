"""A worker: one of the processes that judge the architectures of a search. What makes the search and records it is in
:mod:`fastdarts.engine.following`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastdarts.endings import Stop, stoppable
from fastdarts.engine.asking import Asking
from fastdarts.engine.children import trained, trainer_of
from fastdarts.engine.device import prepare_device
from fastdarts.engine.history import Asked, Entry, History
from fastdarts.engine.isolation import isolated
from fastdarts.engine.queries import judged
from fastdarts.engine.queue import Lost, Queue
from fastdarts.engine.storage import open_storage, working
from fastdarts.engine.training import Job, weights_of
from fastdarts.errors import FastdartsError
from fastdarts.ranks import refuse
from fastdarts.runs.run import InUse, Run, can_go_on
from fastdarts.runs.settings import from_dict
from fastdarts.runs.writer import Progress
from fastdarts.spaces import find_space
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.task import Data, find_task

TRIALS = "trials"
"""The folder of the trainings, in that of the run."""
_PAUSE = 0.5
"""Seconds between two looks at a storage that has nothing to do."""


@dataclass(frozen=True)
class Place:
    """Where a worker works, as far as that differs from where the search was begun; None for what does not."""

    device: str | None = None
    threads: int | None = None
    data: Path | None = None

    def of(self, settings: SearchConfig) -> SearchConfig:
        """``settings`` here."""
        given = {name: value for name, value in vars(self).items() if value is not None and hasattr(settings, name)}
        return replace(settings, **given)


def work(storage: str, study: str, run: Path | None = None, place: Place = Place()) -> int:
    """Take one trial of a search after another, until all have ended; returns how many have their result from here.

    Args:
        storage, study: where the trials are, see :func:`fastdarts.engine.storage.open_storage`.
        run: the folder in which trainings lie; that of the search, if it is left out.
        place: where this process works.

    Raises:
        FastdartsError: There is no such study, or something here is not as where the search was begun.
        SystemExit: After SIGTERM. The training is saved, and another worker goes on with it.
    """
    refuse("the work of one process on a study")
    with isolated(), working(storage):
        return _Worker(Queue(open_storage(storage), study), run, place).work()


class _Worker:
    """A process that judges the architectures of trials."""

    def __init__(self, queue: Queue, run: Path | None, place: Place):
        facts, self._queue = queue.facts, queue
        stored = from_dict(facts["settings"], SearchConfig, f"study {queue.name}", stored=True)
        self._config = config = resolve(place.of(stored))
        self._space = find_space(config.space)
        method, task = config.build(self._space), find_task(config.task)
        self._problem = method.data(lambda: task.problem(config, self._space))
        method.check(self._problem)
        check_alike(queue, facts_of(method, self._problem))
        self._judge, self._costs = method.judge, method.costs
        self._folder = self._trials(Path(facts["run"]) if run is None else run, run is None)
        self._device = prepare_device(config)
        self._asking = self._begin()

    def _trials(self, run: Path, stored: bool) -> Path:
        if self._judge is None and stored and not run.is_dir():
            raise FastdartsError(f"the folder of the search, {run}, is not on this machine: name one with --run")
        return run / TRIALS

    def _begin(self) -> Asking:
        config, fresh = self._config, self._config.build(self._space)
        history = History(config.objective(self._judge), self._space, fresh.searcher, fresh.decode, self._costs)
        return Asking(self._queue, history, config.nodes)

    def work(self) -> int:
        """Take trials until all have ended."""
        done = 0
        with stoppable() as stop, Progress() as self._progress, self._problem.opened(self._config, self._device):
            if self._judge is not None:
                self._judge.open(self._device)
            while not stop and (trial := self._next(stop)) is not None:
                try:
                    with self._queue.beating(trial):
                        done += self._do(trial, stop)
                except Lost:
                    self._asking = self._begin()
                except (SystemExit, KeyboardInterrupt):
                    if not stop:
                        raise
            if stop:
                stop.leave(f"other workers go on with study {self._queue.name}")
        return done

    def _next(self, stop: Stop) -> Any | None:
        """A trial to work on; None if all have ended, or ``stop`` asks for an end."""
        while (trial := self._queue.take()) is None and not self._queue.done() and not stop:
            time.sleep(_PAUSE)
        return trial

    def _do(self, trial: Any, stop: Stop) -> bool:
        """Judge the architecture of a trial; whether its result is from here."""
        begin = time.monotonic()
        asked = self._asking.of(trial, stop)
        history, rows = self._asking.history, []
        known = history.known(asked) if history.learns or self._judge is not None else None
        if known is not None:
            entry = known
        elif self._judge is not None:
            entry = judged(history, self._judge, asked)
        else:
            try:
                entry, rows = self._trained(trial, asked)
            except InUse:  # its process is alive after all
                return False
        outcome = entry.facts() | {"seconds": time.monotonic() - begin, "rows": rows, "folder": str(self._folder)}
        values = None if entry.metric is None else [entry.metric, *([] if entry.cost is None else [entry.cost])]
        own = self._queue.finish(trial, values, outcome)
        said = entry.failed or f"{history.objective.name} {entry.metric:g}"
        self._progress.line(f"trial {trial.number}: {said}{'' if own else ', which another worker has told'}")
        if own:
            shutil.rmtree(self._folder / str(trial.number), ignore_errors=True)
        return own

    def _trained(self, trial: Any, asked: Asked) -> tuple[Entry, list[dict[str, Any]]]:
        """Train it, or what is left of its training; the weights stay in the folder of the trainings."""
        folder = self._folder / str(trial.number)
        folder.parent.mkdir(parents=True, exist_ok=True)
        begun = can_go_on(folder)
        where = {"run": None if begun else folder, "resume": folder if begun else None}
        job = Job(asked.architecture, self._config.seed, {"sample": self._asking.query(trial)})
        with Run(replace(self._config, loggers=(), **where), "trial", self._problem.label) as run:
            enough = self._enough(trial)
            trainer = trainer_of(self._config, self._space, self._problem, run, self._progress, self._device, enough)
            entry = Entry(trainer.errors[0], self._costs(asked.architecture)) if trainer.errors else None
            entry = entry or trained(self._costs, trainer, job)
            rows = run.rows()
            if (weights := run.folder / weights_of(job)).exists():
                os.replace(weights, self._folder / weights.name)
        return entry, rows

    def _enough(self, trial: Any) -> Callable[[dict[str, Any]], bool]:
        """Whether a training ends after a row: at a rung, unless it is among the best that other workers had there."""
        rungs, share = self._config.rungs, self._config.reduction

        def enough(row: dict[str, Any]) -> bool:
            epoch, error = row["epoch"] + 1, row["valid_error"]
            self._queue.report(trial, epoch, error)
            if epoch not in rungs:
                return False
            known = (other.intermediate_values for other in self._queue.trials())
            errors = sorted(values[epoch] for values in known if epoch in values)
            return error > errors[max(1, len(errors) // share) - 1]

        return enough


def facts_of(method: Any, problem: Data) -> dict[str, Any]:
    """What must be the same on all machines: the data and the table, but not where they lie."""
    digest = {} if method.judge is None else {"digest of the table": method.judge.digest}
    return {name: str(value) for name, value in problem.facts().items()} | digest


def check_alike(queue: Queue, here: Mapping[str, Any]) -> None:
    """Raise :class:`FastdartsError` for the first of these facts that is another one where the study was made."""
    for name, value in queue.facts["alike"].items():
        if here.get(name) != value:
            raise FastdartsError(
                f"the {name} is {here.get(name)} here and {value} where study {queue.name} was made: give all machines "
                "the same data"
            )
