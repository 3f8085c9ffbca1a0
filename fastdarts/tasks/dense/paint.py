"""Pictures of maps: numbers along a scale of colours, classes in a colour each."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import torch
from torch import Tensor

SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""From small to large numbers, of growing lightness."""
UNKNOWN = (0, 0, 0)


def of_numbers(numbers: Tensor, most: float) -> Tensor:
    """Numbers [H, W] from 0 to ``most`` as colours, uint8 [H, W, 3]; infinite ones, which are not known, are black."""
    known = numbers.isfinite()
    colours = torch.tensor(SCALE, dtype=torch.float32)
    place = torch.where(known, numbers, 0).clamp(0, most) / max(most, 1e-6) * (len(SCALE) - 1)
    first = place.floor().long().clamp(max=len(SCALE) - 2)
    share = (place - first)[..., None]
    found = colours[first] * (1 - share) + colours[first + 1] * share
    return torch.where(known[..., None], found, torch.tensor(UNKNOWN, dtype=torch.float32)).round().byte()


def of_classes(numbers: Tensor, count: int) -> Tensor:
    """Classes [H, W] of ``count`` as colours, uint8 [H, W, 3]; numbers below 0, which are not known, are black."""
    hues = [(0.618 * k % 1, 0.55 + 0.4 * (k % 2), 0.95 - 0.25 * (k % 3 == 2)) for k in range(count)]
    colours = [tuple(round(255 * part) for part in colorsys.hsv_to_rgb(*hue)) for hue in hues]
    return torch.tensor([*colours, UNKNOWN], dtype=torch.uint8)[torch.where(numbers < 0, count, numbers)]


def side_by_side(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures [H, W, 3], grey ones [H, W, 1] too, in a row with a white line between them."""
    height = pictures[0].shape[0]
    line = torch.full((height, 2, 3), 255, dtype=torch.uint8)
    parts = [part for picture in pictures for part in (picture.expand(-1, -1, 3), line)]
    return torch.cat(parts[:-1], 1)
