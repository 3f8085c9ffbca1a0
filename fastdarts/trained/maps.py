"""What a trained network says of each pixel of an image of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.tasks.dense.paint import of_classes, of_numbers
from fastdarts.trained.folder import Facts
from fastdarts.trained.inputs import Asked

VIEWS = 6
"""Channels of images that are two views in colour."""


@dataclass(frozen=True)
class Map:
    """What a network says of the pixels of an image.

    image: the path of the image, of two views that of the left one, or "image N".
    names: what the numbers are: "disparity", or the names of the classes.
    values: [H, W] as large as the image, on the CPU. Disparities are pixels in float32, classes their numbers in uint8.
    """

    image: str
    names: tuple[str, ...]
    values: Tensor

    @property
    def has_classes(self) -> bool:
        """Whether the values are classes."""
        return not self.values.is_floating_point()

    def summary(self) -> dict[str, float]:
        """The least, mean and largest value, or the share of the pixels in percent of each class."""
        if self.has_classes:
            shares = torch.bincount(self.values.flatten().long(), minlength=len(self.names)) / self.values.numel()
            return dict(zip(self.names, (100 * shares).tolist(), strict=True))
        return {"min": self.values.min().item(), "mean": self.values.mean().item(), "max": self.values.max().item()}

    def picture(self) -> Tensor:
        """The map in colours, uint8 [H, W, 3]; of disparities the largest one is yellow."""
        if self.has_classes:
            return of_classes(self.values.long(), len(self.names))
        return of_numbers(self.values, self.values.max().item())


def joined_views(asked: Sequence[Asked], facts: Facts) -> Iterator[tuple[str, Tensor]]:
    """Of each image its name and its pixels [C, H, W]; of two views those of the left one, and both after one another.

    Left views come first in ``asked``, then as many right ones in the same order.

    Raises :class:`FastdartsError` for a view that is missing, or of another size than the other one.
    """
    if len(facts.mean) != VIEWS:
        yield from ((image.name, image.pixels()) for image in asked)
        return
    if len(asked) % 2:
        raise FastdartsError(
            f"got an odd number of images ({len(asked)}), but the network takes two views: give all left views, and "
            "then as many right ones in the same order"
        )
    half = len(asked) // 2
    for left, right in zip(asked[:half], asked[half:], strict=True):
        views = left.pixels(), right.pixels()
        if views[0].shape != views[1].shape:
            sizes = [f"{view.shape[1]}x{view.shape[2]}" for view in views]
            raise FastdartsError(
                f"{left.name} is {sizes[0]} and {right.name} is {sizes[1]}: expected two views of the same size, all "
                "left ones first"
            )
        yield left.name, torch.cat([_unit(view) for view in views])


def maps_of(model: nn.Module, facts: Facts, multiple: int, asked: Sequence[Asked]) -> Iterator[Map]:
    """A map of each image. Images are continued by their last pixels up to a ``multiple`` of pixels, and cut again."""
    some = next(model.parameters())
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (facts.mean, facts.std))
    for name, pixels in joined_views(asked, facts):
        height, width = pixels.shape[-2:]
        images = ((_unit(pixels) - mean) / std)[None].to(some.device, some.dtype)
        images = F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        found = model(images)[0, :, :height, :width].float().cpu()
        yield Map(name, facts.classes, found[0] if len(facts.classes) == 1 else found.argmax(0).byte())


def _unit(pixels: Tensor) -> Tensor:
    """Pixels in 0..1."""
    return pixels if pixels.is_floating_point() else pixels.float() / 255
