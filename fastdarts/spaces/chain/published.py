"""Published chains: ProxylessNAS (Cai et al. 2019), MnasNet (Tan et al. 2019), EfficientNet (Tan and Le 2019)."""

from __future__ import annotations

from fastdarts.spaces.chain.genotype import Block, Chain, parse_block, scaled

CELLS, STRIDES = (4, 4, 4, 4, 4, 1), (2, 2, 2, 1, 2, 1)
"""Of ProxylessNAS: places of each stage, and the stride of its first layer."""


def _proxyless(widths: str, stages: str) -> Chain:
    """A network of ProxylessNAS: widths of stem, first block, stages and head; kernel and expansion of all layers."""
    stem, first, *middle, head = map(int, widths.split())
    blocks: list[Block | None] = [Block(3, 1, 1, first, skip="none")]
    for text, channels, places, stride in zip(stages.split(";"), middle, CELLS, STRIDES, strict=True):
        layers = [Block(int(name[1]), int(name[3]), 1, channels) for name in text.split()]
        blocks += [layers[0]._replace(stride=stride), *layers[1:], *[None] * (places - len(layers))]
    return Chain(stem, 2, tuple(blocks), head)


PROXYLESS_MOBILE = _proxyless(
    "32 16 32 40 80 96 192 320 1280",
    "k5e3 k3e3; k7e3 k3e3 k5e3 k5e3; k7e6 k5e3 k5e3 k5e3; k5e6 k5e3 k5e3 k5e3; k7e6 k7e6 k7e3 k7e3; k7e6",
)
PROXYLESS_CPU = _proxyless(
    "40 24 32 48 88 104 216 360 1432",
    "k3e6 k3e3 k3e3 k3e3; k3e6 k3e3 k3e3 k5e3; k3e6 k3e3; k5e6 k3e3 k3e3 k3e3; k5e6 k5e3 k5e3 k3e3; k5e6",
)
PROXYLESS_GPU = _proxyless(
    "40 24 32 56 112 128 256 432 1728",
    "k5e3; k7e3 k3e3; k7e6 k5e3; k5e6 k3e3 k5e3; k7e6 k7e6 k7e6 k5e6; k7e6",
)


def _chain(blocks: str, activation: str, dropout: float) -> Chain:
    return Chain(32, 2, tuple(map(parse_block, blocks.split())), 1280, activation, dropout)


MNASNET_A1 = _chain(
    "mb_k3_e1_s1_o16_noskip mb_k3_e6_s2_o24_r2 mb_k5_e3_s2_o40_r3_se0.25 mb_k3_e6_s2_o80_r4 "
    "mb_k3_e6_s1_o112_r2_se0.25 mb_k5_e6_s2_o160_r3_se0.25 mb_k3_e6_s1_o320",
    "relu",
    0.2,
)
MNASNET_B1 = _chain(
    "mb_k3_e1_s1_o16_noskip mb_k3_e3_s2_o24_r3 mb_k5_e3_s2_o40_r3 mb_k5_e6_s2_o80_r3 mb_k3_e6_s1_o96_r2 "
    "mb_k5_e6_s2_o192_r4 mb_k3_e6_s1_o320_noskip",
    "relu",
    0.2,
)
EFFICIENTNET = _chain(
    "mb_k3_e1_s1_o16_se0.25 mb_k3_e6_s2_o24_r2_se0.25 mb_k5_e6_s2_o40_r2_se0.25 mb_k3_e6_s2_o80_r3_se0.25 "
    "mb_k5_e6_s1_o112_r3_se0.25 mb_k5_e6_s2_o192_r4_se0.25 mb_k3_e6_s1_o320_se0.25",
    "swish",
    0.2,
)
SCALES = {
    "b0": (1.0, 1.0, 224, 0.2), "b1": (1.0, 1.1, 240, 0.2), "b2": (1.1, 1.2, 260, 0.3), "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4), "b5": (1.6, 2.2, 456, 0.4), "b6": (1.8, 2.6, 528, 0.5), "b7": (2.0, 3.1, 600, 0.5),
}  # fmt: skip
"""Of EfficientNet: times the channels, times the layers, pixels a side, dropout."""


def efficientnet(size: str) -> Chain:
    """EfficientNet of a size of :data:`SCALES`."""
    width, depth, _, dropout = SCALES[size]
    return scaled(EFFICIENTNET, width, depth)._replace(dropout=dropout)
