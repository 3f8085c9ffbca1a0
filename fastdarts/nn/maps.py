"""Maps of several scales that a network says of an image, as one tensor, and maps of two views that are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.errors import FastdartsError

FINEST = 4
"""Pixels of an image, a side, that are one of the finest map."""


def pack(maps: Sequence[Tensor]) -> Tensor:
    """Maps [N, K, h, w] of several scales, the finest first, one behind the other: [N, sum of K h w].

    >>> pack([torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 2, 2)]).shape
    torch.Size([2, 20])
    """
    return torch.cat([m.flatten(1) for m in maps], 1)


def unpack(packed: Tensor, channels: int, size: Sequence[int]) -> list[Tensor]:
    """The maps [N, ``channels``, h, w] that :func:`pack` took, of images of ``size``; the finest has a quarter of their
    height and width, each further one half of the one before.

    Raises :class:`FastdartsError` if ``packed`` does not hold such maps.
    """
    maps, start, (height, width) = [], 0, (side // FINEST for side in size)
    length = packed.shape[1] if packed.dim() == 2 else 0
    while start < length and min(height, width) > 0:
        end = start + channels * height * width
        maps.append(packed[:, start:end])
        if end <= length:
            maps[-1] = maps[-1].reshape(packed.shape[0], channels, height, width)
        start, height, width = end, height // 2, width // 2
    if start != length or not maps:
        raise FastdartsError(
            f"got outputs of shape {[*packed.shape]}: expected maps of {channels} channels, the finest of "
            f"{size[0] // FINEST}x{size[1] // FINEST} and each further one half as large"
        )
    return maps


def finest(packed: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """The finest of the maps at the size of the image, bilinearly: [N, ``channels``, H, W]."""
    return resized(unpack(packed, channels, size)[0], size)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x`` [N, C, h, w] at another height and width, bilinearly, without corners on corners."""
    return x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, tuple(size), mode="bilinear")


def above_zero(x: Tensor) -> Tensor:
    """``x`` where it is above 0, else 0; its gradient is that of ``x`` everywhere.

    A prediction that has fallen below 0 at all pixels would have no gradient otherwise, and stay there for ever.

    >>> above_zero(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return x - x.detach().clamp(max=0)


def correlation(left: Tensor, right: Tensor, reach: int) -> Tensor:
    r"""How alike each place of the left view is to places of the same row of the right one.

    .. math:: c_{n,\,d + \mathrm{reach},\,y,\,x} = \frac{1}{C} \sum_k left_{n,k,y,x}\, right_{n,k,y,x+d},
        \qquad |d| \le \mathrm{reach}

    Outside of the view the right one is 0.

    Args:
        left, right: [N, C, H, W] of one dtype.
        reach: The largest displacement, in places of the maps.

    Returns:
        [N, 2 reach + 1, H, W].

    Source: Dosovitskiy et al. 2015 (FlowNet), section 3, in one dimension as in DispNetC (Mayer et al. 2016).

    >>> correlation(torch.ones(1, 4, 2, 3), torch.ones(1, 4, 2, 3), 1)[0, :, 0, 0]
    tensor([0., 1., 1.])
    """
    n, channels, height, width = left.shape
    # All products of a row in one go. Their diagonals become columns: rows of `width + 2 reach` numbers are read
    # as rows of one more, so that each begins one place further to the right. No gradient is added up atomically.
    products = left.permute(0, 2, 3, 1) @ right.permute(0, 2, 1, 3) / channels
    padded = F.pad(products, (reach, reach)).flatten(2)
    skewed = F.pad(padded, (0, width)).view(n, height, width, width + 2 * reach + 1)
    return skewed[..., : 2 * reach + 1].permute(0, 3, 1, 2).contiguous()


def warped(right: Tensor, disparity: Tensor) -> Tensor:
    r"""The right view as it is seen from the left: :math:`w_{y,x} = right_{y,\,x - d_{y,x}}`, linear between pixels.

    Args:
        right: [N, C, H, W].
        disparity: [N, 1, H, W] in pixels, positive where a point is further left in the right view.

    Returns:
        [N, C, H, W]; what is outside of the right view is its border.

    >>> warped(torch.arange(4.0).view(1, 1, 1, 4), torch.ones(1, 1, 1, 4))
    tensor([[[[0., 0., 1., 2.]]]])
    """
    width = right.shape[-1]
    at = (torch.arange(width, device=right.device, dtype=disparity.dtype) - disparity[:, 0]).clamp(0, width - 1)
    first = at.detach().floor().clamp(max=max(width - 2, 0))
    share, column = (at - first)[:, None], first.long()[:, None].expand(-1, right.shape[1], -1, -1)
    second = (column + 1).clamp(max=width - 1)
    return right.gather(3, column) * (1 - share) + right.gather(3, second) * share


def blocks(target: Tensor, valid: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The mean of the valid numbers in each block of a coarser map, and where there are any.

    Args:
        target: [N, K, H, W], floating point.
        valid: [N, 1, H, W], bool.
        size: Height and width of the coarser map, divisors of H and W.

    Returns:
        [N, K, h, w], 0 where a block has no valid number, and bool [N, 1, h, w].
    """
    step = target.shape[-2] // size[0], target.shape[-1] // size[1]
    area = math.prod(step)
    total = F.avg_pool2d(torch.where(valid, target, 0), step) * area
    count = F.avg_pool2d(valid.to(target), step) * area
    return total / count.clamp(min=1), count > 0.5
