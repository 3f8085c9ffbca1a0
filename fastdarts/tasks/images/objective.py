"""What networks learn of images: outputs, loss, score and head, the same in searches, evaluations and saved models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.spaces import ImageSpace
from fastdarts.tasks.images.data import ImageData, labels_of
from fastdarts.tasks.images.heads import LINEAR, check_head, fit_head
from fastdarts.tasks.images.losses import CROSS_ENTROPY, FOCAL, find_loss
from fastdarts.tasks.images.measure import Meter, wrong
from fastdarts.tasks.images.scores import Score, find_score, meter_of
from fastdarts.tasks.images.settings import Augmentation
from fastdarts.tasks.images.transforms import as_it_is, eval_transform, train_transform
from fastdarts.tasks.task import Metric

KNOW_WEIGHTS = (CROSS_ENTROPY, FOCAL)
"""Losses of classes that take weights and smoothed targets; others take outputs and targets alone."""
BALANCED = "balanced"
ERROR = "error"
"""The metric of classes: the share of images that are taken for another one."""


class Objective:
    """Classification: one class for each image, learned by cross-entropy.

    A subclass is the objective of another task.

    Attributes:
        task: the name of the task.
        data: the images.
        names: what the outputs are called.
        outputs: how many numbers the network gives for an image.
        channels, size: those of what the network takes.
        head: the name of the head.
        kind: what the outputs are: "classes", "numbers", "labels", "parts" of an image that nobody asks for, or
            "maps" of its pixels.
        per_image: how many examples are made of an image.
        tiles: of how many maps in turn an example is made.
        pair: makes what is learned of an image as transforms give it, and of its target; None leaves both.
        mix: the same of whole batches.
    """

    task = "images"
    kind = "classes"
    per_image = tiles = 1
    pair: Callable[[Tensor, Any], tuple[Tensor, Any]] | None = None
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def __init__(self, data: ImageData, indices: Sequence[int] = (), config: Any = None):
        self.data, self.config = data, config
        self.names: Sequence[str] = data.classes
        self.channels, self.size = data.channels, data.size
        self.head: str = getattr(config, "head", LINEAR)
        self.score: Score | None = None
        self._loss: Callable[..., Tensor] | None = None
        self._weights: Tensor | None = None
        self.meter_type: type[Any] = Meter
        if config is not None:
            self.choose(config, indices)

    def choose(self, config: Any, indices: Sequence[int]) -> None:
        """Take loss, score and head as the settings name them; ``indices`` are those of the training images in use."""
        check_head(self.head)
        if config.metric != ERROR:
            self.score = find_score(config.metric, self.task)
            self.meter_type = meter_of(self.score)
        function = find_loss(config.loss, self.task)
        if config.loss not in KNOW_WEIGHTS and getattr(config, "label_smoothing", None):
            raise FastdartsError(
                f"--label-smoothing is {config.label_smoothing}, and --loss {config.loss} has none: use 0"
            )
        self._weights = self.class_weights(config, indices)
        if config.loss == FOCAL:
            function = partial(function, gamma=config.focal_gamma)
        if config.loss != CROSS_ENTROPY or self._weights is not None:
            self._loss = function

    def class_weights(self, config: Any, indices: Sequence[int]) -> Tensor | None:
        """The weights of the classes that the settings mean, whose mean over the training images is 1; None for none.

        Raises :class:`FastdartsError` if they are not one number above 0 for each class, or if the loss has none.
        """
        if config.class_weights is None:
            return None
        check_weighted(config, KNOW_WEIGHTS)
        numbers = torch.bincount(torch.tensor(labels_of(self.data.train, indices)), minlength=len(self.names)).double()
        if config.class_weights == BALANCED:
            given = torch.where(numbers > 0, 1 / numbers.clamp(min=1), 0.0)
        else:
            given = parse_weights(config.class_weights, self.names)
        return (given * numbers.sum() / (given * numbers).sum()).float()

    @property
    def is_plain(self) -> bool:
        """Whether it is classification as published: by cross-entropy, judged by the error."""
        return type(self) is Objective and self._loss is None and self.score is None

    @property
    def outputs(self) -> int:
        """How many numbers the network gives for an image."""
        return len(self.names)

    def said(self, error: float) -> str:
        """The number by which networks are judged, in words."""
        title, unit = ("error", " %") if self.score is None else (self.score.title, self.score.unit)
        return Metric(ERROR, title, unit).said(error)

    def criterion(self, outputs: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The mean loss of a batch; smoothed targets are those of classes."""
        if self._loss is None:
            return F.cross_entropy(outputs, target, label_smoothing=label_smoothing)
        options: dict[str, Any] = {"label_smoothing": label_smoothing} if label_smoothing else {}
        if self._weights is not None:
            options["weights"] = self._weights_on(outputs)
        losses = self._loss(outputs.float() if outputs.dtype.itemsize < 4 else outputs, target, **options)
        if losses.ndim == 0 or len(losses) != len(target):
            raise FastdartsError(
                f"the loss has the shape {[*losses.shape]} for {len(target)} images: expected a number for each image"
            )
        return losses.mean()

    def _weights_on(self, outputs: Tensor) -> Tensor:
        """The weights where the outputs are: copied once, as a copy in every step would make a GPU wait."""
        if self._weights.device != outputs.device:
            self._weights = self._weights.to(outputs.device)
        return self._weights

    def counted(self, outputs: Tensor, target: Tensor) -> Tensor:
        """What the meter adds up, a few numbers [n]."""
        return wrong(outputs, target) if self.score is None else self.score.counted(outputs, target)

    def answers(self, outputs: Tensor) -> Tensor:
        """What the network says, of numbers in their own unit, of labels their probabilities."""
        return outputs.sigmoid() if self.kind == "labels" else outputs

    def train_transform(
        self, length: int, *, share: float = 1.0, jitter: bool = False, augment: Augmentation = "standard"
    ) -> Callable[[Tensor], Tensor]:
        """What makes a training image of a sample: with a square of ``length`` blanked with probability ``share``."""
        if self.data.name == "own":
            return as_it_is
        return train_transform(self.data, length, cutout_prob=share, jitter=jitter, augment=augment)

    def eval_transform(self) -> Callable[[Tensor], Tensor]:
        """What makes an image of a sample without chance."""
        return as_it_is if self.data.name == "own" else eval_transform(self.data)

    def rehearsal(self, images: int) -> tuple[Tensor, Tensor]:
        """A batch of so many images without content."""
        return torch.empty(images, self.channels, *self.size), torch.zeros(images, dtype=torch.int64)

    def fit(self, network: nn.Module) -> nn.Module:
        """``network`` with the head of this objective."""
        return fit_head(network, self.head, self.outputs, self.size)

    def counts(self) -> dict[str, Any]:
        """What environment.json says of the outputs."""
        return {"classes" if self.kind == "classes" else "outputs": self.outputs}

    def network(
        self, space: ImageSpace, variant: str, channels: int, layers: int, auxiliary: bool, genotype: Any
    ) -> nn.Module:
        """A discrete network that learns this."""
        sizes = variant, channels, self.outputs, layers, auxiliary, genotype
        return self.fit(space.network(*sizes, in_channels=self.channels))

    def model_facts(self) -> dict[str, Any]:
        """What a model has to know of its outputs: fields of :class:`fastdarts.trained.folder.Facts`."""
        constants = {"size": self.size, "mean": self.data.mean, "std": self.data.std}
        return {"task": self.task, "kind": self.kind, "head": self.head, "classes": tuple(self.names)} | constants


class Criterion(nn.Module):
    """The loss of an objective as the module that supernets take."""

    def __init__(self, objective: Objective):
        super().__init__()
        self._objective = objective

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self._objective.criterion(outputs, target)


def check_weighted(config: Any, losses: Sequence[str]) -> None:
    """Raise :class:`FastdartsError` if the loss that the settings name is none of ``losses``, which take weights."""
    if config.loss not in losses:
        raise FastdartsError(
            f"--class-weights goes with --loss {' or '.join(losses)}, and this is {config.loss}: leave one out"
        )


def parse_weights(text: str, names: Sequence[str]) -> Tensor:
    """Numbers separated by commas, one for each of ``names``; raises :class:`FastdartsError` for anything else."""
    try:
        found = torch.tensor([float(part) for part in text.split(",")], dtype=torch.float64)
    except ValueError:
        found = torch.zeros(0)
    if len(found) != len(names) or not found.isfinite().all() or found.min() <= 0:
        raise FastdartsError(
            f"--class-weights is {text[:80]!r}: expected {BALANCED}, or {len(names)} numbers above 0 with commas "
            f"between them, in the order {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        )
    return found
