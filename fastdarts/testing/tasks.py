"""What every task must do, whatever is learned."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastdarts.engine.evaluation import evaluate
from fastdarts.report.reader import read_records
from fastdarts.report.write import write_report
from fastdarts.tasks.settings import EvaluateConfig
from fastdarts.tasks.task import find_task
from fastdarts.testing.methods import TINY, Killed, check_method, counted, places
from fastdarts.testing.outcomes import difference, outcome
from fastdarts.testing.refusals import check_refused
from fastdarts.trained.model import load


def check_task(
    name: str,
    folder: Path,
    space: str = "tiny",
    method: str = "darts",
    kills: int = 4,
    ranks: Sequence[int] = (1,),
    refused: Sequence[tuple[str, Callable[[], Any], str]] = (),
    **settings: Any,
) -> None:
    """Check a search for the task ``name``, and a training from scratch if the task has evaluations.

    It asserts:

    - Everything that :func:`check_method` asserts of a search for this task.
    - An evaluation of the genotype that is found leaves rows with a finite loss and metric, a report that names the
      metric, and a model that :func:`fastdarts.load` reads.
    - The same evaluation gives the same bits again, and so does one that is ended after a checkpoint and resumed.
    - Whatever is in ``refused`` is refused with one sentence.

    Args:
        name: The task, registered.
        folder: An empty one, for the runs.
        space: Where to search.
        method: How to search.
        kills: At how many checkpoints each run is ended and resumed.
        ranks: How many ranks search, see :func:`check_method`.
        refused: What must be refused: in words, a function, and what the sentence must hold.
        settings: What differs from a tiny search, see :data:`TINY`; those of the data count for evaluations, too.

    Raises:
        AssertionError: The task does not do one of these.
        FastdartsError: There is no such task or space, or ``settings`` are refused.

    Example of a test:

        from fastdarts.testing import check_task

        def test_my_task(tmp_path):
            check_task("rotation", tmp_path, dataset="digits")
    """
    for what, work, named in refused:
        check_refused(what, work, named)
    check_method(method, folder / "search", space, kills, ranks, task=name, **settings)
    if find_task(name).evaluation is not None:
        _check_evaluation(name, folder / "evaluation", folder / "search" / "whole", kills, settings)


def _check_evaluation(name: str, folder: Path, found: Path, kills: int, settings: dict[str, Any]) -> None:
    known = {field.name for field in fields(find_task(name).evaluation)}
    values = {key: value for key, value in (TINY | settings).items() if key in known} | {"genotype": str(found)}

    def run(**place: Path) -> dict[str, Any]:
        return outcome(Path(evaluate(EvaluateConfig(**values | {"task": name} | place))["run"]))

    whole = run(run=folder / "whole")
    for row in whole["rows"]:
        for key in ("train_loss", "train_error", "test_loss", "test_error"):
            assert math.isfinite(row[key]), f"{key} of task {name} is {row[key]}"
    metric = read_records(folder / "whole").task.metric
    title = metric.title.removeprefix("valid ")
    page = write_report(folder / "whole").read_text(encoding="utf-8")
    assert f"Test {title}" in page, f"the report of task {name} does not name the test {title}"
    model = load(folder / "whole")
    assert model.facts.task == name, f"the model of task {name} is one of task {model.facts.task}"
    again = run(run=folder / "again")
    assert not (where := difference(again, whole)), f"an evaluation of task {name} gives other bits again: {where}"
    with counted() as saves:
        run(run=folder / "counted")
    for place in places(saves, kills):
        ended = folder / f"ended-{place}"
        with counted(place), contextlib.suppress(Killed):
            run(run=ended)
        resumed = run(**({"resume": ended} if ended.exists() else {"run": ended}))
        assert not (where := difference(resumed, whole)), f"task {name}, ended after checkpoint {place}: {where}"
