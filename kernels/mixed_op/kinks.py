"""The kinks of mixed_op: its activation pattern (ReLU masks, max-pool positions), and the bits in which it is kept.

The reference decides, notes or repeats it here; contract.py says where each bit stands.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NO_KINKS = "the Triton kernels neither note nor keep kinks"


class Decisions:
    """What ReLUs and the max pool decide in the reference: by themselves, noting it, or as they are told."""

    def __init__(self, kinks: Sequence[Tensor], note: bool):
        self._told, self._note = [*kinks], note
        self._noted: dict[int, Tensor] = {}

    def relu(self, x: Tensor, place: int) -> Tensor:
        """ReLU(x), `place` being that of its bits among the kinks."""
        if self._told:
            return x.masked_fill(~unpack(self._told[place], x.shape[1]), 0)
        if self._note and place not in self._noted:
            self._noted[place] = pack(~(x.detach() <= 0))
        return F.relu(x)

    def max_pool(self, x: Tensor, stride: int) -> Tensor:
        """The largest of each 3×3 window, padding 1."""
        width = x.shape[3]

        def corner(places: Tensor) -> tuple[Tensor, Tensor]:
            rows, columns = (torch.arange(side, device=x.device) * stride - 1 for side in places.shape[2:])
            return rows[:, None], columns

        if self._told:
            place = self._told[1].permute(0, 3, 1, 2).long()
            row, column = corner(place)
            at = (row + place // 3) * width + column + place % 3
            return x.flatten(2).gather(2, at.flatten(2)).view(place.shape)
        if not self._note:
            return F.max_pool2d(x, 3, stride, 1)
        out, at = F.max_pool2d(x, 3, stride, 1, return_indices=True)
        row, column = corner(at)
        place = 3 * (at // width - row) + at % width - column
        self._noted[1] = place.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return out

    def noted(self, count: int, device: torch.device) -> list[Tensor]:
        """The kinks in their order, `count` of them; none unless they were to be noted."""
        nothing = torch.empty(0, dtype=torch.uint8, device=device)
        return [self._noted.get(k, nothing) for k in range(count)] if self._note else []


def pack(mask: Tensor) -> Tensor:
    """bool [N, C, H, W] to bits [N, H, W, ⌈C/8⌉]."""
    rows = F.pad(mask.permute(0, 2, 3, 1), (0, -mask.shape[1] % 8)).unflatten(3, (-1, 8))
    return (rows << torch.arange(8, device=mask.device)).sum(4).to(torch.uint8)


def unpack(bits: Tensor, channels: int) -> Tensor:
    """bits [N, H, W, ⌈C/8⌉] to bool [N, C, H, W]."""
    rows = bits[..., None] >> torch.arange(8, device=bits.device, dtype=torch.uint8) & 1
    return rows.flatten(3)[..., :channels].permute(0, 3, 1, 2) != 0
