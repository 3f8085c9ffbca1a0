"""Evaluation: a genotype trained from scratch and tested, with one seed or several (DARTS, sections 3.2 and 3.3)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from operator import itemgetter
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from fastdarts.engine.capture import Graphs
from fastdarts.engine.device import check_cores, check_precision, check_workers, prepare_device
from fastdarts.engine.isolation import isolated
from fastdarts.engine.language_evaluation import evaluate_text
from fastdarts.engine.loop import Row
from fastdarts.engine.models import Start, as_pretrained, as_published, write_models
from fastdarts.engine.outcome import finish, write_genotype
from fastdarts.engine.sizing import choose_size, targets_of
from fastdarts.engine.tested import keep_tested
from fastdarts.engine.training import Attended, Job, Recipe, train_all
from fastdarts.errors import FastdartsError
from fastdarts.ranks import agree, check_batch, fail_together, from_first, joined, refuse, settings_of, smallest_batch
from fastdarts.report.describe import macs
from fastdarts.runs.run import Run, stored_config
from fastdarts.runs.watch import NOBODY, Watch
from fastdarts.runs.writer import Progress
from fastdarts.spaces import RECURRENT, find_space, parse_architecture, space_named_in
from fastdarts.tasks.images.batches import Batches, Workers
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.settings import ImageEvaluateConfig
from fastdarts.tasks.images.transforms import Mixing
from fastdarts.tasks.settings import EvaluateConfig
from fastdarts.tasks.task import find_task
from fastdarts.tasks.validation import validate

ObjectiveOf = Callable[[ImageEvaluateConfig], tuple[Objective, range]]


def evaluate(config: EvaluateConfig, watch: Watch = NOBODY, objective_of: ObjectiveOf | None = None) -> dict[str, Any]:
    r"""Train the network of ``config.genotype`` from scratch, test it, and leave the folder of the run behind.

    Of images, one network is trained for each of the seeds seed, ..., seed + seeds - 1. That of seed s starts from
    ``torch.manual_seed(s)``, or from the weights that ``pretrained`` names. Its loss is
    CE(main) + auxiliary_weight * CE(auxiliary). Drop path rises linearly: p(e) = drop_path_prob * e / epochs. The run
    holds a model of each seed for :func:`fastdarts.load`.

    The test error is that of the last epoch. With ``validation_portion`` it is that of the epoch with the lowest
    validation error, and the test images are used once.

    With ``target_parameters``, ``target_macs`` or ``target_latency``, channels and layers that are left out are those
    of the largest network that fits, see :mod:`fastdarts.engine.sizing`.

    Of text, see :mod:`fastdarts.engine.language_evaluation`. Started by torchrun, all ranks train as one where the task
    can, as in :func:`fastdarts.engine.search.search`.

    Args:
        config: The settings. ``EvaluateConfig(genotype=..., ...)`` makes them; what is left out is as published. A
            genotype is a name, a file, or the folder of a search.
        watch: Who watches the run from Python, see :mod:`fastdarts.runs.watch`.
        objective_of: What gives the objective for resolved settings, and the training images in use, where these are
            not those that settings name.

    Returns:
        What result.json holds. ``parameters`` are counted without the auxiliary head, and ``macs`` are the
            multiply-accumulates of one image. ``test_errors`` are in percent, ``test_error`` is their mean, and
            ``test_error_std`` their sample standard deviation, None for one seed. Of text there are
            ``valid_perplexity`` and ``test_perplexity``.

    Raises:
        FastdartsError: A setting, the data or the genotype is wrong. It is raised before any work.
        NotFinite: A loss, a gradient or a weight is not finite. The last checkpoint stays as it was.

    Source: Liu et al. 2019 (DARTS), section 3.2 and its public code.

    Examples:
        >>> from pathlib import Path
        >>> from fastdarts.engine.evaluation import evaluate
        >>> from fastdarts.tasks.settings import EvaluateConfig
        >>> tiny = dict(dataset="digits", samples=64, epochs=1, channels=4, layers=3)
        >>> config = EvaluateConfig(**tiny, genotype="DARTS_V2", run=Path("runs/trained"))
        >>> result = evaluate(config)
        >>> len(result["test_errors"])
        1
    """
    task = find_task(config.task)
    with joined() if "ranks" in task.has else nullcontext(), isolated():
        agree(settings_of("evaluate", config))
        if "ranks" not in task.has:
            refuse(f"an evaluation on {task.title}")
        with fail_together():
            if isinstance(config, ImageEvaluateConfig):
                config = as_pretrained(as_published(config))
            validate(config)
            _check_space(config)
        if not isinstance(config, ImageEvaluateConfig):
            return evaluate_text(config, watch)
        return _evaluate(config, watch, objective_of or task.objective)


def _check_space(config: EvaluateConfig) -> None:
    """Raise :class:`FastdartsError` for a genotype of a space whose networks are not trained as those of images or of
    space rnn."""
    space = space_named_in(config.genotype)
    of_images = isinstance(config, ImageEvaluateConfig)
    fits = space is None or (find_task(config.task).fits(find_space(space)) if of_images else space == RECURRENT.name)
    if not fits or not (of_images or config.task == RECURRENT.task):
        raise FastdartsError(
            f"the genotype is of space {space}, whose networks cannot be trained from scratch: those of images and of "
            f"{RECURRENT.name} can"
        )


def _evaluate(config: ImageEvaluateConfig, watch: Watch, objective_of: ObjectiveOf) -> dict[str, Any]:
    with fail_together():
        architecture = parse_architecture(config.genotype)
        space, genotype = architecture
        targets = targets_of(config)
        if targets and config.resume is not None:
            config = _as_begun(config)
        fixed = {"channels": config.channels, "layers": config.layers}
        # Spelled out, so that the run does not depend on a file or a name that may change before it is resumed.
        config = replace(config.resolved(space, genotype), genotype=json.dumps(architecture.to_dict()))
        objective, indices = objective_of(config)
        data = objective.data
        if config.auxiliary and min(config.batch_size, len(indices)) == 1:
            raise FastdartsError("batches of one image have no batch statistics: use --batch-size 2 or --no-auxiliary")
        learned, judged = _split(indices, config.validation_portion)
        smallest = min(map(len, (learned, judged or data.test, data.test)))
        check_batch(config.batch_size, smallest, config.sync_bn)
        start = Start.of(config)
        device = prepare_device(config)
        notes = check_precision(config, device), check_workers(config, device), check_cores(device)
    agree(data.facts())
    shape = (objective.channels, *objective.size)
    sized = None
    if targets and not all(fixed.values()):
        sized = from_first(lambda: choose_size(config, fixed, architecture, objective, device))
        config = replace(config, channels=sized.channels, layers=sized.layers)
    with torch.device("meta"):
        sizes = config.variant, config.channels, config.layers
        network = objective.network(space, *sizes, False, genotype)
        if min(config.batch_size, len(learned)) == 1:
            _check_single(network, shape)
        if start is not None:
            whole = objective.network(space, *sizes, config.auxiliary, genotype)
            start = start.for_network(whole, objective)
    size = {"parameters": sum(p.numel() for p in network.parameters()), "macs": macs(network, shape, objective.tiles)}
    weights = {} if start is None else start.weights
    seeds = range(config.seed, config.seed + config.seeds)
    jobs = [Job(architecture, seed, {"seed": seed}, weights) for seed in seeds]
    jitter, length = config.variant.startswith("imagenet"), round(config.cutout * min(data.size))
    augment = objective.train_transform(length, jitter=jitter, augment=config.augment)
    mixes = config.mixup or config.cutmix
    mix = Mixing(config.mixup, config.cutmix, len(data.classes)) if mixes else objective.mix

    workers = Workers(config.workers, data.train, data.test)
    options = {"workers": workers, "smallest": smallest_batch(config.sync_bn), "pair": objective.pair}

    def measured(images: Dataset, indices: range) -> Batches:
        plain = objective.eval_transform()
        return Batches(images, indices, config.batch_size, plain, 0, mix=objective.mix, **options)

    def tested(job: Job) -> Batches:
        return measured(data.test, range(len(data.test)))

    def look(job: Job, network: nn.Module, attended: Attended) -> None:
        keep_tested(run, job.seed, network, attended(tested(job).in_order()), objective)

    def batches(job: Job) -> tuple[Batches, Batches]:
        train = Batches(data.train, learned, config.batch_size, augment, job.seed, mix=mix, **options)
        return train, measured(data.train, judged) if judged else tested(job)

    with Run(config, "evaluate", f"{config.dataset}-{config.variant}", watch) as run, Progress() as progress, workers:
        chosen = {} if sized is None else sized.facts()
        run.describe(
            device, images=len(indices), image_shape=(data.channels, *data.size), **objective.counts(), **size, **chosen
        )
        write_genotype(run, architecture)
        progress.line(f"run {run.folder}")
        for text in filter(None, (data.found, sized and f"chosen: {sized.line()}", *notes)):
            progress.line(text)
        if start is not None:
            start.keep(run)
        graphs = Graphs(config.graphs, device, progress.line)
        prefix, final = ("valid", tested) if judged else ("test", None)
        errors = train_all(
            jobs, recipe(config), objective, batches, prefix, run, progress, graphs, final=final, look=look
        )
        rows = run.rows()
        best = _best(rows, seeds) if judged else {}
        write_models(run, config, objective, architecture, errors, best)
        seconds = sum(row["seconds"] for row in rows)
        result = {
            "kind": "evaluate",
            "genotype": architecture.to_dict(),
            "test_error": statistics.mean(errors),
            "test_error_std": statistics.stdev(errors) if len(errors) > 1 else None,
            "test_errors": errors,
            "seeds": [*seeds],
            **best,
            **size,
            "epochs": config.epochs,
            "seconds": seconds,
        }
        finish(run, result)
    return result | {"run": str(run.folder)}


def _check_single(network: nn.Module, shape: tuple[int, int, int]) -> None:
    """Raise :class:`FastdartsError` if the last maps of ``network`` are single numbers, so that a batch of one image
    has no statistics."""
    try:
        with torch.no_grad():
            network(torch.empty(1, *shape))
    except ValueError as error:
        raise FastdartsError(
            f"images of {shape[1]}x{shape[2]} pixels end as one pixel in this network, and a batch of one has no "
            "statistics: use --batch-size 2 or more, or --image-size"
        ) from error


def _as_begun(config: ImageEvaluateConfig) -> ImageEvaluateConfig:
    """``config`` of a run that goes on, with the size that was chosen when it began."""
    began = stored_config(config.resume, "evaluate", EvaluateConfig)
    sizes = {name: getattr(config, name) or getattr(began, name, None) for name in ("channels", "layers")}
    return replace(config, **sizes)


def _split(indices: range, portion: float) -> tuple[range, range]:
    """The images that train, and the last ones, which choose the best epoch: none for ``portion`` 0."""
    held = round(portion * len(indices))
    if portion and not 0 < held < len(indices):
        raise FastdartsError(
            f"--validation-portion is {portion}, which is {held} of {len(indices)} training images: choose another "
            "portion, so that both sides have images"
        )
    return indices[: len(indices) - held], indices[len(indices) - held :]


def _best(rows: Sequence[Row], seeds: Iterable[int]) -> dict[str, Any]:
    """The best epoch of each seed, counted from 0, and its validation error."""
    best = [min((row for row in rows if row["seed"] == seed), key=itemgetter("valid_error")) for seed in seeds]
    return {"best_epochs": [row["epoch"] for row in best], "valid_errors": [row["valid_error"] for row in best]}


def recipe(config: ImageEvaluateConfig) -> Recipe:
    """How a genotype is built and trained with these settings, which are resolved."""
    named = [name for name in Recipe.__dataclass_fields__ if name != "learning_rate_min"]
    return Recipe(learning_rate_min=0.0, **{name: getattr(config, name) for name in named})
