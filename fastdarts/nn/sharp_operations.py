"""The convolutions of sharpDARTS (Hundt et al. 2019, "sharpDARTS: Faster and More Accurate Differentiable Architecture
Search", section 3)."""

from torch import Tensor, nn

from fastdarts.nn.operations import Builder, register_operation

CHOKED = 32
"""Channels in the middle of a choked convolution."""


class SharpSepConv(nn.Module):
    """Separable convolution whose halves differ: ReLU, depthwise k x k with ``stride`` and ``dilation``, 1x1 to
    ``C_mid``, BatchNorm, then the same with stride and dilation 1 to ``C_out``.

    With ``C_mid = C_out`` and dilation 1 it is :class:`fastdarts.nn.operations.SepConv`.
    """

    def __init__(
        self,
        C_in: int,
        C_out: int,
        kernel_size: int,
        stride: int,
        dilation: int = 1,
        C_mid: int | None = None,
        affine: bool = True,
    ):
        super().__init__()
        C_mid, half = C_out if C_mid is None else C_mid, kernel_size // 2
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(C_in, C_in, kernel_size, stride, half * dilation, dilation, groups=C_in, bias=False),
            nn.Conv2d(C_in, C_mid, 1, bias=False),
            nn.BatchNorm2d(C_mid, affine=affine),
            nn.ReLU(),
            nn.Conv2d(C_mid, C_mid, kernel_size, 1, half, groups=C_mid, bias=False),
            nn.Conv2d(C_mid, C_out, 1, bias=False),
            nn.BatchNorm2d(C_out, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def _builder(dilation: int = 1, flood: int = 1, choked: bool = False) -> Builder:
    def build(C: int, stride: int, affine: bool) -> nn.Module:
        return SharpSepConv(C, C, 3, stride, dilation, CHOKED if choked else flood * C, affine)

    return build


register_operation("sharp_dil_conv_3x3")(_builder(dilation=2))
register_operation("flood_conv_3x3")(_builder(flood=4))
register_operation("dil_flood_conv_3x3")(_builder(dilation=2, flood=4))
register_operation("choke_conv_3x3")(_builder(choked=True))
register_operation("dil_choke_conv_3x3")(_builder(dilation=2, choked=True))
