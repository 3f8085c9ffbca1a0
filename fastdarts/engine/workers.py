"""A worker: one of the processes that judge the architectures of a search. What makes the search and records it is in
:mod:`fastdarts.engine.following`."""

from __future__ import annotations

import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from fastdarts.runs.checks import check_fields
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


HERE = Place()


class Worker(ABC):
    """A process that takes one trial of a study after another."""

    def __init__(self, queue: Queue):
        self.queue = queue

    def work(self) -> int:
        """Take trials until all have ended; returns how many have their result from here."""
        done = 0
        with stoppable() as stop, Progress() as self.progress, self.opened():
            while not stop and (trial := self._next(stop)) is not None:
                try:
                    with self.queue.beating(trial):
                        done += self.do(trial, stop)
                except Lost:
                    self.lost()
                except (SystemExit, KeyboardInterrupt):
                    if not stop:
                        raise
            if stop:
                stop.leave(f"other workers go on with study {self.queue.name}")
        return done

    def _next(self, stop: Stop) -> Any | None:
        """A trial to work on; None if all have ended, or ``stop`` asks for an end."""
        while (trial := self.take(stop)) is None and not self.queue.done() and not stop:
            time.sleep(_PAUSE)
        return trial

    def take(self, stop: Stop) -> Any | None:
        """A trial to work on; None if there is none now."""
        return self.queue.take()

    def tell(self, trial: Any, values: Sequence[float] | None, outcome: Mapping[str, Any], said: str) -> bool:
        """Give a trial its result, and say so; whether it had none before."""
        own = self.queue.finish(trial, values, outcome)
        self.progress.line(f"trial {trial.number}: {said}{'' if own else ', but another worker was first'}")
        return own

    def opened(self) -> AbstractContextManager[Any]:
        """Inside, trials can be done."""
        return nullcontext()

    def lost(self) -> None:  # noqa: B027 - may stay as it is
        """Another process was faster, see :class:`Lost`."""

    @abstractmethod
    def do(self, trial: Any, stop: Stop) -> bool:
        """Do a trial and tell its result; whether it had none before."""


def judge_trials(storage: str, study: str, run: Path | None = None, place: Place = HERE) -> int:
    """Judge architectures of a search until all trials have ended, see :func:`fastdarts.study.worker.work`."""
    with isolated(), working(storage):
        return SearchWorker(Queue(open_storage(storage), study), run, place).work()


class SearchWorker(Worker):
    """A worker that judges the architectures of a search.

    run: the folder in which trainings lie; that of the search, if it is left out.
    """

    def __init__(self, queue: Queue, run: Path | None, place: Place):
        super().__init__(queue)
        facts = queue.facts
        stored = from_dict(facts["settings"], SearchConfig, f"study {queue.name}", stored=True)
        self._config = config = resolve(place.of(stored))
        check_fields(config)
        self._space = find_space(config.space)
        method, task = config.build(self._space), find_task(config.task)
        self._problem = method.data(lambda: task.problem(config, self._space))
        method.check(self._problem)
        check_alike(queue, facts_of(method, self._problem))
        self._judge, self._costs = method.judge, method.costs
        self._folder = self._trials(Path(facts["run"]) if run is None else run, run is None)
        self._device = prepare_device(config)
        self.lost()

    def _trials(self, run: Path, stored: bool) -> Path:
        if self._judge is None and stored and not run.is_dir():
            raise FastdartsError(f"the folder of the search, {run}, is not on this machine: name one with --run")
        return run / TRIALS

    def lost(self) -> None:
        """Ask from the beginning: the searcher may have been asked for a trial that does not count."""
        config, fresh = self._config, self._config.build(self._space)
        history = History(config.objective(self._judge), self._space, fresh.searcher, fresh.decode, self._costs)
        self.asking = Asking(self.queue, history, config.nodes)

    def take(self, stop: Stop) -> Any | None:
        """One whose process is gone, or a new one."""
        try:
            return self.queue.take() or self.asking.next(stop)
        except Lost:
            self.lost()
            return None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The data and the judge are at hand."""
        with self._problem.opened(self._config, self._device):
            if self._judge is not None:
                self._judge.open(self._device)
            yield

    def do(self, trial: Any, stop: Stop) -> bool:
        """Judge the architecture of a trial."""
        begin = time.monotonic()
        asked = self.asking.of(trial)
        history, rows = self.asking.history, []
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
        own = self.tell(trial, values, outcome, entry.failed or f"{history.objective.name} {entry.metric:g}")
        if own:
            shutil.rmtree(self._folder / str(trial.number), ignore_errors=True)
        return own

    def _trained(self, trial: Any, asked: Asked) -> tuple[Entry, list[dict[str, Any]]]:
        """Train it, or what is left of its training; the weights stay in the folder of the trainings."""
        folder = self._folder / str(trial.number)
        folder.parent.mkdir(parents=True, exist_ok=True)
        begun = can_go_on(folder)
        where = {"run": None if begun else folder, "resume": folder if begun else None}
        job = Job(asked.architecture, self._config.seed, {"sample": self.asking.query(trial)})
        with Run(replace(self._config, loggers=(), **where), "trial", self._problem.label) as run:
            enough = self._enough(trial)
            trainer = trainer_of(self._config, self._space, self._problem, run, self.progress, self._device, enough)
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
            self.queue.report(trial, epoch, error)
            if epoch not in rungs:
                return False
            known = (other.intermediate_values for other in self.queue.trials())
            errors = sorted(values[epoch] for values in known if epoch in values)
            return error > errors[max(1, len(errors) // share) - 1]

        return enough


def facts_of(method: Any, problem: Data) -> dict[str, Any]:
    """What must be the same on all machines: the data and the table, but not where they lie."""
    digest = {} if method.judge is None else {"digest of the table": method.judge.digest}
    return {name: str(value) for name, value in problem.facts().items()} | digest | method.costs.facts()


def check_alike(queue: Queue, here: Mapping[str, Any]) -> None:
    """Raise :class:`FastdartsError` for the first of these facts that is another one where the study was made."""
    for name, value in queue.facts["alike"].items():
        if here.get(name) != value:
            raise FastdartsError(
                f"the {name} is {here.get(name)} here and {value} where study {queue.name} was made: give all machines "
                "the same data"
            )
