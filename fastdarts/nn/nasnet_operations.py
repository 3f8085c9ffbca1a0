"""The operations of NASNet and AmoebaNet as their public code has them (Zoph et al. 2018; Real et al. 2019).

They differ from those of DARTS in three things. Dense convolutions are bottlenecks. A skip connection of stride 2 is
one 1x1 convolution. An operation may read a state that has another number of channels than the cell.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.nn.operations import OPS, DilConv, Identity, ReLUConvBN, SepConv, register_operation

Size = tuple[int, int]


class Reduce(nn.Module):
    """Two shifted halves of channels: BatchNorm(concat(conv_1(x), conv_2(x[1:, 1:]))), without a ReLU.

    [N, C_in, H, W] -> [N, C_out, ceil(H/2), ceil(W/2)]; both convolutions are 1x1 of stride 2. An odd ``C_out`` gives
    the second one more channel.
    """

    def __init__(self, C_in: int, C_out: int, affine: bool = True):
        super().__init__()
        self.conv_1 = nn.Conv2d(C_in, C_out // 2, 1, stride=2, bias=False) if C_out > 1 else None
        self.conv_2 = nn.Conv2d(C_in, C_out - C_out // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(C_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = x.contiguous() if x.shape[1] < 8 and x.device.type == "cpu" else x  # as in FactorizedReduce
        shifted = F.pad(x[:, :, 1:, 1:], (0, width % 2, 0, height % 2))
        halves = [self.conv_2(shifted)] if self.conv_1 is None else [self.conv_1(x), self.conv_2(shifted)]
        return self.bn(torch.cat(halves, dim=1))


class SmallMaxPool(nn.Module):
    """2x2 max pooling whose window begins at its pixel: [N, C, H, W] -> [N, C, ceil(H/stride), ceil(W/stride)]."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        right, below = (side % 2 if self.stride == 2 else 1 for side in (x.shape[-1], x.shape[-2]))
        return F.max_pool2d(F.pad(x, (0, right, 0, below), value=float("-inf")), 2, self.stride)


class Bottleneck(nn.Module):
    """A 1x1 convolution to ``C_mid`` channels, convolutions of these, and a 1x1 convolution to ``C_out`` channels.

    Each is ReLU, convolution, BatchNorm. Of ``kernels`` [(height, width), ...] each strides along its own long sides.
    """

    def __init__(
        self,
        C_in: int,
        C_out: int,
        C_mid: int,
        kernels: tuple[Size, ...],
        stride: int,
        dilation: int = 1,
        affine: bool = True,
    ):
        super().__init__()
        middle = max(C_mid, 1)
        layers = [*_layer(C_in, middle, (1, 1), (1, 1), 1, affine)]
        for size in kernels:
            strides = tuple(stride if side > 1 else 1 for side in size)
            layers += _layer(middle, middle, size, strides, dilation, affine)
        self.op = nn.Sequential(*layers, *_layer(middle, C_out, (1, 1), (1, 1), 1, affine))

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def _layer(C_in: int, C_out: int, kernel: Size, stride: Size, dilation: int, affine: bool) -> list[nn.Module]:
    padding = tuple(dilation * (side // 2) for side in kernel)
    conv = nn.Conv2d(C_in, C_out, kernel, stride, padding, dilation, bias=False)
    return [nn.ReLU(), conv, nn.BatchNorm2d(C_out, affine=affine)]


Build = Callable[[int, int, int, bool], nn.Module]
"""A builder ``(C_in, C_out, stride, affine) -> module``."""


def _identity(C_in: int, C_out: int, stride: int, affine: bool) -> nn.Module:
    same = stride == 1 and C_in == C_out
    return Identity() if same else ReLUConvBN(C_in, C_out, 1, stride, 0, affine)


def _skip(C_in: int, C_out: int, stride: int, affine: bool) -> nn.Module:
    return Reduce(C_in, C_out, affine) if stride == 2 else _identity(C_in, C_out, 1, affine)


def _separable(kernel: int) -> Build:
    return lambda C_in, C, stride, affine: SepConv(C_in, C, kernel, stride, kernel // 2, affine, C_mid=C)


def _pool(make: Callable[[int], nn.Module]) -> Build:
    def build(C_in: int, C: int, stride: int, affine: bool) -> nn.Module:
        pool = make(stride)
        if C_in == C:
            return pool
        return nn.Sequential(pool, nn.Conv2d(C_in, C, 1, bias=False), nn.BatchNorm2d(C, affine=affine))

    return build


def _max_pool(kernel: int) -> Build:
    return _pool(lambda stride: nn.MaxPool2d(kernel, stride, padding=kernel // 2))


BUILDERS: dict[str, Build] = {
    "identity": _identity,
    "skip_connect": _skip,
    "bottleneck_1x3_3x1": lambda C_in, C, s, a: Bottleneck(C_in, C, 3 * C // 8, ((1, 3), (3, 1)), s, affine=a),
    "bottleneck_1x7_7x1": lambda C_in, C, s, a: Bottleneck(C_in, C, C // 4, ((1, 7), (7, 1)), s, affine=a),
    "bottleneck_3x3": lambda C_in, C, s, a: Bottleneck(C_in, C, C // 4, ((3, 3),), s, affine=a),
    "bottleneck_dil_3x3": lambda C_in, C, s, a: Bottleneck(C_in, C, C // 4, ((3, 3),), s, 2, a),
    "avg_pool_3x3": _pool(lambda stride: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)),
    "max_pool_2x2": _pool(SmallMaxPool),
    "max_pool_3x3": _max_pool(3),
    "max_pool_5x5": _max_pool(5),
    "max_pool_7x7": _max_pool(7),
    "conv_1x1": lambda C_in, C, stride, affine: ReLUConvBN(C_in, C, 1, stride, 0, affine),
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "sep_conv_7x7": _separable(7),
    "dil_conv_3x3": lambda C_in, C, stride, affine: DilConv(C_in, C, 3, stride, 2, 2, affine),
}
"""Builders ``(C_in, C_out, stride, affine) -> module`` of the networks of these spaces, by operation.

Those that DARTS does not have are candidates of supernets too. Skip connections of stride 2, called ``skip_connect``,
are those of ENAS: without a ReLU.
"""


def _candidate(build: Build) -> Callable[[int, int, bool], nn.Module]:
    return lambda C, stride, affine: build(C, C, stride, affine)


for _name, _build in BUILDERS.items():
    if _name not in OPS:
        register_operation(_name)(_candidate(_build))
