"""Pairs of views with exact disparity, drawn from surfaces: planes with a picture on each, one before the other.

A pair follows from a seed and its number alone. No files are written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

LAYERS = 5
SLOPE = 0.03
"""Largest change of the disparity of a plane from pixel to pixel."""


class Layer(NamedTuple):
    """A surface.

    picture: [H, W + margin, 3], in 0..1; column x is what is at x in the left view.
    centre, radii: of the ellipse that it fills, (y, x); radii None for everything.
    plane: c, a, b: a point at (x, y) of the left view has the disparity c + a (x - cx) + b (y - cy), of which (cy, cx)
    is the centre.
    """

    picture: np.ndarray
    centre: tuple[float, float]
    radii: tuple[float, float] | None
    plane: tuple[float, float, float]

    def disparity(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Of these points of the left view."""
        c, a, b = self.plane
        return c + a * (x - self.centre[1]) + b * (y - self.centre[0])

    def seen_from_right(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The x in the left view of what is at these points of the right one: x - d(x) is where it is seen."""
        c, a, b = self.plane
        return (x + c - a * self.centre[1] + b * (y - self.centre[0])) / (1 - a)

    def covers(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Whether these points of the left view are on it."""
        if self.radii is None:
            return np.ones(np.broadcast(y, x).shape, bool)
        return ((y - self.centre[0]) / self.radii[0]) ** 2 + ((x - self.centre[1]) / self.radii[1]) ** 2 <= 1

    def colours(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """At these rows and places, linear between pixels; beyond the picture its last column."""
        x = np.clip(x, 0, self.picture.shape[1] - 1)
        first = np.minimum(np.floor(x).astype(int), self.picture.shape[1] - 2)
        share = (x - first)[..., None]
        y = np.broadcast_to(y, x.shape)
        return self.picture[y, first] * (1 - share) + self.picture[y, first + 1] * share


class Pair(NamedTuple):
    """Two views [H, W, 3] in 0..1, the disparity [H, W] of the left one in pixels, and where it is seen in both."""

    left: np.ndarray
    right: np.ndarray
    disparity: np.ndarray
    valid: np.ndarray


def render(layers: Sequence[Layer], size: tuple[int, int]) -> Pair:
    """Both views of these surfaces, the last one in front.

    A point of the left view at x is at x - d in the right one. It is valid if it is there, and nothing is before it.
    """
    height, width = size
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    left, right = np.zeros((2, height, width, 3))
    disparity, owner, right_owner = np.zeros(size), np.zeros(size, int), np.full(size, -1)
    for number, layer in enumerate(layers):
        here = np.broadcast_to(layer.covers(y, x), size)
        left[here] = layer.colours(y, np.broadcast_to(x, size).astype(float))[here]
        disparity[here] = np.broadcast_to(layer.disparity(y, x), size)[here]
        owner[here] = number
        source = layer.seen_from_right(y, x)
        there = layer.covers(y, source)
        right[there] = layer.colours(y, source)[there]
        right_owner[there] = number
    at = x - disparity
    column = np.clip(np.rint(at), 0, width - 1).astype(int)
    valid = (at >= 0) & (right_owner[np.broadcast_to(y, size), column] == owner)
    return Pair(left, right, disparity, valid)


def drawn(
    generator: np.random.Generator,
    size: tuple[int, int],
    most: float,
    pictures: Sequence[np.ndarray] = (),
    slope: float = SLOPE,
) -> list[Layer]:
    """Surfaces at random, from back to front: disparities from 0 to ``most`` pixels.

    pictures: photographs [H, W, 3], uint8, of which windows are the surfaces; without any, random dots.
    """
    height, width = size
    layers = []
    for number, base in enumerate(np.sort(generator.uniform(1, most, LAYERS)) if most > 1 else [most] * LAYERS):
        centre = generator.uniform(0, height), generator.uniform(0, width)
        radii = generator.uniform(0.12, 0.45, 2) * size
        a, b = generator.uniform(-slope, slope, 2)
        reach = abs(a) * width + abs(b) * height  # by which the disparity of a point may differ from that of the centre
        scale = min(1.0, base / reach, (most - base) / reach) if reach else 0.0
        ahead = math.ceil((most + 1) / (1 - slope)) + math.ceil(slope * width)
        picture = _picture(generator, (height, width + ahead), pictures)
        plane = float(base), float(a * scale), float(b * scale)
        layers.append(Layer(picture, centre, tuple(radii) if number else None, plane))
    return layers


def _picture(generator: np.random.Generator, size: tuple[int, int], pictures: Sequence[np.ndarray]) -> np.ndarray:
    """A window of a photograph, or dots of several sizes: [H, W, 3] in 0..1."""
    height, width = size
    if pictures:
        photograph = pictures[generator.integers(len(pictures))]
        top, left = (
            generator.integers(max(1, side - own + 1)) for side, own in zip(photograph.shape, size, strict=False)
        )
        window = photograph[top : top + height, left : left + width] / 255
        short = height - window.shape[0], width - window.shape[1]
        return np.pad(window, ((0, short[0]), (0, short[1]), (0, 0)), mode="reflect") if any(short) else window
    found = np.zeros((height, width, 3))
    for pixels in (1, 2, 6):
        rows, columns = -(-height // pixels), -(-width // pixels)
        dots = generator.uniform(0, 1, (rows, columns, 3))
        found += dots.repeat(pixels, 0).repeat(pixels, 1)[:height, :width] / 3
    return found


class SyntheticPairs(Dataset):
    """Pairs that are drawn when they are asked for.

    Items are ([7, H, W], 0), float32: the left view, the right one, and the disparity in pixels, which is infinite
    where it is not known. ``first`` numbers the first pair; no two numbers give the same pair.
    """

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        most: float,
        seed: int,
        first: int = 0,
        pictures: Sequence[np.ndarray] = (),
    ):
        self.count, self.size, self.most, self.seed, self.first, self.pictures = (
            count,
            size,
            most,
            seed,
            first,
            pictures,
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = np.random.default_rng((self.seed, self.first + index))
        pair = render(drawn(generator, self.size, self.most, self.pictures), self.size)
        disparity = np.where(pair.valid, pair.disparity, np.inf)[..., None]
        joint = np.concatenate([pair.left, pair.right, disparity], 2, dtype=np.float32)
        return torch.from_numpy(joint).permute(2, 0, 1).contiguous(), 0
