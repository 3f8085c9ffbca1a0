"""The edges of a case of mixed_op as modules of the public code, in plain PyTorch: truth and peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn as nn
import torch.nn.functional as F

from fastdarts.functional import MixedOpResult
from fastdarts.kernels.mixed_op.noise import dropout_factors, limit_of, standard_normal
from fastdarts.nn.operations import OPS, DilConv, FactorizedReduce, Identity, ReLUConvBN

if TYPE_CHECKING:
    from benchmarks.cases import MixedOpCase


SEEDS = (0, -1, 0x123456789ABCDEF0)
LIMITS = tuple(map(limit_of, (0.4, 0.7, 0.05)))


def seeds_of(edges: Sequence[Sequence[str]]) -> list[int]:
    """The seeds of all candidates that draw, each limit behind its own."""
    drawing = [name for names in edges for name in names if name in ("noise", "dropped_skip")]
    numbers = zip(drawing, SEEDS, LIMITS, strict=False)
    return [number for name, *both in numbers for number in both[: 1 + (name == "dropped_skip")]]


class EagerEdges(nn.Module):
    """The candidates as modules of the public code; gain and offset are applied after every BatchNorm."""

    def __init__(self, case: MixedOpCase):
        super().__init__()
        self.channels = case.outputs or case.shape[1] // case.partial
        self.partial, self.stride = case.partial, case.stride
        self.branches = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(self._layers(name, case)) for name in names) for names in case.edges
        )
        rows = [(row is branch[-1], row) for edge in self.branches for branch in edge for row in branch if _is_row(row)]
        drawing = [row for _, row in rows if isinstance(row, Noise | DroppedSkip)]
        for row, seed, limit in zip(drawing, SEEDS, LIMITS, strict=False):
            row.seed, row.limit = seed, limit
        self.middle = [not last for last, _ in rows]
        self.norms = [row for _, row in rows]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = case.eps, 1.0

    def _layers(self, name: str, case: MixedOpCase) -> list[nn.Module]:
        c_in, c_out, stride = case.shape[1] // case.partial, self.channels, case.stride
        if name == "noise":
            return [Noise(stride)]
        if name == "dropped_skip":
            return [DroppedSkip()]
        if name == "relu_conv_1x1":
            return [*ReLUConvBN(c_in, c_out, 1, 1, 0, affine=False).op]
        if name.startswith("dil"):
            k, dilation = int(name[-1]), 1 if name.startswith("dil1") else 2
            return [*DilConv(c_in, c_out, k, stride, dilation * (k - 1) // 2, dilation, affine=False).op]
        op = (
            FactorizedReduce(c_in, c_out, False)
            if (name, stride) == ("skip_connect", 2)
            else OPS[name](c_in, stride, False)
        )
        if isinstance(op, FactorizedReduce):
            norm, op.bn = op.bn, nn.Identity()
            return [op, norm]
        if isinstance(op, Identity):
            return [op]
        return [*op.op] if name.startswith("sep") else [op, nn.BatchNorm2d(c_in, affine=False)]

    def forward(self, x, gain, offset, base, running, bypass) -> MixedOpResult:
        if running:
            for norm, mean, var in zip(self.norms, *running, strict=True):
                if isinstance(norm, nn.BatchNorm2d):
                    norm.running_mean, norm.running_var = mean, var
        self.train(running is None)
        x, past = x.split([self.channels, x.shape[1] - self.channels], 1) if self.partial > 1 else (x, None)
        past = F.max_pool2d(past, 2, 2) if self.partial > 1 and self.stride == 2 else past
        out, row = [0] * len(self.branches) if self.partial > 1 or not base else list(base), 0
        for e, edge in enumerate(self.branches):
            for branch in edge:
                y = x
                for layer in branch:
                    y = layer(y)
                    if _is_row(layer):
                        y = gain[row].view(-1, 1, 1) * y
                        y = (y if offset is None else y + offset[row].view(-1, 1, 1)).to(x.dtype)
                        row += 1
                out[e] = out[e] + y
            if self.partial > 1:
                y = F.channel_shuffle(torch.cat([out[e], (bypass[e] * past).to(x.dtype)], 1), self.partial)
                out[e] = base[e] + y if base else y
        zero, one = torch.zeros_like(gain[0]), torch.ones_like(gain[0])
        mean, var = (
            torch.stack([getattr(norm, name, none).to(gain.dtype) for norm in self.norms])
            for name, none in (("running_mean", zero), ("running_var", one))
        )
        return MixedOpResult(out, mean, var, [])


class Noise(nn.Module):
    """The numbers of a seed in the shape of the output; like a skip connection, it has a row and no statistics."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride, self.seed = stride, 0

    def forward(self, x):
        n, channels, *size = x[:, :, :: self.stride, :: self.stride].shape
        wide = torch.promote_types(x.dtype, torch.float32)
        seed = torch.tensor(self.seed, device=x.device)
        return standard_normal(seed, (n, *size, channels), wide).permute(0, 3, 1, 2)


class DroppedSkip(nn.Module):
    """The state without the elements that a seed and a limit drop."""

    seed = limit = 0

    def forward(self, x):
        n, channels, *size = x.shape
        wide = torch.promote_types(x.dtype, torch.float32)
        factors = dropout_factors(torch.tensor(self.seed, device=x.device), self.limit, (n, *size, channels), wide)
        return (x * factors.permute(0, 3, 1, 2)).to(x.dtype)


def _is_row(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.BatchNorm2d, Identity, Noise, DroppedSkip))
