"""The convolutions of sharpDARTS (Hundt et al. 2019, "sharpDARTS: Faster and More Accurate Differentiable Architecture
Search", section 3): separable ones whose halves differ."""

from torch import nn

from fastdarts.nn.operations import Builder, SepConv, register_operation

CHOKED = 32
"""Channels in the middle of a choked convolution."""


def _builder(dilation: int = 1, flood: int = 1, choked: bool = False) -> Builder:
    def build(C: int, stride: int, affine: bool) -> nn.Module:
        return SepConv(C, C, 3, stride, 1, affine, dilation=dilation, C_mid=CHOKED if choked else flood * C)

    return build


register_operation("sharp_dil_conv_3x3")(_builder(dilation=2))
register_operation("flood_conv_3x3")(_builder(flood=4))
register_operation("dil_flood_conv_3x3")(_builder(dilation=2, flood=4))
register_operation("choke_conv_3x3")(_builder(choked=True))
register_operation("dil_choke_conv_3x3")(_builder(dilation=2, choked=True))
