"""Colours as lightness and two axes of colour (CIE Lab, D65), and the 313 bins of the latter."""

from __future__ import annotations

import torch
from torch import Tensor

XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""From linear sRGB to XYZ."""
WHITE = (0.95047, 1.0, 1.08883)
ROWS = {
    -90: (50, 90), -80: (20, 90), -70: (0, 90), -60: (-20, 90), -50: (-30, 100), -40: (-40, 100), -30: (-50, 100),
    -20: (-50, 100), -10: (-60, 100), 0: (-70, 100), 10: (-80, 90), 20: (-80, 90), 30: (-90, 90), 40: (-100, 90),
    50: (-100, 80), 60: (-110, 80), 70: (-110, 80), 80: (-110, 70), 90: (-110, 70), 100: (-90, 0),
}  # fmt: skip
"""For each a, the first and the last b of the bins, which are 10 apart. These are the 313 that Zhang et al. published
("Colorful Image Colorization", ECCV 2016). 309 of them are the corners of the squares of the grid that hold an sRGB
colour of 8 bits. The other four, of which no rule is known, are beside these."""
STEP, EDGE = 10, 11


def bins() -> Tensor:
    """The centres (a, b) of the bins, int64 [313, 2], in the order of a and then of b."""
    return torch.tensor([(a, b) for a, (first, last) in ROWS.items() for b in range(first, last + 1, STEP)])


def table() -> Tensor:
    """The number of the bin with the centre 10 * (i - 11, j - 11) at place (i, j), int64 [23, 23]; -1 without one."""
    found = torch.full((2 * EDGE + 1, 2 * EDGE + 1), -1)
    centres = bins() // STEP + EDGE
    found[centres[:, 0], centres[:, 1]] = torch.arange(len(centres))
    return found


def lab(image: Tensor) -> Tensor:
    """Lightness in 0..100 and the axes a and b of an sRGB image in 0..1, [3, H, W].

    The formulas and constants are those of scikit-image.

    >>> import torch
    >>> lab(torch.ones(3, 1, 1)).flatten()[0]
    tensor(100.)
    """
    linear = torch.where(image > 0.04045, ((image + 0.055) / 1.055).clamp(min=0) ** 2.4, image / 12.92)
    share = torch.tensordot(image.new_tensor(XYZ), linear, 1) / image.new_tensor(WHITE).view(3, 1, 1)
    f = torch.where(share > 0.008856, share.clamp(min=0) ** (1 / 3), 7.787 * share + 16 / 116)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest_bins(ab: Tensor, numbers: Tensor) -> Tensor:
    """The bin of each pixel of [2, H, W], int64 [H, W]: the one whose centre is nearest; ``numbers`` is :func:`table`.

    The centres are on a grid of which every sRGB colour is nearest to one that is a bin.
    """
    places = (ab / STEP).round().long() + EDGE
    return numbers[places[0], places[1]]
