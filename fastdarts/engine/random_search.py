"""Search without alphas: random cells, or the results of other searches, each trained from scratch for a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fastdarts.engine.capture import Graphs
from fastdarts.engine.outcome import write_genotype
from fastdarts.engine.training import Job, Recipe, train_all
from fastdarts.errors import FastdartsError
from fastdarts.ranks import smallest_batch
from fastdarts.runs.run import Run
from fastdarts.runs.writer import Progress
from fastdarts.spaces import Architecture
from fastdarts.tasks.images.batches import Batches
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig
from fastdarts.tasks.task import Problem


@dataclass(frozen=True)
class RandomSearch:
    """Train each of these architectures on the first part of the images, and keep the one that does best on the
    rest."""

    architectures: list[Architecture]

    def check(self, problem: Problem) -> None:
        """Raise :class:`FastdartsError` for networks that are not trained as images are."""
        if not isinstance(problem, ImageProblem) or not problem.learns_objective:
            raise FastdartsError(
                "networks are trained from scratch by the objective of a task on images, which this one does not use: "
                "choose a method that trains a supernet"
            )

    def run(
        self,
        config: SearchConfig,
        problem: ImageProblem,
        device: torch.device,
        run: Run,
        progress: Progress,
    ) -> dict[str, Any]:
        """Train the cells; returns the best genotype and its validation error."""
        space, drawn = self.architectures[0].space, self.architectures
        jobs = [Job(architecture, config.seed, {"sample": i}) for i, architecture in enumerate(drawn)]
        recipe = Recipe(
            variant=space.variants[0],
            schedule="cosine",
            gamma=1.0,
            auxiliary=False,
            auxiliary_weight=0.0,
            label_smoothing=0.0,
            **{name: getattr(config, name) for name in Recipe.__dataclass_fields__ if hasattr(config, name)},
        )
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
        errors = train_all(jobs, recipe, objective, batches, "valid", run, progress, graphs)
        best = min(range(len(jobs)), key=errors.__getitem__)
        write_genotype(run, drawn[best])
        return {
            "genotype": drawn[best].to_dict(),
            "valid_error": errors[best],
            "candidates": [{"genotype": a.to_dict(), "valid_error": e} for a, e in zip(drawn, errors, strict=True)],
        }
