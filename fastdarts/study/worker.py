"""A worker of any study that lies in a storage: of a search, of a sweep, or of the study of a space."""

from __future__ import annotations

from pathlib import Path

from fastdarts.engine.queue import Queue
from fastdarts.engine.storage import open_storage, working
from fastdarts.engine.workers import HERE, Place, judge_trials
from fastdarts.ranks import refuse
from fastdarts.study.sweep import search_trials
from fastdarts.study.tiny import do_pieces


def work(storage: str, study: str, run: Path | None = None, place: Place = HERE) -> int:
    """Take one trial of a search, a sweep or a study after another, until all have ended, see ``fastdarts worker``.

    Args:
        storage: A file, or the URL of a database (``postgresql://...``) or of a server (``grpc://HOST:PORT``).
        study: The name of the search, the sweep or the study in it.
        run: The folder in which trainings lie; that of the first command, if it is left out.
        place: Device, threads and data, where they differ from those of the search.

    Returns:
        How many trials have their result from here.

    Raises:
        FastdartsError: There is no such study, or something here is not as where it was made.
        SystemExit: After SIGTERM, with code 0. The training is saved, and another worker goes on with it.

    Examples:
        >>> from fastdarts.study.worker import work
        >>> work("/shared/evolution.journal", "evolution")
        12
    """
    refuse("a worker")
    with working(storage):
        kind = Queue(open_storage(storage), study).facts["kind"]
    return {"search": judge_trials, "sweep": search_trials, "study": do_pieces}[kind](storage, study, run, place)
