"""A search by several workers, as the command follows it: it makes the study, starts workers, and records results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from fastdarts.endings import say
from fastdarts.engine.asking import asked_in, entry_of
from fastdarts.engine.history import Entry, History
from fastdarts.engine.outcome import LiveReport
from fastdarts.engine.pool import Pool
from fastdarts.engine.queries import row_of
from fastdarts.engine.queue import DECIDED, Queue, create_study, outcome_of
from fastdarts.engine.storage import JOURNAL, open_storage, working
from fastdarts.engine.training import Job, weights_of
from fastdarts.engine.workers import TRIALS, Place, check_alike, facts_of, judge_trials
from fastdarts.errors import FastdartsError
from fastdarts.ranks import refuse
from fastdarts.runs.run import Run, check_same
from fastdarts.runs.settings import from_dict, plain_values
from fastdarts.runs.writer import Progress
from fastdarts.tasks.settings import SearchConfig
from fastdarts.tasks.task import Data
from fastdarts.waiting import cores


def follow(
    method: Any, config: Any, problem: Data, run: Run, progress: Progress, device: torch.device, history: History
) -> None:
    """Make the study of a search, and fill ``history`` with what workers find, in the order in which they asked.

    ``config.processes`` workers run here. With none, what is there is recorded, and if that is not all SystemExit says
    how to start workers.
    """
    refuse("a search by several workers")
    storage, study = config.storage or str(run.folder / JOURNAL), config.study or run.folder.name
    with working(storage):
        queue = _made(storage, study, method, config, problem, run, history)
        recording = _Recording(queue, config, run, progress, history)
        progress.start("queries", config.queries - len(history))

        def start(pool: Pool) -> None:
            for number in range(config.processes):
                place = place_of(config, number, config.processes, device)
                log = run.folder / f"worker_{number}.log"
                pool.start(f"worker {number}", log, judge_trials, storage, study, run.folder, place)

        all_ended = supervise(queue, recording.look, start, progress, run.folder)
        recording.save()
    if not all_ended:
        leave(f"{len(history)} of {config.queries} queries are recorded", storage, study)
    _keep_weights(run, history, progress)


def supervise(
    queue: Queue, look: Callable[[], bool], start: Callable[[Pool], None], progress: Progress, folder: Path
) -> bool:
    """Start workers unless all trials have ended, and wait for that; whether they have. Without a worker here nobody
    waits.

    look: is called again and again, and may ask for an end. start: starts workers, whose logs are in ``folder``.
    """
    with Pool() as pool:
        if not queue.done():
            start(pool)
        here = bool(pool.running)
        while not (stopped := look()) and not queue.done():
            if not here:
                return False
            for one in pool.ended():
                if one.why:
                    raise FastdartsError(f"{one.title}: {one.why}")
                if one.code:
                    progress.line(f"{one.title} has ended with code {one.code}: others take up its trial")
            if not pool.running and not queue.done():
                raise FastdartsError(
                    f"all workers have ended before their work, see {folder}/worker_*.log: the same command goes on"
                )
        if not stopped:
            look()
    return True


def _made(storage: str, study: str, method: Any, config: Any, problem: Data, run: Run, history: History) -> Queue:
    """The study, whose workers make the trials; raises :class:`FastdartsError` if it is there with other settings."""
    opened = open_storage(storage, create=True)
    settings = plain_values(replace(config, run=None, resume=None, processes=None, storage=None, study=None))
    facts = {
        "kind": "search",
        "settings": {name: value for name, value in settings.items() if value is not None},
        "run": str(run.folder.resolve()),
        "alike": facts_of(method, problem),
        "trials": config.queries,
    }
    directions = [history.objective.direction, *(["minimize"] if config.cost else [])]
    stored = create_study(opened, study, directions, facts, [])
    there = from_dict(stored["settings"], SearchConfig, f"study {study}", stored=True)
    try:
        check_same(config.filled(), there.filled())
    except FastdartsError as error:
        raise FastdartsError(f"the storage has another study {study} ({error}): choose another --study") from None
    queue = Queue(opened, study)
    check_alike(queue, facts["alike"])
    return queue


def place_of(config: Any, number: int, count: int, device: torch.device) -> Place:
    """Where the worker of this number, of so many here, works: each has its share of the cores, and of the GPUs."""
    threads = config.threads or max(1, cores() // count)
    if device.type != "cuda" or device.index is not None:
        return Place(str(device), threads)
    return Place(f"cuda:{number % torch.cuda.device_count()}", threads)


def leave(done: str, storage: str, study: str) -> NoReturn:
    """End a command before all trials have ended, and say how to go on."""
    worker = f"fastdarts worker --storage {storage} --study {study}"
    say(f"{done}; start workers by {worker}, and then the same command again")
    raise SystemExit(0)


class _Recording:
    """Rows of metrics.jsonl from trials that have ended, in the order in which they were asked for."""

    def __init__(self, queue: Queue, config: Any, run: Run, progress: Progress, history: History):
        self.history = history
        self._queue, self._config, self._run, self._progress = queue, config, run, progress
        self._fresh = {"epoch": 0, "step": 0, "study": queue.name}
        with run.loading(self._fresh, config.queries) as state:
            recorded = 0 if state is None else state["epoch"]
        if state is not None and state["study"] != queue.name:
            raise FastdartsError(f"--study is {queue.name} but the run to resume is study {state['study']}: name that")
        if state is None:
            run.save(self._fresh)
        self._report = LiveReport(run)
        for trial in self._ended()[:recorded]:
            history.add(asked_in(trial), entry_of(trial))

    def _ended(self) -> list[Any]:
        """The decided trials that have ended, up to the first one that has not."""
        found = []
        for trial in self._queue.trials():
            if not trial.state.is_finished():
                break
            found.append(trial)
        return found

    def look(self) -> bool:
        """Record what is new; whether ``on_epoch`` asks for an end."""
        new = self._ended()[len(self.history) :]
        for trial in new:
            entry = entry_of(trial)
            self.history.add(asked_in(trial), entry)
            for row in self._rows(trial, entry):
                if self._run.record(row, self._config.queries, sync=False):
                    return True
            best = self.history.best_metric()
            self._progress.advance(**({} if best is None else {"best": best}))
        if new or self._run.due():
            self.save()
        self._report.after_epoch()
        return False

    def _rows(self, trial: Any, entry: Entry) -> list[dict[str, Any]]:
        """Those of its training, or one of what was judged without."""
        outcome = outcome_of(trial)
        if self._config.judged_by != "training":
            return [row_of(self.history) | {"seconds": outcome.get("seconds", 0.0)}]
        rows = outcome.get("rows", [])
        if entry.failed is None:
            return rows
        sample = trial.user_attrs[DECIDED]["query"]
        return [*rows, {"sample": sample, "epoch": len(rows), "failed": entry.failed, "seconds": 0.0}]

    def save(self) -> None:
        """Make a checkpoint; the run ends here if a signal asks for it."""
        self._run.due()
        self._run.save(self._fresh | {"epoch": len(self.history)})


def _keep_weights(run: Run, history: History, progress: Progress) -> None:
    """Put the weights of the best architecture into the folder of the run, or those of all if nothing was learned from
    results, and remove the others."""
    trials = run.folder / TRIALS
    for number, (asked, _) in enumerate(history.entries):
        name = weights_of(Job(asked.architecture, 0, {"sample": number}))
        if (file := trials / name).exists() and (number == history.best or not history.learns):
            shutil.move(file, run.folder / name)
    shutil.rmtree(trials, ignore_errors=True)
