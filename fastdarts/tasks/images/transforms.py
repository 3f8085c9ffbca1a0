"""What becomes of an image before a network sees it: augmentation, size, normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.tasks.images import vision
from fastdarts.tasks.images.settings import Augmentation


class Normalised(Protocol):
    """What the images of a network have in common: see :class:`fastdarts.tasks.images.data.ImageData`."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Mirrored(Normalised, Protocol):
    """The same with `flip`: whether training may mirror the images."""

    flip: bool


def as_it_is(image: Tensor) -> Tensor:
    """The image; a function of a module, as it travels to the processes that prepare images."""
    return image


def is_big(size: tuple[int, int]) -> bool:
    """Whether images of `size` (height, width) take the ImageNet recipe and not that of CIFAR: from 96 on."""
    return max(size) >= 96


class CropAndFlip(nn.Module):
    """A random window of `size` (height, width) of an image [C, H, W] with black borders of `padding` (rows, columns),
    mirrored half of the time if `flip`.

    Numbers drawn and bits are those of torchvision's RandomCrop and RandomHorizontalFlip, whose calls cost more than
    the pixels: benchmarks/bench_images.py compares them.
    """

    def __init__(self, size: tuple[int, int], padding: tuple[int, int], flip: bool) -> None:
        super().__init__()
        self.size, self.padding, self.flip = tuple(size), tuple(padding), flip

    def forward(self, image: Tensor) -> Tensor:
        # where the window begins, in pixels of the image: left of it and above there is border
        spans = [_window(*sides) for sides in zip(image.shape[-2:], self.size, self.padding, strict=True)]
        pixels = image.numpy()
        out = np.zeros((*pixels.shape[:-2], *self.size), pixels.dtype)
        (rows, into_rows), (columns, into_columns) = spans
        out[..., into_rows, into_columns] = pixels[..., rows, columns]
        if self.flip and torch.rand(1).item() < 0.5:
            out = out[..., ::-1].copy()
        return torch.from_numpy(out)


def _window(side: int, size: int, padding: int) -> tuple[slice, slice]:
    """What a random window takes of one side of an image, and its place there."""
    free = side + 2 * padding - size
    if free < 0:
        raise ValueError(f"a window of {size} pixels does not fit into {side} with {padding} on either side")
    begin = (int(torch.randint(free + 1, ())) if free else 0) - padding
    first, last = max(0, begin), min(side, begin + size)
    return slice(first, last), slice(first - begin, last - begin)


class Cutout(nn.Module):
    """Sets one square of a normalised image [C, H, W] to 0: rows and columns from c - length // 2 to below
    c + length // 2 around a uniformly random pixel, clipped at the border (DeVries and Taylor 2017)."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.half = length // 2

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
        image = image.clone()
        image[..., max(0, y - self.half) : y + self.half, max(0, x - self.half) : x + self.half] = 0
        return image


@dataclass(frozen=True)
class Mixing:
    r"""Mixup and CutMix by torchvision, drawn by torch's CPU generator.

    Of a batch with images x and labels y, mixup makes :math:`\lambda x_i + (1 - \lambda) x_j`, and of the labels as
    one-hot vectors the same (Zhang et al. 2018). CutMix puts a rectangle of :math:`x_j` into :math:`x_i`, and the
    labels are shares of the area (Yun et al. 2019). One :math:`\lambda` of Beta(alpha, alpha) counts for a batch; i is
    mixed with the image before it, j = i - 1.

    mixup, cutmix: alphas, 0 for without. With both, each batch has one of them, equally often.
    classes: how many there are.

    ``mixing(x, y)`` takes float32 [B, C, H, W] and int64 [B], and gives float32 [B, C, H, W] and [B, classes].

    >>> Mixing(mixup=0.2, cutmix=0.0, classes=10)(images, labels)[1].shape  # doctest: +SKIP
    torch.Size([32, 10])
    """

    mixup: float
    cutmix: float
    classes: int

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        kinds = (vision.v2.MixUp, self.mixup), (vision.v2.CutMix, self.cutmix)
        mixes = [kind(alpha=alpha, num_classes=self.classes) for kind, alpha in kinds if alpha]
        return (mixes[0] if len(mixes) == 1 else vision.v2.RandomChoice(mixes))(images, labels)


def train_transform(
    data: Mirrored,
    cutout_length: int = 0,
    *,
    cutout_prob: float = 1.0,
    jitter: bool = False,
    augment: Augmentation = "standard",
) -> vision.v2.Compose:
    """uint8 [C, H, W] to an augmented, normalised float32 image of `data.size`, by torch's CPU generator.

    The standard augmentation has two recipes. That of CIFAR pads by size // 8 (4 at 32), crops, and flips if
    `data.flip`. That of ImageNet, for big images, is a random resized crop, a flip if `data.flip`, and if `jitter` (as
    in the published evaluation, not the search) brightness, contrast and saturation by 0.4 and hue by 0.2. "trivial"
    and "rand" put torchvision's TrivialAugmentWide or RandAugment after crop and flip, in place of the jitter; "none"
    is :func:`eval_transform`. All end in Cutout if `cutout_length` (pixels) is not 0 (DARTS, Liu et al. 2019, appendix
    A), with probability `cutout_prob`. Raises FastdartsError for a negative `cutout_length`.

    >>> train_transform(data, augment="trivial")(image).shape  # doctest: +SKIP
    torch.Size([3, 32, 32])
    """
    if cutout_length < 0:
        raise FastdartsError(f"got cutout length {cutout_length}: give the side in pixels, or 0 for no cutout")
    steps = [*eval_transform(data).transforms] if augment == "none" else _drawn(data, jitter, augment)
    if cutout_length > 0:
        cutout = Cutout(cutout_length)
        steps.append(cutout if cutout_prob == 1 else vision.v2.RandomApply([cutout], cutout_prob))
    return vision.v2.Compose(steps)


def _drawn(data: Mirrored, jitter: bool, augment: Augmentation) -> list[nn.Module]:
    """What an augmentation draws, and the normalisation."""
    height, width = data.size
    steps: list[nn.Module] = []
    if is_big(data.size):
        steps += [vision.v2.RandomResizedCrop(data.size), *[vision.v2.RandomHorizontalFlip()] * data.flip]
    else:
        steps.append(CropAndFlip(data.size, (height // 8, width // 8), data.flip))
    if augment != "standard":
        steps.append(vision.v2.TrivialAugmentWide() if augment == "trivial" else vision.v2.RandAugment())
    elif jitter and is_big(data.size):
        steps.append(vision.v2.ColorJitter(0.4, 0.4, 0.4, 0.2))
    return steps + _normalise(data)


def eval_transform(data: Normalised) -> vision.v2.Compose:
    """uint8 [C, H, W] to a normalised float32 image of `data.size`; a big one is the middle of the image
    resized to 256/224 of that (for ImageNet 224 of 256 pixels)."""
    if not is_big(data.size):
        return vision.v2.Compose(_normalise(data))
    height, width = (round(side * 256 / 224) for side in data.size)
    return vision.v2.Compose([*resize_and_crop((height, width), data.size), *_normalise(data)])


def transform_of_any(data: Normalised) -> Callable[[Tensor], Tensor]:
    """The function that makes a normalised float32 image of `data.size` of an image [C, H, W] of any size.

    The image is uint8, or floating point with values in 0..1. An image that already fits is given what
    :func:`eval_transform` gives it. Any other small one is first resized along its shorter side, and cropped.
    """
    plain = eval_transform(data)
    fit = vision.v2.Compose(resize_and_crop(data.size, data.size))

    def transform(image: Tensor) -> Tensor:
        fits = is_big(data.size) or tuple(image.shape[-2:]) == tuple(data.size)
        return plain(image if fits else fit(image))

    return transform


def resize_and_crop(size: tuple[int, int], kept: tuple[int, int]) -> list[nn.Module]:
    """Resizes to `size`, only the shorter side if that is square, and keeps the middle."""
    return [vision.v2.Resize(size[0] if size[0] == size[1] else size, antialias=True), vision.v2.CenterCrop(kept)]


def shared_end(transform: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """A transform in two parts: what each image needs on its own, and what then does the same to a whole batch.

    The second part is the normalisation a transform ends in, which draws nothing and works pixel by pixel: a batch
    gets the same bits as its images one by one. For 64 small images that takes a tenth of the time, by
    benchmarks/bench_images.py.
    """
    steps = list(transform.transforms) if type(transform) is vision.v2.Compose else [transform]
    end = len(steps)
    while end and isinstance(steps[end - 1], vision.v2.ToDtype | vision.v2.Normalize):
        end -= 1
    alone, shared = (vision.v2.Compose(part) if part else as_it_is for part in (steps[:end], steps[end:]))
    return alone, shared


def _normalise(data: Normalised) -> list[nn.Module]:
    return [vision.v2.ToDtype(torch.float32, scale=True), vision.v2.Normalize(data.mean, data.std)]
