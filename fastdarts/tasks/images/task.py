"""Classification of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.nn.supernet import Supernet
from fastdarts.ranks import check_batch, smallest_batch
from fastdarts.spaces import Space
from fastdarts.tasks.images.batches import Batches, Workers, split
from fastdarts.tasks.images.cost import ImageCostConfig
from fastdarts.tasks.images.data import ImageData
from fastdarts.tasks.images.measure import Meter, measure
from fastdarts.tasks.images.objective import Criterion, Objective
from fastdarts.tasks.images.prepare import prepare_data
from fastdarts.tasks.images.scores import SCORES
from fastdarts.tasks.images.settings import (
    SEARCH_RECIPE,
    ImageEvaluateConfig,
    ImageSearchConfig,
    ImageSupernetConfig,
    network_options,
)
from fastdarts.tasks.schedule import cosine
from fastdarts.tasks.task import Batch, Learned, Metric, Problem, Row, Task, register_task


class ImageProblem(Problem):
    """Images, of which one half trains the weights and the other one the alphas.

    Attributes:
        objective: what is learned of the images.
        criterion: the loss that is learned, a function of what the network gives and the labels.
        data: the images.
        indices: those of the training images in use.
        halves: the indices of both halves.
        workers: the processes that prepare images.
    """

    meter_type: type[Any] = Meter
    criterion: nn.Module = nn.CrossEntropyLoss()

    def __init__(self, data: ImageData, indices: range, config: ImageSearchConfig, objective: Objective | None = None):
        self.data, self.indices, self.examples = data, indices, len(indices)
        self.halves = split(len(indices), config.train_portion)
        self.label = f"{config.dataset}-{config.method}"
        self.workers = Workers(config.workers, data.train)
        self.take(Objective(data) if objective is None else objective)

    def take(self, objective: Objective) -> None:
        """Learn this; what a class derived from this one says itself stays."""
        self.objective = objective
        if self.learns_objective and not objective.is_plain:
            self.meter_type, self.criterion = objective.meter_type, Criterion(objective)

    @property
    def learns_objective(self) -> bool:
        """Whether loss and meter are those of the objective: a derived class may have its own."""
        kind = type(self)
        return kind.meter_type is ImageProblem.meter_type and kind.criterion is ImageProblem.criterion

    @classmethod
    def of_shape(cls, classes: int, channels: int, size: tuple[int, int]) -> ImageProblem:
        """Images of this shape that cannot be read: for networks of the right size, and batches without content."""
        made = cls.__new__(cls)
        made.indices = range(0)
        made.data = SimpleNamespace(classes=range(classes), channels=channels, size=size)
        made.take(Objective(made.data))
        return made

    @property
    def outputs(self) -> int:
        """How many numbers the network gives for an image."""
        return self.objective.outputs

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.data.size

    def facts(self) -> Mapping[str, Any]:
        return self.data.facts()

    def description(self) -> Row:
        shape = (self.data.channels, *self.data.size)
        return {**self.objective.counts(), "images": len(self.indices), "image_shape": shape}

    def introduction(self) -> str:
        return self.data.found

    def check_batches(self, config: ImageSearchConfig) -> None:
        """Raise :class:`FastdartsError` if the batches of a half are too small for the ranks or the parts."""
        for half in self.halves:
            check_batch(config.batch_size, len(half), config.sync_bn, config.accumulate)

    def opened(self, config: ImageSearchConfig, device: torch.device) -> Workers:
        return self.workers

    def network(self, config: ImageSupernetConfig, space: Space) -> Supernet:
        if config.label_smoothing and not self.learns_objective:
            raise FastdartsError(
                f"--label-smoothing is {config.label_smoothing}, but task {config.task} has a loss of its own: use 0"
            )
        sizes = config.channels, self.outputs, config.layers, self.criterion, config.nodes
        options = {"in_channels": self.objective.channels, "memory": config.memory} | network_options(config)
        return self.objective.fit(space.supernet(*sizes, **options))

    def check_network(self, config: ImageSupernetConfig, space: Space) -> Supernet:
        """A supernet without content; raises :class:`FastdartsError` if it does not fit the images."""
        with torch.device("meta"), torch.no_grad():
            network = self.network(config, space)
            if config.partial > 1:  # which does not fit all sizes of images
                self.network(config, space).eval()(self.objective.rehearsal(1)[0])
        return network

    def streams(
        self, config: ImageSupernetConfig, recipe: Any, size: int, epoch: int, epochs: int
    ) -> tuple[Batches, Batches | None, Batches]:
        share = (epoch / max(epochs - 1, 1)) if config.drop_path_prob else 1.0
        transform = self.train_transform(config, share)
        other = transform if recipe.augmented else self.eval_transform()

        def batches(
            indices: range,
            seed: int,
            parts: int = config.accumulate,
            size: int = size,
            transform: Callable[[Tensor], Tensor] = other,
        ) -> Batches:
            smallest = smallest_batch(config.sync_bn, parts)
            options = {"pair": self.objective.pair, "mix": self.objective.mix, "smallest": smallest}
            return Batches(self.data.train, indices, size, transform, seed, workers=self.workers, **options)

        whole = range(self.halves[1].stop)
        train = batches(self.halves[0] if recipe.held_out else whole, 2 * config.seed, transform=transform)
        arch = None
        if recipe.order != "together":
            arch = batches(self.halves[1] if recipe.held_out else whole, 2 * config.seed + 1)
        # As published for DARTS, validation images are augmented like the others, with the same draws in every epoch.
        valid = batches(self.halves[1], 2 * config.seed + 1, 1, -(-size // config.accumulate))
        return train, arch, valid

    def train_transform(self, config: ImageSearchConfig, share: float = 1.0) -> Callable[[Tensor], Tensor]:
        """What makes an image that is learned of a sample; cutout with the probability ``share``."""
        length = round(config.cutout * min(self.data.size))
        return self.objective.train_transform(length, share=share, augment=config.augment)

    def eval_transform(self) -> Callable[[Tensor], Tensor]:
        """What makes an image of a sample without chance."""
        return self.objective.eval_transform()

    def rate_share(self, config: ImageSearchConfig, epoch: int) -> float:
        return cosine(config, epoch) / config.learning_rate

    def learn(self, config: ImageSupernetConfig, model: Supernet, forward: Any, batch: Batch) -> Learned:
        logits = forward(batch[0])
        if config.label_smoothing:
            loss = self.objective.criterion(logits, batch[1], config.label_smoothing)
        else:
            loss = model._criterion(logits, batch[1])
        return Learned(loss, loss, logits)

    def counted(self, outputs: Tensor, target: Tensor) -> Tensor | None:
        return self.objective.counted(outputs, target) if self.learns_objective else None

    def why_not_recorded(self) -> str:
        return ""

    def measure(self, model: nn.Module, batches: Iterable[Batch], device: torch.device, prefix: str) -> Row:
        return measure(model, batches, device, prefix, self.criterion, self.meter_type())

    def rehearsal(self, config: ImageSupernetConfig, examples: int) -> Batch:
        return self.objective.rehearsal(examples)


class ImageTask(Task):
    """A task on images whose networks are trained by an :class:`Objective`, in searches and from scratch.

    Attributes:
        objective_type: the class of its objectives.
    """

    objective_type: type[Objective] = Objective

    metric = Metric("valid_error", "valid error", " %")
    recipe = SEARCH_RECIPE
    learns_from = "images"
    has = frozenset({"ranks", "training from scratch"})

    def objective(self, config: Any) -> tuple[Objective, range]:
        """What is learned with these settings of a search or an evaluation, and the training images in use.

        Raises :class:`FastdartsError` on anything wrong with the images.
        """
        data, indices = self.load(config)
        return self.objective_type(data, indices, config), indices

    def load(self, config: Any) -> tuple[ImageData, range]:
        """The images, and the indices of the training images in use."""
        return prepare_data(config)

    def of(self, settings: Mapping[str, Any]) -> Task:
        """With the metric that the settings name; as it is where that one's plug-in is not loaded."""
        score = SCORES.get(f"{self.name}/{settings.get('metric')}")
        if score is None:
            return self
        made = copy(self)
        made.metric = Metric(self.metric.name, f"valid {score.title}", score.unit)
        return made

    def problem(self, config: ImageSearchConfig, space: Space) -> ImageProblem:
        objective, indices = self.objective(config)
        return ImageProblem(objective.data, indices, config, objective)

    def line(self, row: Row, epochs: int) -> str:
        skips = "+".join(str(value) for key, value in row.items() if key.startswith("skip_"))
        skips = f"  skips {skips}" if skips else ""
        eigenvalue = f"  eigenvalue {row['eigenvalue']:.4g}" if "eigenvalue" in row else ""
        gap = f"  gap {row['discretisation_gap']:+.2f}" if "discretisation_gap" in row else ""
        title = self.metric.title.removeprefix("valid ")
        train, valid = self.metric.number(row["train_error"]), self.metric.said(row["valid_error"])
        return (
            f"epoch {row['epoch'] + 1}/{epochs}  lr {row['lr']:.4g}  train {title} {train}  {valid}{gap}{eigenvalue}"
            f"{skips}  {row['seconds']:.1f} s"
        )

    def tested(self, result: Row) -> str:
        std, metric = result["test_error_std"], self.metric
        title, error = metric.title.removeprefix("valid "), metric.number(result["test_error"])
        if std is not None:
            error = error.removesuffix(metric.unit)
            error += f" ± {metric.number(std)} ({len(result['seeds'])} seeds)"
        return f"test {title} {error}"


class Images(ImageTask):
    """Classification of images: cross-entropy, measured by the error in percent."""

    name, title = "images", "images"
    settings = (ImageCostConfig, ImageSupernetConfig, ImageSearchConfig)
    evaluation = ImageEvaluateConfig
    has = frozenset({"ranks", "training from scratch", "class logits"})


register_task(Images())
