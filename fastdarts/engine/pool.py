"""Work side by side on this machine, in processes that end when this one does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

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
        return self.result.parent.with_name(f"{self.result.parent.name}.log")

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
    waiting, before, shown = list(tasks), sum(task.recorded() for task in tasks), 0
    progress.start("trainings and searches", sum(task.rows for task in tasks) - before)
    with Pool() as pool:
        while waiting or pool.running:
            while waiting and len(pool.running) < processes:
                task = waiting.pop(0)
                pool.start(task.title, task.log, task.work, *task.arguments)
                progress.line(task.title)
            ended = pool.ended()
            if stop:
                stop.leave(how)
            for one in ended:
                if one.code or not next(task for task in tasks if task.title == one.title).done:
                    why = one.why or f"exit code {one.code}, see {one.log}; the same command goes on with it"
                    raise FastdartsError(f"{one.title}: {why}")
            recorded = sum(task.recorded() for task in tasks) - before
            if recorded > shown:
                progress.advance(recorded - shown)
                shown = recorded


class Ended(NamedTuple):
    """A process that has ended. code: negative for the number of a signal. why: "" where it has said nothing."""

    title: str
    log: Path
    code: int
    why: str


class Pool:
    """Processes that end with this one. At the end of the ``with`` block those that still work are stopped by SIGTERM,
    and each saves then what it saves."""

    def __init__(self) -> None:
        self._spawn = multiprocessing.get_context("spawn")
        self.running: dict[Any, tuple[str, Path, Any]] = {}

    def start(self, title: str, log: Path, work: Callable[..., None], *arguments: Any) -> None:
        """Begin ``work(*arguments)``, a function of a module, in a process that prints into ``log``."""
        mine, theirs = self._spawn.Pipe(duplex=False)
        process = self._spawn.Process(target=_work, args=(log, work, arguments, theirs), name=title)
        with signals_held():
            process.start()
        theirs.close()
        self.running[process] = title, log, mine

    def ended(self, timeout: float = 0.5) -> list[Ended]:
        """Wait until a process ends, at most so many seconds; returns those that have."""
        wait([process.sentinel for process in self.running], timeout=timeout)
        return [self._taken_out(process) for process in [*self.running] if process.exitcode is not None]

    def _taken_out(self, process: Any) -> Ended:
        title, log, reason = self.running.pop(process)
        try:
            why = reason.recv()
        except EOFError:
            why = ""
        return Ended(title, log, process.exitcode, why)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.join()


def _work(log: Path, work: Callable[..., None], arguments: tuple[Any, ...], reason: Any) -> None:
    leave_to_parent(signal.SIGINT)  # the first process ends the others by SIGTERM
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    follow_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        work(*arguments)
    except FastdartsError as error:
        reason.send(str(error))
        sys.exit(2)
