"""Settings of learning without labels: those of images, but for what labels need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastdarts.tasks.images.settings import (
    SEARCH_RECIPE,
    ImageEvaluateConfig,
    ImageSearchConfig,
    ImageSupernetConfig,
    LearningConfig,
)

TILES = {**SEARCH_RECIPE, "batch_size": 32, "learning_rate": 0.05, "arch_learning_rate": 1.5e-4}
"""The published settings of UnNAS for rotation and jigsaw, where they differ from those of DARTS."""
PIXELS = {**SEARCH_RECIPE, "learning_rate": 0.1}
"""The same for colourisation."""


@dataclass(frozen=True)
class PretextConfig(LearningConfig):
    """Loss and metric are those of the task."""

    loss: ClassVar[str] = "cross-entropy"
    metric: ClassVar[str] = "error"
    head: ClassVar[str] = "linear"
    class_weights: ClassVar[str | None] = None
    focal_gamma: ClassVar[float] = 0.0


@dataclass(frozen=True)
class PretextSearchConfig(PretextConfig, ImageSearchConfig):
    """What searches without labels add to the settings of every search."""


@dataclass(frozen=True)
class WholeSearchConfig(PretextSearchConfig):
    """The same where images have an augmentation of their own."""

    cutout: ClassVar[float] = 0.0
    augment: ClassVar[str] = "standard"


@dataclass(frozen=True)
class JigsawSupernetConfig(ImageSupernetConfig):
    """A batch of tiles is passed as a whole."""

    accumulate: ClassVar[int] = 1
    max_memory: ClassVar[str | None] = None


@dataclass(frozen=True)
class ColourSupernetConfig(ImageSupernetConfig):
    """Pixels have no classes that are counted."""

    gap_every: ClassVar[int] = 0


@dataclass(frozen=True)
class RotationEvaluateConfig(PretextConfig, ImageEvaluateConfig):
    """Train a genotype from scratch to tell how images are turned. Settings left out are the published ones of the
    variant."""

    task: str = "rotation"
    mixup: ClassVar[float] = 0.0
    cutmix: ClassVar[float] = 0.0


@dataclass(frozen=True)
class _WholeEvaluateConfig(PretextConfig, ImageEvaluateConfig):
    """Without an auxiliary head, which gives one class for each map."""

    auxiliary: ClassVar[bool] = False
    auxiliary_weight: ClassVar[float] = 0.0
    mixup: ClassVar[float] = 0.0
    cutmix: ClassVar[float] = 0.0
    cutout: ClassVar[float] = 0.0
    augment: ClassVar[str] = "standard"


@dataclass(frozen=True)
class JigsawEvaluateConfig(_WholeEvaluateConfig):
    """Train a genotype from scratch to put tiles of images in order. Settings left out are the published ones of the
    variant."""

    task: str = "jigsaw"


@dataclass(frozen=True)
class ColourisationEvaluateConfig(_WholeEvaluateConfig):
    """Train a genotype from scratch to give grey images their colours. Settings left out are the published ones of the
    variant."""

    task: str = "colourisation"
    label_smoothing: ClassVar[float] = 0.0
