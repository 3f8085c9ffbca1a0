"""What a run leaves when something is found, and at its end: the genotype with its drawings, the result, the report."""

from __future__ import annotations

from typing import Any

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
