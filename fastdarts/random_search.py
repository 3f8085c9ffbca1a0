"""Search without alphas: random cells, or the results of other searches, each trained from scratch for a while."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import torch

from fastdarts.batches import Batches, Workers
from fastdarts.config import SearchConfig
from fastdarts.data import ImageData, eval_transform, train_transform
from fastdarts.distributed import smallest_batch
from fastdarts.errors import FastdartsError
from fastdarts.recorder import Progress
from fastdarts.runs import Run
from fastdarts.spaces import Architecture, find_space, parse_architecture
from fastdarts.training import Job, Recipe, train_all


def spell_out(config: SearchConfig) -> SearchConfig:
    """``config`` with the genotypes as JSON and their space: the run must not depend on folders that may change.

    Raises :class:`FastdartsError` if one cannot be read or they are of several spaces.
    """
    read = [parse_architecture(text) for text in config.genotypes]
    names = sorted({architecture.space.name for architecture in read})
    if len(names) > 1:
        raise FastdartsError(f"--genotypes are of the spaces {', '.join(names)}: compare those of one space")
    texts = tuple(json.dumps(architecture.to_dict()) for architecture in read)
    return replace(config, genotypes=texts, space=names[0])


@dataclass(frozen=True)
class RandomSearch:
    """Draw cells uniformly, train each on the first part of the images, keep the one that does best on the rest.

    ``given``: compare ``config.genotypes`` instead, as R-DARTS does with those of several searches.
    """

    given: bool = False

    def run(
        self,
        config: SearchConfig,
        data: ImageData,
        halves: tuple[range, range],
        device: torch.device,
        run: Run,
        progress: Progress,
        workers: Workers,
    ) -> dict[str, Any]:
        """Train the cells; returns the best genotype and its validation error."""
        generator = torch.Generator().manual_seed(config.seed)
        space = find_space(config.space)
        if self.given:
            drawn = [parse_architecture(text) for text in config.genotypes]
        else:
            drawn = [Architecture(space, space.sample(generator, config.nodes)) for _ in range(config.candidates)]
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
        augment = train_transform(data, round(config.cutout * min(data.size)))

        options = {"workers": workers, "smallest": smallest_batch(config.sync_bn)}

        def batches(job: Job) -> tuple[Batches, Batches]:
            return (
                Batches(data.train, halves[0], config.batch_size, augment, job.seed, **options),
                Batches(data.train, halves[1], config.batch_size, eval_transform(data), 0, **options),
            )

        errors = train_all(jobs, recipe, data, batches, "valid", run, progress, device)
        best = min(range(len(jobs)), key=errors.__getitem__)
        run.write_genotype(drawn[best])
        return {
            "genotype": drawn[best].to_dict(),
            "valid_error": errors[best],
            "candidates": [{"genotype": a.to_dict(), "valid_error": e} for a, e in zip(drawn, errors, strict=True)],
        }
