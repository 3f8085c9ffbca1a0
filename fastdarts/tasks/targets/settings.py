"""Settings of regression and multi-label classification: those of images, but for losses, metrics and what needs
classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fastdarts.runs.kinds import NotNegative
from fastdarts.tasks.images.settings import ImageEvaluateConfig, ImageSearchConfig, ImageSupernetConfig, LearningConfig

Listed = Literal["folder", "own"]


@dataclass(frozen=True)
class TargetSupernetConfig(ImageSupernetConfig):
    """What searches for supernets have, but for what counts classes."""

    gap_every: ClassVar[int] = 0


@dataclass(frozen=True)
class RegressionConfig(LearningConfig):
    """How numbers are learned."""

    dataset: Listed = "folder"
    """Images to learn from. folder means a CSV file of paths and numbers. own means datasets that a script gives to
    fastdarts.search()."""
    loss: str = "mse"
    """Loss of the standardised numbers: mse, l1 or huber, or one of a plug-in."""
    metric: str = "mae"
    """Number by which networks are judged: mae, rmse or r2 (its shortfall from 1), or one of a plug-in."""
    class_weights: ClassVar[str | None] = None
    focal_gamma: ClassVar[float] = 0.0


@dataclass(frozen=True)
class MultilabelConfig(LearningConfig):
    """How labels are learned of which an image may have several."""

    dataset: Listed = "folder"
    """Images to learn from. folder means a CSV file of paths and labels. own means datasets that a script gives to
    fastdarts.search()."""
    loss: str = "bce"
    """Loss: bce (binary cross-entropy) or focal, or one of a plug-in."""
    metric: str = "map"
    """Number by which networks are judged: the shortfall of map (mean average precision) or f1 from 100 %, or one of a
    plug-in."""
    class_weights: str | None = None
    """Weights of the images that have a label, one for each label: balanced, or numbers with commas between them (by
    default all are 1). balanced gives as much weight to the images that have it as to those that have not."""
    focal_gamma: NotNegative = 2.0
    """Exponent of the focal loss; with 0 it is the binary cross-entropy."""


@dataclass(frozen=True)
class RegressionSearchConfig(RegressionConfig, ImageSearchConfig):
    """What searches by regression add to the settings of every search."""


@dataclass(frozen=True)
class MultilabelSearchConfig(MultilabelConfig, ImageSearchConfig):
    """What searches by several labels add to the settings of every search."""


@dataclass(frozen=True)
class RegressionEvaluateConfig(RegressionConfig, ImageEvaluateConfig):
    """Train a genotype from scratch on numbers of images and test it. Settings left out are the published ones of the
    variant."""

    task: str = "regression"
    label_smoothing: ClassVar[float] = 0.0
    mixup: ClassVar[float] = 0.0
    cutmix: ClassVar[float] = 0.0


@dataclass(frozen=True)
class MultilabelEvaluateConfig(MultilabelConfig, ImageEvaluateConfig):
    """Train a genotype from scratch on labels of images and test it. Settings left out are the published ones of the
    variant."""

    task: str = "multilabel"
    label_smoothing: ClassVar[float] = 0.0
    mixup: ClassVar[float] = 0.0
    cutmix: ClassVar[float] = 0.0
