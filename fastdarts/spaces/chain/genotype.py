"""Genotypes of chains: blocks of inverted bottlenecks one after another, as text, and scaled to other sizes.

A block is written as ``mb_k3_e6_s2_o24``: kernel, expansion, stride of its first layer, channels. More parts may
follow: ``_r4`` (four layers of it), ``_se0.25`` (squeeze-and-excitation), ``_noskip`` and ``_poolskip``.
``conv_k3_s1_o24`` is a dense convolution. ``zero`` is a place of a chain where nothing is computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.nn.mbconv import ACTIVATIONS, SKIPS

ZERO = "zero"
FORM = re.compile(
    r"(mb_k(?P<kernel>[1-9]\d?)_e(?P<expansion>[1-9]\d?)|conv_k(?P<dense>[1-9]\d?))_s(?P<stride>[12])_o(?P<channels>[1-9]\d{0,4})"
    r"(_r(?P<repeats>[1-9]\d?))?(_se(?P<squeeze>0\.\d{1,6}|1))?(_(?P<skip>no|pool)skip)?"
)
FIELDS = ("stem", "stride", "blocks", "head", "activation", "dropout")
_WIDEST = 10**5


class Block(NamedTuple):
    """Equal layers one after another; the first has ``stride`` and changes the channels. ``expansion`` 0 is a dense
    convolution."""

    kernel: int
    expansion: int
    stride: int
    channels: int
    repeats: int = 1
    squeeze: float = 0.0
    skip: str = SKIPS[0]

    def __str__(self) -> str:
        kind = f"mb_k{self.kernel}_e{self.expansion}" if self.expansion else f"conv_k{self.kernel}"
        parts = [f"{kind}_s{self.stride}_o{self.channels}"]
        parts += [f"_r{self.repeats}"] * (self.repeats > 1) + [f"_se{self.squeeze:g}"] * bool(self.squeeze)
        return "".join(parts) + {"identity": "", "none": "_noskip", "pool": "_poolskip"}[self.skip]


class Chain(NamedTuple):
    """A network of blocks.

    stem, stride: channels and stride of the first convolution, 3x3.
    blocks: the blocks in turn; None is a place where nothing is computed.
    head: channels of the last convolution, 1x1.
    activation: of all layers, one of ``fastdarts.nn.mbconv.ACTIVATIONS``.
    dropout: share of the numbers before the classifier that are dropped in training.
    """

    stem: int
    stride: int
    blocks: tuple[Block | None, ...]
    head: int
    activation: str = "relu6"
    dropout: float = 0.0


def parse_block(text: object) -> Block | None:
    """The block of this text, None for ``zero``; raises :class:`FastdartsError`."""
    if text == ZERO:
        return None
    found = FORM.fullmatch(text) if isinstance(text, str) else None
    kernel = int(found["kernel"] or found["dense"]) if found else 0
    if found is None or kernel % 2 == 0:
        raise FastdartsError(
            f"unknown block {brief(text)}: expected one such as mb_k3_e6_s2_o24, mb_k5_e3_s1_o40_r3_se0.25_noskip, "
            "conv_k3_s1_o16 or zero, with an odd kernel"
        )
    return Block(
        kernel,
        int(found["expansion"] or 0),
        int(found["stride"]),
        int(found["channels"]),
        int(found["repeats"] or 1),
        float(found["squeeze"] or 0),
        {None: "identity", "no": "none", "pool": "pool"}[found["skip"]],
    )


def to_dict(chain: Chain) -> dict[str, Any]:
    """The genotype as JSON-ready data, blocks as text."""
    blocks = [ZERO if block is None else str(block) for block in chain.blocks]
    return chain._asdict() | {"blocks": blocks}


def from_dict(fields: object) -> Chain:
    """The genotype of `to_dict`'s fields; raises :class:`FastdartsError` naming the offence."""
    if not isinstance(fields, Mapping) or {*fields} != {*FIELDS}:
        got = ", ".join(map(str, fields)) if isinstance(fields, Mapping) else type(fields).__name__
        raise FastdartsError(f"a chain needs exactly the fields {', '.join(FIELDS)}, got {got[:80] or 'none'}")
    for name, most in (("stem", _WIDEST), ("stride", 2), ("head", _WIDEST)):
        value = fields[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise FastdartsError(f"{name} of a chain is {brief(value)}: expected a whole number from 1 to {most}")
    if not isinstance(fields["activation"], str) or fields["activation"] not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise FastdartsError(f"activation of a chain is {brief(fields['activation'])}: expected one of {known}")
    dropout = fields["dropout"]
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise FastdartsError(f"dropout of a chain is {brief(dropout)}: expected at least 0 and less than 1")
    listed = fields["blocks"]
    if not isinstance(listed, list | tuple) or not listed:
        raise FastdartsError(
            f"blocks of a chain are {brief(listed)}: expected a list of blocks such as mb_k3_e6_s2_o24"
        )
    blocks = tuple(parse_block(text) for text in listed)
    return Chain(**{**fields, "blocks": blocks, "dropout": float(dropout)})


def check_chain(genotype: object) -> Chain:
    """`genotype` in canonical form; raises :class:`FastdartsError` for anything but a chain."""
    if not isinstance(genotype, Chain) or not isinstance(genotype.blocks, tuple | list):
        raise FastdartsError(f"{brief(genotype)} is no chain: expected a Chain of blocks")
    if strange := [block for block in genotype.blocks if not (block is None or isinstance(block, Block))]:
        raise FastdartsError(f"a chain has the block {brief(strange[0])}: expected a Block, or None for nothing")
    return from_dict(to_dict(genotype))


def rounded(channels: float) -> int:
    """The multiple of 8 nearest to ``channels``, at least 8, and not below nine tenths of it (MobileNetV2)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 * (nearest < 0.9 * channels)


def scaled(chain: Chain, width: float = 1.0, depth: float = 1.0) -> Chain:
    r"""``chain`` with :func:`rounded` ``width`` times the channels and :math:`\lceil depth \cdot r \rceil` layers of
    each block (EfficientNet, Tan and Le 2019).

    >>> from fastdarts.spaces.chain.published import EFFICIENTNET
    >>> scaled(EFFICIENTNET, width=1.1, depth=1.2).head
    1408
    """

    def wider(channels: int) -> int:
        return channels if width == 1 else rounded(channels * width)

    def changed(block: Block | None) -> Block | None:
        if block is None:
            return None
        layers = math.ceil(round(depth * block.repeats, 9))
        return block._replace(channels=wider(block.channels), repeats=layers)

    blocks = tuple(map(changed, chain.blocks))
    return chain._replace(stem=wider(chain.stem), blocks=blocks, head=wider(chain.head))
