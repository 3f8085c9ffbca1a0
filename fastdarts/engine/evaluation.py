"""Evaluation: a genotype trained from scratch and tested, with one seed or several (DARTS, sections 3.2 and 3.3)."""

from __future__ import annotations

import json
import statistics
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from fastdarts.engine.capture import Graphs
from fastdarts.engine.device import check_precision, check_workers, prepare_device
from fastdarts.engine.isolation import isolated
from fastdarts.engine.language_evaluation import evaluate_text
from fastdarts.engine.outcome import finish, write_genotype
from fastdarts.engine.training import Job, Recipe, train_all
from fastdarts.engine.validation import validate
from fastdarts.errors import FastdartsError
from fastdarts.ranks import agree, check_batch, fail_together, joined, refuse, settings_of, smallest_batch
from fastdarts.report.describe import macs
from fastdarts.runs.run import Run
from fastdarts.runs.writer import Progress
from fastdarts.spaces import RECURRENT, find_space, parse_architecture, space_named_in
from fastdarts.tasks.images.batches import Batches, Workers
from fastdarts.tasks.images.data import eval_transform, train_transform
from fastdarts.tasks.images.prepare import prepare_data
from fastdarts.tasks.images.settings import ImageEvaluateConfig
from fastdarts.tasks.settings import EvaluateConfig
from fastdarts.tasks.task import find_task


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    r"""Train the network of ``config.genotype`` from scratch, test it, and leave the run's folder behind.

    Images: with seeds seed, ..., seed + seeds - 1; the test error is that of the last epoch. The network of seed s
    starts from ``torch.manual_seed(s)``; drop path rises linearly, p(e) = drop_path_prob * e / epochs; the loss is
    CE(main) + auxiliary_weight * CE(auxiliary). Text: see :mod:`fastdarts.engine.language_evaluation`.

    Returns what result.json holds: ``parameters`` (without the auxiliary head), and of images ``test_error`` (mean,
    percent), ``test_error_std`` (sample standard deviation, None for one seed), ``test_errors``, ``macs``
    (multiply-accumulates of one image), ...; of text ``valid_perplexity``, ``test_perplexity``, ... Raises
    :class:`fastdarts.errors.FastdartsError` before any work if a setting, the data or the genotype is wrong. Started by
    torchrun, all ranks train as one where the task can, as in :func:`fastdarts.engine.search.search`.
    """
    task = find_task(config.task)
    with joined() if "ranks" in task.has else nullcontext(), isolated():
        agree(settings_of("evaluate", config))
        if "ranks" not in task.has:
            refuse(f"an evaluation on {task.title}")
        with fail_together():
            validate(config)
            _check_space(config)
        return (_evaluate if isinstance(config, ImageEvaluateConfig) else evaluate_text)(config)


def _check_space(config: EvaluateConfig) -> None:
    """Raise :class:`FastdartsError` for a genotype of a space whose networks are not trained as those of images or of
    space rnn."""
    space = space_named_in(config.genotype)
    fits = space is None or (find_space(space).task == "images" if config.task == "images" else space == RECURRENT.name)
    if not fits or config.task not in ("images", RECURRENT.task):
        raise FastdartsError(
            f"the genotype is of space {space}, whose networks cannot be trained from scratch: those of images and of "
            f"{RECURRENT.name} can"
        )


def _evaluate(config: ImageEvaluateConfig) -> dict[str, Any]:
    with fail_together():
        architecture = parse_architecture(config.genotype)
        space, genotype = architecture
        # Spelled out, so that the run does not depend on a file or a name that may change before it is resumed.
        config = replace(config.resolved(space), genotype=json.dumps(architecture.to_dict()))
        data, indices = prepare_data(config)
        if config.auxiliary and min(config.batch_size, len(indices)) == 1:
            raise FastdartsError("batches of one image have no batch statistics: use --batch-size 2 or --no-auxiliary")
        check_batch(config.batch_size, min(len(indices), len(data.test)), config.sync_bn)
        device = prepare_device(config)
        notes = check_precision(config, device), check_workers(config, device)
    agree(data.facts())
    shape = (data.channels, *data.size)
    with torch.device("meta"):
        sizes = config.channels, len(data.classes), config.layers, False
        network = space.network(config.variant, *sizes, genotype, in_channels=data.channels)
    size = {"parameters": sum(p.numel() for p in network.parameters()), "macs": macs(network, shape)}
    jobs = [Job(architecture, seed, {"seed": seed}) for seed in range(config.seed, config.seed + config.seeds)]
    augment = train_transform(data, round(config.cutout * min(data.size)), jitter=config.variant == "imagenet")

    workers = Workers(config.workers, data.train, data.test)
    options = {"workers": workers, "smallest": smallest_batch(config.sync_bn)}

    def batches(job: Job) -> tuple[Batches, Batches]:
        return (
            Batches(data.train, indices, config.batch_size, augment, job.seed, **options),
            Batches(data.test, range(len(data.test)), config.batch_size, eval_transform(data), 0, **options),
        )

    with Run(config, "evaluate", f"{config.dataset}-{config.variant}") as run, Progress() as progress, workers:
        run.describe(device, classes=len(data.classes), images=len(indices), image_shape=shape, **size)
        write_genotype(run, architecture)
        progress.line(f"run {run.folder}")
        for text in filter(None, notes):
            progress.line(text)
        graphs = Graphs(config.graphs, device, progress.line)
        errors = train_all(jobs, recipe(config), data, batches, "test", run, progress, graphs)
        seconds = sum(row["seconds"] for row in run.rows())
        result = {
            "kind": "evaluate",
            "genotype": architecture.to_dict(),
            "test_error": statistics.mean(errors),
            "test_error_std": statistics.stdev(errors) if len(errors) > 1 else None,
            "test_errors": errors,
            "seeds": [job.seed for job in jobs],
            **size,
            "epochs": config.epochs,
            "seconds": seconds,
        }
        finish(run, result)
    return result | {"run": str(run.folder)}


def recipe(config: ImageEvaluateConfig) -> Recipe:
    """How a genotype is built and trained with these settings, which are resolved."""
    named = [name for name in Recipe.__dataclass_fields__ if name != "learning_rate_min"]
    return Recipe(learning_rate_min=0.0, **{name: getattr(config, name) for name in named})
