"""Candidates as a user's own operations.py has them: the public structure, other classes, `none` last in the list."""

import torch
from torch import nn

PRIMITIVES = ["max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
              "dil_conv_5x5", "none"]  # fmt: skip


class DilatedConvolution(nn.Module):
    def __init__(self, c, kernel, stride, padding, dilation, affine, inplace=False):
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(inplace=inplace),
            nn.Conv2d(c, c, kernel, stride=stride, padding=padding, dilation=dilation, groups=c, bias=False),
            nn.Conv2d(c, c, kernel_size=1, padding=0, bias=False),
            nn.BatchNorm2d(c, affine=affine),
        )

    def forward(self, x):
        """What the layers make of it."""
        return self.op(x)


class SeparableConvolution(nn.Module):
    def __init__(self, c, kernel, stride, padding, affine):
        super().__init__()
        layers = []
        for step in (stride, 1):
            layers += [
                nn.ReLU(inplace=False),
                nn.Conv2d(c, c, kernel, stride=step, padding=padding, groups=c, bias=False),
                nn.Conv2d(c, c, kernel_size=1, bias=False),
                nn.BatchNorm2d(c, affine=affine),
            ]
        self.op = nn.Sequential(*layers)

    def forward(self, features):
        out = self.op(features)
        return out


class Same(nn.Module):
    def forward(self, x):
        return x


class Nothing(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        if self.stride == 1:
            return x.mul(0.0)
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


class Halve(nn.Module):
    def __init__(self, c, affine):
        super().__init__()
        self.relu = nn.ReLU(inplace=False)
        self.conv_1 = nn.Conv2d(c, c // 2, 1, stride=2, padding=0, bias=False)
        self.conv_2 = nn.Conv2d(c, c // 2, 1, stride=2, padding=0, bias=False)
        self.bn = nn.BatchNorm2d(c, affine=affine)

    def forward(self, x):
        x = self.relu(x)
        out = torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1)
        out = self.bn(out)
        return out


def pooled(pool, c):
    return nn.Sequential(pool, nn.BatchNorm2d(c, affine=False))


BUILDERS = {
    "max_pool_3x3": lambda c, stride, affine: pooled(nn.MaxPool2d(3, stride=stride, padding=1), c),
    "avg_pool_3x3": lambda c, stride, affine: pooled(nn.AvgPool2d(3, stride, 1, count_include_pad=False), c),
    "skip_connect": lambda c, stride, affine: Same() if stride == 1 else Halve(c, affine),
    "sep_conv_3x3": lambda c, stride, affine: SeparableConvolution(c, 3, stride, 1, affine),
    "sep_conv_5x5": lambda c, stride, affine: SeparableConvolution(c, 5, stride, 2, affine),
    "dil_conv_3x3": lambda c, stride, affine: DilatedConvolution(c, 3, stride, 2, 2, affine),
    "dil_conv_5x5": lambda c, stride, affine: DilatedConvolution(c, 5, stride, 4, 2, affine),
    "none": lambda c, stride, affine: Nothing(stride),
}
