"""The command ``fastdarts study``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from fastdarts.study.config import StudyConfig


@dataclass(frozen=True)
class Study:
    """Train every architecture of a small space from scratch, search in it on the same images, and see how good the
    architecture is that the search would derive after each epoch. Stopped, it goes on by the same command."""

    settings: OmitArgPrefixes[StudyConfig]
    space: Annotated[Literal["tiny"], tyro.conf.Positional] = "tiny"
    """Space of the study."""
    config: Path | None = None
    """TOML file of settings; flags come on top."""

    def run(self) -> None:
        """Study and print the best, median and worst architecture, the regret of the searches and the report's path."""
        from fastdarts.study.report import study_text
        from fastdarts.study.tiny import study

        found = study(self.settings)
        print(study_text(found))
        print(f"report {Path(found['run']) / 'report.html'}")
