"""Work whose pieces are known beforehand, as trials on a storage: those of a sweep, or of the study of a space."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastdarts.engine.device import named_device
from fastdarts.engine.following import leave, place_of, supervise
from fastdarts.engine.pool import Pool
from fastdarts.engine.queue import DECIDED, Queue, create_study, outcome_of
from fastdarts.engine.storage import JOURNAL, open_storage, working
from fastdarts.engine.workers import Place, Worker
from fastdarts.errors import FastdartsError
from fastdarts.runs.writer import Progress

Work = Callable[[str, str, Path | None, Place], int]
"""What a worker process does, see :func:`fastdarts.study.worker.work`."""


class Shared(NamedTuple):
    """Where workers find the pieces, and how many of them work on this machine. run: the folder of results."""

    storage: str
    study: str
    run: Path
    processes: int

    @classmethod
    def of(cls, run: Path, processes: int, storage: str | None, study: str | None) -> Shared:
        """With a journal in the folder, and a study of its name, for what is left out."""
        return cls(storage or str(run / JOURNAL), study or run.name, run, processes)


def by_workers(
    shared: Shared,
    facts: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    work: Work,
    settings: Any,
    progress: Progress,
    what: str,
) -> list[dict[str, Any]]:
    """Have workers here and elsewhere do all ``points``; returns what they have told of each.

    ``facts`` are what workers know beside their point. ``settings`` have the device and the threads of those here.
    ``what`` are the pieces, in words. Raises :class:`FastdartsError` if the study is there with other facts or points.
    """
    storage, study, run, processes = shared
    wanted, made = (json.loads(json.dumps(value, default=str)) for value in (facts, list(points)))
    with working(storage):
        opened = open_storage(storage, create=True)
        known = wanted | {"run": str(run.resolve()), "trials": len(points)}
        stored = create_study(opened, study, ["minimize"], known, made)
        queue = Queue(opened, study)
        alike = all(stored.get(name) == value for name, value in wanted.items())
        if not alike or [trial.user_attrs[DECIDED] for trial in queue.trials()] != made:
            raise FastdartsError(f"the storage has another study {study}: choose another --study")
        progress.start(what, len(points))
        ended = 0

        def look() -> bool:
            nonlocal ended
            now = sum(trial.state.is_finished() for trial in queue.trials())
            if now > ended:
                progress.advance(now - ended)
            ended = now
            return False

        def start(pool: Pool) -> None:
            for number in range(processes):
                place = place_of(settings, number, processes, named_device(settings.device))
                pool.start(f"worker {number}", run / f"worker_{number}.log", work, storage, study, run, place)

        if not supervise(queue, look, start, progress, run):
            leave(f"{ended} of {len(points)} {what} are done", storage, study)
        return [outcome_of(trial) for trial in queue.trials()]


class PointWorker(Worker):
    """A worker on such pieces.

    run: the folder of results; that of the first command, if it is left out.
    """

    def __init__(self, queue: Queue, run: Path | None, place: Place):
        super().__init__(queue)
        self.run, self.place = Path(queue.facts["run"]) if run is None else run, place
        if run is None and not self.run.is_dir():
            what = queue.facts["kind"]
            raise FastdartsError(f"the folder of the {what}, {self.run}, is not on this machine: name one with --run")
