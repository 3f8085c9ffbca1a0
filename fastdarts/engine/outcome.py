"""What a run leaves when something is found, and at its end: the genotype with its drawings, the result, the report."""

from __future__ import annotations

import time
from typing import Any

from fastdarts.errors import FastdartsError
from fastdarts.notices import notice
from fastdarts.ranks import rank
from fastdarts.report.drawing import draw
from fastdarts.report.write import write_report
from fastdarts.runs.run import Run
from fastdarts.spaces import Architecture


def write_genotype(run: Run, architecture: Architecture) -> None:
    """Write genotype.json and a drawing of each cell."""
    run.recorder.write_json("genotype.json", architecture.to_dict())
    for kind, svg in draw(architecture).items():
        run.recorder.write_text(f"{kind}.svg", svg)


def finish(run: Run, result: dict[str, Any]) -> None:
    """Write result.json and the report."""
    run.finish(result)
    if rank() == 0:
        write_report(run.folder)


_PAUSE, _SHARE = 5.0, 50.0
"""Seconds between two reports of a run at work, and times as long as the last one took."""


class LiveReport:
    """The report of a run at work, written after an epoch.

    It takes little of the time: not before five seconds are over since the last one, and never more than a fiftieth of
    all. A run that a signal ends has one in any case. A report that cannot be written does not end the run.
    """

    def __init__(self, run: Run):
        self._run = run
        self._due = time.monotonic() + _PAUSE
        run.before_leaving = self._write

    def after_epoch(self) -> None:
        """Write it if it is time."""
        begin = time.monotonic()
        if rank() or begin < self._due:
            return
        self._write()
        end = time.monotonic()
        self._due = end + max(_PAUSE, _SHARE * (end - begin))

    def _write(self) -> None:
        try:
            write_report(self._run.folder)
        except FastdartsError as error:
            notice(f"the report of the run at work is not written ({error})", "restore the file, or wait for its end")
