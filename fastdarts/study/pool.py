"""Independent pieces of work side by side, each in a process of its own that ends when this one does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fastdarts.endings import Stop, follow_parent, leave_to_parent, signals_held, stoppable
from fastdarts.errors import FastdartsError
from fastdarts.runs.writer import METRICS, Progress


@dataclass(frozen=True)
class Task:
    """A piece of work: ``work(*arguments)``, a function of a module, leaves ``result`` behind as its last deed and
    ``rows`` lines in metrics.jsonl beside it. The folder is there before."""

    title: str
    result: Path
    rows: int
    work: Callable[..., None]
    arguments: tuple[Any, ...]

    @property
    def done(self) -> bool:
        """Whether there is nothing to do."""
        return self.result.exists()

    @property
    def log(self) -> Path:
        """Where it prints."""
        return self.result.parent.with_suffix(".log")

    def recorded(self) -> int:
        """Rows so far."""
        path = self.result.parent / METRICS
        return path.read_bytes().count(b"\n") if path.exists() else 0


def run_tasks(tasks: Sequence[Task], processes: int, progress: Progress, how: str) -> None:
    """Do what is not done yet, ``processes`` at a time, in the order given; what they print goes to a log each.

    With one process at a time they run in this one. SIGTERM and Ctrl-C stop them, each after saving what it saves then,
    and end as :meth:`Stop.leave` says, with ``how`` to go on; any other end stops them likewise. Raises
    :class:`FastdartsError` for the first that fails, with its reason.
    """
    waiting = [task for task in tasks if not task.done]
    with stoppable() as stop:
        if processes == 1 or len(waiting) == 1:
            for task in waiting:
                progress.line(task.title)
                try:
                    task.work(*task.arguments)
                except (SystemExit, KeyboardInterrupt):
                    if not stop:
                        raise
                if stop:
                    stop.leave(how)
        else:
            _side_by_side(waiting, processes, progress, stop, how)


def _side_by_side(tasks: Sequence[Task], processes: int, progress: Progress, stop: Stop, how: str) -> None:
    """The same in processes."""
    spawn, running = multiprocessing.get_context("spawn"), {}
    waiting, before, shown = list(tasks), sum(task.recorded() for task in tasks), 0
    progress.start("trainings and searches", sum(task.rows for task in tasks) - before)
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                task, (mine, theirs) = waiting.pop(0), spawn.Pipe(duplex=False)
                process = spawn.Process(target=_work, args=(task, theirs), name=task.title)
                with signals_held():
                    process.start()
                theirs.close()
                running[process] = task, mine
                progress.line(task.title)
            wait([process.sentinel for process in running], timeout=0.5)
            if stop:
                stop.leave(how)
            for process in [process for process in running if process.exitcode is not None]:
                _check(process.exitcode, *running.pop(process))
            recorded = sum(task.recorded() for task in tasks) - before
            if recorded > shown:
                progress.advance(recorded - shown)
                shown = recorded
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()


def _check(code: int, task: Task, reason: Any) -> None:
    if code == 0 and task.done:
        return
    try:
        why = reason.recv()
    except EOFError:
        why = f"exit code {code}, see {task.log}; the same command goes on with it"
    raise FastdartsError(f"{task.title}: {why}")


def _work(task: Task, reason: Any) -> None:
    leave_to_parent(signal.SIGINT)  # the first process ends the others by SIGTERM
    with open(task.log, "a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    follow_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        task.work(*task.arguments)
    except FastdartsError as error:
        reason.send(str(error))
        sys.exit(2)
