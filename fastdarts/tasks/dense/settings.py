"""Settings of tasks that say something of each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fastdarts.errors import FastdartsError
from fastdarts.runs.kinds import Count, NotNegative, Positive, Width
from fastdarts.spaces import Space
from fastdarts.spaces.dense.network import VARIANTS
from fastdarts.tasks.images.settings import (
    SEARCH_RECIPE,
    ImageEvaluateConfig,
    ImageSearchConfig,
    ImageSupernetConfig,
    LearningConfig,
)

DENSE_RECIPE: dict[str, Any] = {**SEARCH_RECIPE, "batch_size": 4, "channels": 24, "arch_learning_rate": 1e-4}
"""The settings of AutoDispNet's search (Saikia et al. 2019) where they differ from those of DARTS. The batch size is
that of its training."""
MULTIPLE = 64
"""Sides of crops that are not named are multiples of it: every published network fits to them."""
LEAST = 8


@dataclass(frozen=True)
class MapConfig(LearningConfig):
    """What is learned of pixels, and of which parts of the images."""

    crop_height: Width | None = None
    """Height in pixels of the parts of images that are learned; test images are cut into such parts. By default it is
    that of the images, rounded down to a multiple of 64."""
    crop_width: Width | None = None
    """Width of these parts, in the same way."""
    augment: Literal["standard", "none"] = "standard"
    """Augmentation of training images. standard crops at random, flips top and bottom, and changes brightness and
    contrast. none takes the middle."""
    augment_strength: NotNegative = 1.0
    """Factor of the changes of brightness and contrast."""
    head: ClassVar[str] = "linear"
    class_weights: ClassVar[str | None] = None
    focal_gamma: ClassVar[float] = 0.0
    image_size: ClassVar[int | None] = None
    cutout: ClassVar[float] = 0.0


def check_crop(config: MapConfig) -> None:
    """Raise :class:`FastdartsError` for a crop that no network fits to."""
    for name in ("crop_height", "crop_width"):
        side = getattr(config, name)
        if side is not None and side % LEAST:
            flag = name.replace("_", "-")
            raise FastdartsError(f"--{flag} is {side}: expected a multiple of {LEAST}, as networks halve images often")


@dataclass(frozen=True)
class DisparityConfig(MapConfig):
    """How disparity is learned, and of which pairs of images."""

    dataset: Literal["synthetic", "debian-stereo", "folder"] = "synthetic"
    """Pairs of images. synthetic draws them, with exact truth; --data may name a folder of photographs for their
    surfaces. debian-stereo has photographs of two Debian packages, and two real pairs for the test. folder means pairs
    of your own, or FlyingThings3D, Sintel and KITTI as they are stored."""
    pairs: Count = 512
    """Training pairs that are drawn (synthetic, debian-stereo)."""
    max_disparity: Count | None = None
    """Largest disparity of the pairs that are drawn, in pixels (synthetic 16, debian-stereo 32). The real pairs of
    debian-stereo are made so small that they have none above it."""
    loss: str = "l1"
    """Loss of a pixel: l1 or huber, or one of a plug-in."""
    metric: str = "epe"
    """Number by which networks are judged: epe, bad3 or d1, or one of a plug-in. epe is the mean end-point error, and
    bad3 the share of errors above 3 pixels. d1 counts those above 5 % of them."""


@dataclass(frozen=True)
class SegmentationConfig(MapConfig):
    """How classes of pixels are learned."""

    dataset: Literal["folder"] = "folder"
    """Images to learn from: a folder that holds images/ and labels/, with a label map for each image."""
    loss: str = "cross-entropy"
    """Loss of a pixel: cross-entropy, or one of a plug-in."""
    metric: str = "iou"
    """Number by which networks are judged: iou or pixels, or one of a plug-in. iou is the shortfall of the mean
    intersection over union from 100 %. pixels is the share of pixels that are taken for another class."""


class _Search(ImageSearchConfig):
    """Beside crops that fit, what all searches check."""

    def left_out(self, space: Space) -> dict[str, Any]:
        """Sizes are those of dense networks, also where a method has others for CIFAR-10."""
        sizes = ("batch_size", "channels", "partial", "edge_normalisation")
        own = {name: DENSE_RECIPE[name] for name in sizes} | {"layers": space.layers, "nodes": space.nodes}
        return super().left_out(space) | own

    def check_task(self, space: Space) -> None:
        """See :func:`check_crop`."""
        super().check_task(space)
        check_crop(self)


@dataclass(frozen=True)
class DenseSupernetConfig(ImageSupernetConfig):
    """What searches for supernets have, but for what counts classes."""

    gap_every: ClassVar[int] = 0


@dataclass(frozen=True)
class DisparitySearchConfig(DisparityConfig, _Search):
    """What searches by disparity add to the settings of every search."""


@dataclass(frozen=True)
class SegmentationSearchConfig(SegmentationConfig, _Search):
    """What searches by segmentation add to the settings of every search."""


@dataclass(frozen=True)
class _Evaluate(ImageEvaluateConfig):
    """Without what needs classes of whole images."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimizer of the weights."""
    learning_rate: Positive | None = None
    """Learning rate at the start (1e-4)."""
    auxiliary: ClassVar[bool] = False
    auxiliary_weight: ClassVar[float] = 0.0
    label_smoothing: ClassVar[float] = 0.0
    mixup: ClassVar[float] = 0.0
    cutmix: ClassVar[float] = 0.0

    def check_task(self) -> None:
        """See :func:`check_crop`."""
        super().check_task()
        check_crop(self)


@dataclass(frozen=True)
class DisparityEvaluateConfig(DisparityConfig, _Evaluate):
    """Train a genotype from scratch on pairs of images and test it. Sizes left out are the published ones of the
    variant."""

    task: str = "disparity"
    variant: (
        Literal[
            "autodispnet-c",
            "autodispnet-css",
            "autodispnet-small-c",
            "autodispnet-small-css",
        ]
        | None
    ) = None
    """Network: autodispnet-c (the default) compares both views; css stacks two more networks that refine its result.
    The small ones have a wider first convolution for their size."""
    stack: Literal["in-turn", "together"] = "in-turn"
    """Training of a stack, css. in-turn trains one network after another, as published: each has a third of the epochs,
    and those before it stay as they are. together trains all of them by the loss of the last one."""

    def check_task(self) -> None:
        """A stack in turn has an epoch for each network, and nothing chooses among epochs of different networks."""
        super().check_task()
        known = VARIANTS.get(self.variant) if self.stack == "in-turn" else None
        parts = 1 if known is None else 1 + known.refinements
        if parts > 1 and self.epochs is not None and self.epochs < parts:
            raise FastdartsError(
                f"--epochs is {self.epochs}, but {self.variant} trains {parts} networks in turn: expected {parts} or "
                "more, or --stack together"
            )
        if parts > 1 and self.validation_portion:
            raise FastdartsError(
                f"--validation-portion is {self.validation_portion}, but the epochs of {self.variant} train its "
                "networks in turn, so the best one may lack some: leave it out, or use --stack together"
            )


@dataclass(frozen=True)
class SegmentationEvaluateConfig(SegmentationConfig, _Evaluate):
    """Train a genotype from scratch on classes of pixels and test it. Sizes left out are the published ones of the
    variant."""

    task: str = "segmentation"
    variant: Literal["autodispnet-s"] = "autodispnet-s"
    """Network: the encoder and decoder of single images."""
