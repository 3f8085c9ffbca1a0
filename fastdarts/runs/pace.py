"""How long a run still takes, by what its steps and epochs took so far."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from statistics import fmean

DAY = 86_400.0
_HOURS = 6 * 3600.0  # what a run that would take days is advised to take
_FEW = 5  # epochs; with fewer, an advice takes images away
_STEPS, _SECONDS = 3, 10.0  # what must have been measured before anybody is warned


class Pace:
    """The times of a run's steps and epochs.

    The first step of an epoch is left out, as it may compile or start processes. Whole epochs count with all that is
    measured at their ends.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._whole: deque[float] = deque(maxlen=3)
        self._steps = self._all = self._later = self._done = 0
        self._begun = self._second = 0.0

    def begin(self, steps: int, of: int, later: int) -> None:
        """Begin an epoch that has so many ``steps`` left ``of`` all of its steps; ``later`` epochs come after it."""
        self._steps, self._all, self._later, self._done = steps, of, later, 0
        self._begun = self._second = self._clock()

    def step(self) -> None:
        """A step is done."""
        self._done += 1
        if self._done == 1:
            self._second = self._clock()

    def end(self) -> None:
        """The epoch is over, with what is measured at its end."""
        if self._steps == self._all:
            self._whole.append(self._clock() - self._begun)

    @property
    def per_epoch(self) -> float | None:
        """Seconds of an epoch; None as long as too few steps are done to say."""
        if self._whole:
            return fmean(self._whole)
        per_step = self._per_step()
        return None if per_step is None else per_step * self._all

    @property
    def left(self) -> float | None:
        """Seconds to the end of the run."""
        whole, per_step = self.per_epoch, self._per_step()
        if whole is None:
            return None
        rest = whole * self._steps / max(self._all, 1) if per_step is None else per_step * (self._steps - self._done)
        return rest + whole * self._later

    def after_epoch(self) -> float | None:
        """Seconds to the end of the run once the epoch at work is over."""
        return None if self.per_epoch is None else self.per_epoch * self._later

    def _per_step(self) -> float | None:
        return (self._clock() - self._second) / (self._done - 1) if self._done > 1 else None

    def warning(self, epochs: int, images: int | None, smaller: str) -> str:
        """What to say of a run that takes more than a day; "" of any other, or if too little was measured to know.

        epochs: those of ``--epochs``; images: those of ``--samples``, None if there are no such; smaller: flags that
        make steps shorter.
        """
        if not self._whole and (self._done < _STEPS or self._clock() - self._begun < _SECONDS):
            return ""
        left = self.left
        if left is None or left <= DAY:
            return ""
        share = _HOURS / left
        if (fewer := int(epochs * share)) >= _FEW or images is None:
            flags = f"--epochs {max(fewer, 1)}"
        else:
            some = min(epochs, _FEW)
            flags = f"--epochs {some} --samples {max(int(images * epochs * share / some), 1)}"
        measured = f"{len(self._whole)} epochs were" if self._whole else f"{self._done} steps were"
        return (
            f"this run will take about {roughly(left)} here ({measured} measured): Ctrl-C stops it, and a new run with "
            f"{flags} would take about {roughly(_HOURS)}; {smaller} make each step shorter"
        )


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def roughly(seconds: float) -> str:
    """A time as people say it: 40 s, 12 minutes, 6 hours, 2.5 days."""
    for most, size, name in ((90, 1, "s"), (5400, 60, "minutes"), (1.5 * DAY, 3600, "hours")):
        if seconds < most:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds / DAY:.1f} days"


def remaining(seconds: float, now: datetime | None = None) -> str:
    """How long that is, and when it is over: ``1:02:03 left, done at 14:05``; another day is named."""
    now = datetime.now() if now is None else now
    end = now + timedelta(seconds=seconds)
    day = "" if end.date() == now.date() else f"{end:%a} {end.day} {end:%b} "
    return f"{duration(seconds)} left, done at {day}{end:%H:%M}"
