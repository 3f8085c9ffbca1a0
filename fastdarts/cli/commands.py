"""The commands of ``fastdarts`` by name: each a dataclass whose fields are its flags, in a file of its own."""

from __future__ import annotations

from fastdarts.cli.bench import Bench
from fastdarts.cli.derive import Derive
from fastdarts.cli.describe import Describe
from fastdarts.cli.evaluate import Evaluate
from fastdarts.cli.export import Export
from fastdarts.cli.info import Info
from fastdarts.cli.listing import Methods, Spaces
from fastdarts.cli.predict import Predict
from fastdarts.cli.report import Report
from fastdarts.cli.search import Project, Search
from fastdarts.cli.study import Study

Command = (
    Search
    | Project
    | Evaluate
    | Predict
    | Export
    | Study
    | Report
    | Describe
    | Derive
    | Methods
    | Spaces
    | Info
    | Bench
)
COMMANDS: dict[str, type[Command]] = {
    "search": Search, "project": Project, "evaluate": Evaluate, "predict": Predict, "export": Export, "study": Study,
    "report": Report, "describe": Describe, "derive": Derive, "methods": Methods, "spaces": Spaces, "info": Info,
    "bench": Bench,
}  # fmt: skip
