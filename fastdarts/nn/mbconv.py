"""Inverted bottlenecks (Sandler et al. 2018, "MobileNetV2"), the blocks of ProxylessNAS, MnasNet and EfficientNet."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.nn.operations import drop_path

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "swish": nn.SiLU}
SKIPS = ("identity", "pool", "none")
"""What is added to the output of a block: its input, its input after 3x3 max pooling, or nothing."""


def conv_layer(C_in: int, C_out: int, kernel: int, stride: int, activation: str = "", groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm and, if one is named, the activation: [N, C_in, H, W] -> [N, C_out, H', W']."""
    layers: list[nn.Module] = [
        nn.Conv2d(C_in, C_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(C_out, eps=1e-3),
    ]
    return nn.Sequential(*layers, *([ACTIVATIONS[activation]()] if activation else []))


class SqueezeExcite(nn.Module):
    """Channels scaled by what their means say (Hu et al. 2018): x * sigmoid(W2 act(W1 mean(x))).

    ``W1`` has ``C_mid`` rows; [N, C, H, W] -> [N, C, H, W].
    """

    def __init__(self, C: int, C_mid: int, activation: str):
        super().__init__()
        self.reduce = nn.Conv2d(C, C_mid, 1)
        self.activation = ACTIVATIONS[activation]()
        self.expand = nn.Conv2d(C_mid, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.expand(self.activation(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * gates.sigmoid()


class MBConv(nn.Module):
    """A block of a chain: [N, C_in, H, W] -> [N, C_out, ceil(H/stride), ceil(W/stride)].

    An inverted bottleneck is a 1x1 convolution to ``expansion * C_in`` channels (none for 1), a depthwise one, and a
    1x1 convolution to ``C_out`` channels without an activation. With ``expansion`` 0 it is one dense convolution.
    Where stride and channels stay, ``skip`` says what is added. In training that sum loses the block itself with
    probability ``drop_prob``, per sample.

    ``squeeze`` is the share of ``C_in`` that squeeze-and-excitation has in its middle, 0 for none.
    """

    def __init__(
        self,
        C_in: int,
        C_out: int,
        kernel: int,
        stride: int,
        expansion: int,
        squeeze: float = 0.0,
        activation: str = "relu6",
        skip: str = "identity",
    ):
        super().__init__()
        self.reduction, self.channels = stride > 1, C_out
        self.skip = skip if stride == 1 and C_in == C_out else "none"
        C = expansion * C_in or C_out
        layers: list[nn.Module] = []
        if expansion == 0:
            layers.append(conv_layer(C_in, C_out, kernel, stride, activation))
        else:
            if expansion > 1:
                layers.append(conv_layer(C_in, C, 1, 1, activation))
            layers.append(conv_layer(C, C, kernel, stride, activation, groups=C))
        if squeeze:
            layers.append(SqueezeExcite(C, max(1, int(C_in * squeeze)), activation))
        if expansion:
            layers.append(conv_layer(C, C_out, 1, 1))
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor, drop_prob: float = 0.0) -> Tensor:
        out = self.op(x)
        if self.skip == "none":
            return out
        if self.training and drop_prob > 0:
            out = drop_path(out, drop_prob)
        return out + (F.max_pool2d(x, 3, 1, 1) if self.skip == "pool" else x)
