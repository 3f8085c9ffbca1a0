"""The loop of a search whose architectures are trained from scratch, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastdarts.endings import is_no_memory
from fastdarts.engine.capture import Graphs
from fastdarts.engine.history import Asked, Entry, Failed, History
from fastdarts.engine.loop import Row
from fastdarts.engine.training import Job, Recipe, Trainer, weights_of
from fastdarts.errors import NotFinite, OutOfMemory
from fastdarts.ranks import rank, smallest_batch, world
from fastdarts.runs.run import Run
from fastdarts.runs.writer import Progress
from fastdarts.spaces import Architecture, Space
from fastdarts.tasks.images.batches import Batches
from fastdarts.tasks.images.task import ImageProblem


def recipe_of(config: Any, variant: str) -> Recipe:
    """How an architecture is trained in a search with these settings."""
    return Recipe(
        variant=variant,
        schedule="cosine",
        gamma=1.0,
        auxiliary=False,
        auxiliary_weight=0.0,
        **{name: getattr(config, name) for name in Recipe.__dataclass_fields__ if hasattr(config, name)},
    )


class Rungs:
    """Successive halving without waiting (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys
    2020): of the trainings that reach a rung, the best of each ``reduction`` go on."""

    def __init__(self, epochs: tuple[int, ...], reduction: int):
        self.reduction, self._errors = reduction, {epoch: [] for epoch in epochs}

    def add(self, row: dict[str, Any]) -> None:
        """Count the row of an epoch."""
        if "valid_error" in row and (errors := self._errors.get(row["epoch"] + 1)) is not None:
            errors.append(row["valid_error"])

    def enough(self, row: dict[str, Any]) -> bool:
        """Count it, and say whether its training ends here."""
        self.add(row)
        errors = sorted(self._errors.get(row["epoch"] + 1, ()))
        return bool(errors) and row["valid_error"] > errors[max(1, len(errors) // self.reduction) - 1]


def trainer_of(
    config: Any,
    space: Space,
    problem: ImageProblem,
    run: Run,
    progress: Progress,
    device: torch.device,
    enough: Callable[[Row], bool],
) -> Trainer:
    """What trains the architectures of a search: on the first part of the images, and its error is that on the rest.

    enough: says of a row that its epoch is the last one of its training.
    """
    data, halves, objective = problem.data, problem.halves, problem.objective
    augment = problem.train_transform(config)
    options = {"workers": problem.workers, "smallest": smallest_batch(config.sync_bn)}
    options |= {"pair": objective.pair, "mix": objective.mix}

    def batches(job: Job) -> tuple[Batches, Batches]:
        return (
            Batches(data.train, halves[0], config.batch_size, augment, job.seed, **options),
            Batches(data.train, halves[1], config.batch_size, problem.eval_transform(), 0, **options),
        )

    graphs = Graphs(config.graphs, device, progress.line)
    recipe = recipe_of(config, space.variants[0])
    return Trainer(recipe, objective, batches, "valid", run, progress, graphs, enough=enough)


def train_children(
    history: History, config: Any, problem: ImageProblem, run: Run, progress: Progress, device: torch.device
) -> None:
    """Ask, train and tell until there are ``config.queries`` entries.

    One whose training fails has no error: it is not finite, it does not fit into memory, or it cannot be computed.
    """
    rungs = Rungs(config.rungs, config.reduction)
    trainer = trainer_of(config, history.space, problem, run, progress, device, rungs.enough)
    failed = {}
    for row in run.rows():
        rungs.add(row)
        failed |= {row["sample"]: row["failed"]} if "failed" in row else {}
    for number in range(config.queries):
        asked = history.ask()
        if number < len(trainer.errors):
            error = trainer.errors[number]
            known = Entry(error, None if number in failed else _cost(history, asked), failed.get(number))
        else:
            known = history.known(asked) if history.learns else None
            job = Job(asked.architecture, config.seed, {"sample": number})
            if known is None:
                known = trained(history.costs, trainer, job, config.queries - number - 1)
            elif known.failed is None:
                trainer.done(known.metric)
            if known.failed is not None:
                _give_up(trainer, job, known.failed)
        history.tell(asked, known)
        if history.learns:
            _keep_best(run, history)


def _cost(history: History, asked: Asked) -> float | None:
    return history.costs(asked.architecture)


def trained(costs: Callable[[Architecture], float | None], trainer: Trainer, job: Job, later: int = 0) -> Entry:
    """How good an architecture is once it is trained; ``later``: trainings that follow."""
    try:
        cost = costs(job.architecture)
        trainer.train(job, later)
    except Failed as why:
        return Entry(None, failed=str(why))
    except NotFinite as error:
        return Entry(None, failed=str(error))
    except (OutOfMemory, MemoryError, RuntimeError) as error:
        if world() > 1:  # the other ranks may be elsewhere
            raise
        what = "it needs more memory than there is" if _is_no_memory(error) else f"its training failed ({error})"
        return Entry(None, failed=what)
    return Entry(trainer.errors[-1], cost)


def _is_no_memory(error: Exception) -> bool:
    return isinstance(error, OutOfMemory) or is_no_memory(error)


def _give_up(trainer: Trainer, job: Job, why: str) -> None:
    """Record that a training failed."""
    rows = [row for row in trainer.run.rows() if row["sample"] == job.mark["sample"]]
    trainer.run.record(job.mark | {"epoch": len(rows), "failed": why, "seconds": 0.0}, trainer.recipe.epochs)
    trainer.progress.line(f"sample {job.mark['sample']} failed: {why}")
    trainer.done(None)


def _keep_best(run: Run, history: History) -> None:
    """Remove the weights of all architectures but the best: a long search would fill the disk with them."""
    if rank() or history.best is None:
        return
    best = weights_of(Job(history.entries[history.best][0].architecture, 0, {"sample": history.best}))
    for file in run.folder.glob("weights_sample_*.pt"):
        if file.name != best:
            file.unlink()
