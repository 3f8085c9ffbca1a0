"""The command ``fastdarts report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Report:
    """Write report.html of the folder of a run or of a study anew."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the run or of the study."""

    plugin: tuple[str, ...] = ()
    """Python files of your own that add methods, spaces or operations (those that the run remembers)."""

    def run(self) -> None:
        """Write the report and print its path."""
        from fastdarts.report.write import write_report
        from fastdarts.study.report import STUDY, write_study

        write = write_study if (self.folder / STUDY).exists() else write_report
        print(f"report {write(self.folder)}")
