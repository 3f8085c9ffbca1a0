"""The command ``fastdarts worker``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastdarts.runs.kinds import Count


@dataclass(frozen=True)
class Worker:
    """Take up the trials of a search, a sweep or a study that lies in a storage, one after another, until all have
    ended. Any number of workers may do so, on any number of machines. Stopped or killed, its trial is taken up by
    another one."""

    storage: str
    """Storage of Optuna: a file on a shared disk, postgresql://..., or grpc://HOST:PORT."""
    study: str
    """Title of the search, sweep or study in it."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Folder for the trainings of this worker (that of the first command). On a shared disk, one worker goes on with
    what another one has begun."""
    device: str | None = None
    """Device: cpu, cuda, cuda:1, ... (that of the search)."""
    threads: Count | None = None
    """CPU threads (those of the search)."""
    data: Path | None = None
    """Folder of the dataset on this machine (that of the search)."""

    def run(self) -> None:
        """Work, and print how many trials have their result from here."""
        from fastdarts.engine.workers import Place
        from fastdarts.study.worker import work

        done = work(self.storage, self.study, self.run_folder, Place(self.device, self.threads, self.data))
        print(f"{done} trials have their result from here; study {self.study} has ended")
