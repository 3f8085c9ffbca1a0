"""The command ``fastdarts sweep``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastdarts.runs.kinds import Workers


@dataclass(frozen=True)
class Sweep:
    """Search by several methods, in several spaces, with several seeds and other settings, and compare what they find.
    Stopped, it goes on by the same command."""

    file: Annotated[Path, tyro.conf.Positional]
    """File of settings of a search, with a table [sweep] of those that vary, such as method = ["darts", "gdas"]."""

    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    """Folder of the sweep, with one for each search in it."""
    processes: Workers = 1
    """Searches at a time on this machine, each in a process of its own. 0 leaves all to `fastdarts worker`."""
    storage: str | None = None
    """Storage of Optuna that workers share: a file on a shared disk, postgresql://..., or grpc://HOST:PORT. Left out,
    the searches are those of this machine, or with --processes 0 in trials.journal in the folder."""
    study: str | None = None
    """Title of the sweep in that storage (the name of the folder)."""

    def run(self) -> None:
        """Sweep, and print what ``fastdarts compare`` prints of it."""
        from fastdarts.compare.page import write_page
        from fastdarts.compare.table import compare, text
        from fastdarts.runs.checks import check_setting
        from fastdarts.study.sweep import Sweep as Settings
        from fastdarts.study.sweep import sweep

        check_setting("processes", self.processes, Workers)
        found = sweep(Settings(self.file, self.run_folder, self.processes, self.storage, self.study))
        compared = compare([self.run_folder])
        print(text(compared))
        for point in found["points"]:
            if "failed" in point:
                print(f"{point['name']} failed: {point['failed']}")
        write_page(compared, self.run_folder / "compare.html")
        print(f"page {self.run_folder / 'compare.html'}")
