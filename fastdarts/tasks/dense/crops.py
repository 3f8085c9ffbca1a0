"""Parts of images with their targets: which size they have, test images cut into parts, training images augmented.

An image and its target travel as one tensor [C + K, H, W], so that both are cut and flipped alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastdarts.errors import FastdartsError
from fastdarts.tasks.dense.settings import MULTIPLE, MapConfig
from fastdarts.tasks.images.pictures import shown

Size = tuple[int, int]


def chosen_size(sizes: Mapping[str, Size], config: MapConfig) -> Size:
    """Height and width of the parts that are learned, of images of these ``sizes`` by name.

    Raises :class:`FastdartsError` if images differ and the settings name no size, and for an image that is smaller.
    """
    counts = Counter(sizes.values())
    named = config.crop_height, config.crop_width
    if len(counts) > 1 and None in named:
        first, one = next(iter(sizes.items()))
        second, other = next((name, size) for name, size in sizes.items() if size != one)
        raise FastdartsError(
            f"{shown(first)} is {one[0]}x{one[1]} and {shown(second)} {other[0]}x{other[1]}: give --crop-height and "
            "--crop-width, as images of different sizes are learned in parts of one size"
        )
    smallest = tuple(min(size[k] for size in counts) for k in (0, 1))
    height, width = (own or side // MULTIPLE * MULTIPLE for own, side in zip(named, smallest, strict=True))
    for name, size in sizes.items():
        wanted = height or MULTIPLE, width or MULTIPLE
        if size[0] < wanted[0] or size[1] < wanted[1]:
            raise FastdartsError(
                f"{shown(name)} is {size[0]}x{size[1]}: expected {wanted[0]}x{wanted[1]} pixels or more; "
                f"{'give' if None in named else 'lower'} --crop-height and --crop-width, or remove it"
            )
    return height, width


class Tiles(Dataset):
    """The parts of ``size`` into which the items of ``images`` are cut, from the upper left corner, without overlap.

    ``sizes``: those of the images, one for each.
    """

    def __init__(self, images: Dataset, sizes: Sequence[Size], size: Size):
        self.images, self.size = images, size
        self.places = [
            (index, top, left)
            for index, own in enumerate(sizes)
            for top in range(0, own[0] - size[0] + 1, size[0])
            for left in range(0, own[1] - size[1] + 1, size[1])
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number, top, left = self.places[index]
        joint, label = self.images[number]
        return joint[:, top : top + self.size[0], left : left + self.size[1]], label


def constants(items: Iterable[Tensor], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each of the first ``channels`` of these tensors [C + K, H, W]."""
    total = torch.zeros(2, channels, dtype=torch.float64)
    pixels = 0
    for joint in items:
        numbers = joint[:channels].double().flatten(1)
        total += torch.stack([numbers.sum(1), numbers.square().sum(1)])
        pixels += numbers.shape[1]
    mean = total[0] / pixels
    std = (total[1] / pixels - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


@dataclass(frozen=True)
class Normalise:
    """The middle of an item of ``size``, its image normalised: float32 [C + K, H, W]."""

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, joint: Tensor) -> Tensor:
        top, left = ((side - own) // 2 for side, own in zip(joint.shape[-2:], self.size, strict=True))
        return self.normalised(self.cut(joint, top, left))

    def cut(self, joint: Tensor, top: int, left: int) -> Tensor:
        """The part whose upper left corner is there."""
        return joint[:, top : top + self.size[0], left : left + self.size[1]]

    def normalised(self, joint: Tensor) -> Tensor:
        """``joint`` with a normalised image."""
        image, target = joint[: len(self.mean)], joint[len(self.mean) :]
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return torch.cat([(image - mean) / std, target])


@dataclass(frozen=True)
class Augment(Normalise):
    """A random part of ``size``, flipped top and bottom in half of the cases, of other brightness and contrast.

    Left and right are never flipped, as two views would then be in each other's place. Each of ``views`` is changed by
    itself, about as the others: contrast by up to 20 % and 5 %, brightness by up to 0.1 and 0.02, times ``strength``.
    """

    views: int = 1
    strength: float = 1.0

    def __call__(self, joint: Tensor) -> Tensor:
        top, left = (
            int(torch.randint(side - own + 1, ())) for side, own in zip(joint.shape[-2:], self.size, strict=True)
        )
        joint, flips = self.cut(joint, top, left), bool(torch.rand(()) < 0.5)
        draws = 2 * torch.rand(2, 1 + self.views) - 1
        contrast = 1 + self.strength * (0.2 * draws[0, :1] + 0.05 * draws[0, 1:])
        brightness = self.strength * (0.1 * draws[1, :1] + 0.02 * draws[1, 1:])
        joint = joint.flip(1) if flips else joint
        image, target = joint[: len(self.mean)], joint[len(self.mean) :]
        views = image.unflatten(0, (self.views, -1))
        changed = (views - 0.5) * contrast.view(-1, 1, 1, 1) + 0.5 + brightness.view(-1, 1, 1, 1)
        return self.normalised(torch.cat([changed.clamp(0, 1).flatten(0, 1), target]))


@dataclass(frozen=True)
class Divide:
    """Divides an item into the image, its first ``channels``, and the target."""

    channels: int

    def __call__(self, joint: Tensor, label: Any) -> tuple[Tensor, Tensor]:
        """[C, H, W] and [K, H, W]."""
        return joint[: self.channels].contiguous(), joint[self.channels :].contiguous()
