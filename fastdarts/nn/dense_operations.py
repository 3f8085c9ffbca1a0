"""The operations of networks that say maps of images, without BatchNorm (Saikia et al. 2019, "AutoDispNet").

Convolutions have a bias and are followed by a leaky ReLU, but for a prediction. A depthwise convolution and the 1x1
convolution behind it count as one: only the latter has a bias.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fastdarts.nn.operations import Identity, Zero

SLOPE = 0.1
"""Of the leaky ReLUs, below 0."""


def activated(*layers: nn.Module) -> nn.Sequential:
    """Layers with a leaky ReLU behind them."""
    return nn.Sequential(*layers, nn.LeakyReLU(SLOPE))


def convolution(C_in: int, C_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """[N, C_in, H, W] -> [N, C_out, ceil(H/stride), ceil(W/stride)]."""
    return activated(nn.Conv2d(C_in, C_out, kernel, stride, kernel // 2))


def upsampling(C_in: int, C_out: int) -> nn.Sequential:
    """A transposed 4x4 convolution: [N, C_in, H, W] -> [N, C_out, 2 H, 2 W]."""
    return activated(nn.ConvTranspose2d(C_in, C_out, 4, 2, 1))


class Separable(nn.Module):
    """Depthwise and 1x1 convolution with a leaky ReLU behind both, ``times`` times; the first one strides.

    [N, C, H, W] -> [N, C, ceil(H/stride), ceil(W/stride)].
    """

    def __init__(self, C: int, kernel: int, stride: int, dilation: int = 1, times: int = 1):
        super().__init__()
        layers: list[nn.Module] = []
        for step in (stride, *[1] * (times - 1)):
            padding = dilation * (kernel // 2)
            layers += [nn.Conv2d(C, C, kernel, step, padding, dilation, groups=C, bias=False), nn.Conv2d(C, C, 1)]
            layers.append(nn.LeakyReLU(SLOPE))
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Halving(nn.Module):
    """The skip connection of stride 2, a 3x3 convolution: [N, C, H, W] -> [N, C, ceil(H/2), ceil(W/2)]."""

    def __init__(self, C: int):
        super().__init__()
        self.op = convolution(C, C, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def _skip(C: int, stride: int, affine: bool) -> nn.Module:
    return Identity() if stride == 1 else Halving(C)


BUILDERS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "none": lambda C, stride, affine: Zero(stride),
    "max_pool_3x3": lambda C, stride, affine: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda C, stride, affine: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "skip_connect": _skip,
    "sep_conv_3x3": lambda C, stride, affine: Separable(C, 3, stride, times=2),
    "sep_conv_5x5": lambda C, stride, affine: Separable(C, 5, stride, times=2),
    "dil_conv_3x3": lambda C, stride, affine: Separable(C, 3, stride, 2),
    "dil_conv_5x5": lambda C, stride, affine: Separable(C, 5, stride, 2),
}
"""Builders ``(C, stride, affine) -> module`` by name, in the order of alpha's columns; ``affine`` counts for none."""


def initialise(network: nn.Module) -> None:
    """Draw all weights by He's rule, from N(0, 2 / fan-in); biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan_in = module.weight[0].numel()
            if isinstance(module, nn.ConvTranspose2d):  # a pixel gets one of stride² taps of a side
                fan_in = module.in_channels * module.weight[0, 0].numel() // (module.stride[0] * module.stride[1])
            nn.init.normal_(module.weight, std=(2 / fan_in) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
