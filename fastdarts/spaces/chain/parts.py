"""The layers of a chain as parts that cost something by themselves, as ProxylessNAS prices them (Cai et al. 2019)."""

from __future__ import annotations

from torch import nn

from fastdarts.nn.mbconv import MBConv, conv_layer
from fastdarts.spaces.chain.genotype import Block, Chain
from fastdarts.spaces.space import Part

Size = tuple[int, int]


def halved(size: Size, stride: int) -> Size:
    """Height and width after a layer of this stride."""
    return -(-size[0] // stride), -(-size[1] // stride)


def layer_part(block: Block, channels: int, size: Size, stride: int, activation: str) -> Part:
    """A layer of ``block`` with this stride, on maps of so many ``channels`` and this ``size``.

    Its facts are the published ones: expansion, kernel, stride, and whether it adds its input. What the published
    networks do not have is a fact of its own: squeeze-and-excitation (in thousandths), a pooled input, another
    activation.
    """
    skips = block.skip if stride == 1 and channels == block.channels else "none"
    facts = {"expand": block.expansion} if block.expansion else {}
    facts |= {"kernel": block.kernel, "stride": stride, "idskip": int(skips != "none")}
    facts |= {"squeeze": round(1000 * block.squeeze)} if block.squeeze else {}
    facts |= {"pool": 1} if skips == "pool" else {}
    facts |= {activation: 1} if activation != "relu6" else {}
    sizes = channels, block.channels, block.kernel, stride, block.expansion, block.squeeze, activation, block.skip
    name = "expanded_conv" if block.expansion else "dense_conv"
    maps = (*size, channels), (*halved(size, stride), block.channels)
    return Part(name, *maps, facts, lambda: MBConv(*sizes), of_cell=False)


def stem_part(chain: Chain, size: Size, in_channels: int) -> Part:
    """The first convolution, on images of ``size``."""
    maps = (*size, in_channels), (*halved(size, chain.stride), chain.stem)
    sizes = in_channels, chain.stem, 3, chain.stride, chain.activation
    return Part("Conv", *maps, {}, lambda: conv_layer(*sizes), of_cell=False)


def last_parts(chain: Chain, channels: int, size: Size, classes: int) -> list[Part]:
    """What follows the blocks, on maps of so many ``channels`` and this ``size``."""
    maps = (*size, channels), (*size, chain.head)
    head = Part("Conv_1", *maps, {}, lambda: conv_layer(channels, chain.head, 1, 1, chain.activation), of_cell=False)
    return [head, Part("Logits", maps[1], (classes,), {}, lambda: _logits(chain.head, classes), of_cell=False)]


def _logits(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def chain_parts(chain: Chain, size: Size, in_channels: int, classes: int) -> list[Part]:
    """All layers of the network of a chain in turn, for images of ``size``; their costs add up to its own."""
    found, now, channels = [stem_part(chain, size, in_channels)], halved(size, chain.stride), chain.stem
    for block in filter(None, chain.blocks):
        for layer in range(block.repeats):
            stride = 1 if layer else block.stride
            found.append(layer_part(block, channels, now, stride, chain.activation))
            now, channels = halved(now, stride), block.channels
    return found + last_parts(chain, channels, now, classes)
