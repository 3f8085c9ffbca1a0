"""The loop of every search and of every training: epochs of steps that may be killed at any moment, and go on with the
same bits."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

from fastdarts.engine.outcome import LiveReport
from fastdarts.errors import FastdartsError
from fastdarts.policies.base import Next
from fastdarts.runs.pace import Pace, remaining
from fastdarts.runs.run import Run
from fastdarts.runs.writer import Progress

T = TypeVar("T")
Row = dict[str, Any]


class Meter(Protocol):
    """A dataclass of what is counted over the steps of an epoch; a new one has counted nothing."""

    @property
    def mean(self) -> float:
        """The mean loss so far."""


class Loop(ABC):
    """Epochs of steps, with all that they leave behind.

    A subclass says what a step and a row are. Here is what all have in common: checkpoints after every epoch and when
    they are due, going on from one, signals, rows, and the display.

    Attributes:
        epoch, epochs: the epoch at work (from 0), and how many there are.
        meter: what is counted over the steps of this epoch.
        later: epochs of other trainings that follow in the same run.
        images: training examples in use, None where there is no flag for fewer.
    """

    meter_type: type[Any]
    saves_last = True
    """Whether there is a checkpoint after the last epoch; else whoever runs the loop makes one."""
    may_stop = False
    """Whether ``on_epoch`` may end it before its last epoch."""
    later = 0
    images: int | None = None
    smaller = "--channels or --layers"
    """Flags that make steps shorter."""

    def __init__(self, run: Run, progress: Progress, epochs: int):
        self.recording, self.display, self.epochs = run, progress, epochs
        self.epoch = 0
        self._pace, self._warned = Pace(), False
        self.stopped = False
        self._begun = time.monotonic()
        self._report = LiveReport(run)
        self._begin_count()

    # --- what a subclass says

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What the next step depends on, but for the place in the epoch and the random state."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""

    @abstractmethod
    def begin(self, resumed: bool) -> None:
        """Prepare the epoch at work; ``resumed`` says that some of its steps are done."""

    @abstractmethod
    def count(self) -> int:
        """Steps of the epoch at work."""

    @abstractmethod
    def batches(self, start: int) -> Iterable[Any]:
        """What is left of its batches after ``start`` steps."""

    @abstractmethod
    def step(self, batch: Any, number: int) -> None:
        """Do step ``number``, and count it in the meter."""

    @abstractmethod
    def measured(self) -> Row:
        """The row of the epoch at work, but for its seconds."""

    @abstractmethod
    def line(self, row: Row) -> str:
        """What is printed of a row."""

    def title(self) -> str:
        """What the display calls the epoch at work."""
        return f"epoch {self.epoch + 1}/{self.epochs}"

    def after(self, row: Row) -> Next:
        """Prepare what comes after the epoch at work, and say what that is."""
        return Next(self.epoch + 1)

    @property
    def asked(self) -> int:
        """What ``--epochs`` says."""
        return self.epochs

    # --- what all have in common

    def take_up(self, steps: int) -> None:
        """Go on from the last checkpoint, which may have done so many steps of an epoch; at the beginning, make one."""
        with self.recording.loading(self._place(0, 0), self.epochs, steps) as state:
            if state is not None:
                self._go_on_from(state)
        if state is None:
            self.save()  # from here on a run without a checkpoint has lost it

    def _go_on_from(self, state: dict[str, Any]) -> None:
        self.load(state)
        self.epoch, self._start = state["epoch"], state["step"]
        self.meter, self._elapsed = self.meter_type(**state["meter"]), state["elapsed"]

    def train(self) -> Row:
        """All epochs that are left; returns the last row."""
        row: Row = {}
        while self.epoch < self.epochs:
            self._begun = time.monotonic() - self._elapsed
            self.begin(self._start > 0)
            self.display.start(self.title(), self.count() - self._start)
            self._pace.begin(self.count() - self._start, self.count(), self.epochs - self.epoch - 1 + self.later)
            for number, batch in enumerate(self.batches(self._start), self._start):
                self.step(batch, number)
                self._pace.step()
                self.display.advance(left=self._pace.left, train_loss=self.meter.mean)
                self._warn_of_days()
                if self.recording.due():
                    self.save(number + 1)
            row = self.measured() | {"seconds": time.monotonic() - self._begun}
            self.stopped = self.recording.record(row, self.epochs)
            if self.stopped and not self.may_stop:
                raise FastdartsError(
                    "on_epoch raised StopSearch in a training of a derived network, whose number of epochs is fixed: "
                    "set epochs instead"
                )
            self._pace.end()
            left = self._pace.after_epoch()
            self.display.line("  ".join([self.line(row), *([remaining(left)] if left else [])]))
            self._warn_of_days()
            then = self.after(row)
            self.epoch = then.epoch
            self._begin_count()
            if self.saves_last or self.epoch < self.epochs:
                self.save(rows=then.rows)
            if self.epoch < self.epochs:
                self._report.after_epoch()
        return row

    def _warn_of_days(self) -> None:
        """Say once that the run will take days, and what takes hours."""
        if not self._warned and (text := self._pace.warning(self.asked, self.images, self.smaller)):
            self._warned = True
            self.display.line(text)

    def interruptible(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches of a measurement, see :meth:`fastdarts.runs.run.Run.interruptible`: a signal saves the end of the
        epoch."""
        return self.recording.interruptible(batches, lambda: self.save(self.count()))

    def save(self, step: int = 0, rows: int | None = None) -> None:
        """Make a checkpoint of the epoch at work after so many steps, see :meth:`fastdarts.runs.run.Run.save`."""
        self.recording.save(self._place(self.epoch, step), rows)

    def _place(self, epoch: int, step: int) -> dict[str, Any]:
        elapsed = time.monotonic() - self._begun if step else 0.0
        return self.state() | {"epoch": epoch, "step": step, "meter": asdict(self.meter), "elapsed": elapsed}

    def _begin_count(self) -> None:
        self._start, self.meter, self._elapsed = 0, self.meter_type(), 0.0
