"""The spaces of chains: the MBConv layers of ProxylessNAS, a small one of these, and the blocks of MnasNet."""

from __future__ import annotations

import functools
import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.nn.supernet import Supernet
from fastdarts.spaces.chain.genotype import ZERO, Block, Chain, check_chain, from_dict, scaled, to_dict
from fastdarts.spaces.chain.network import ChainNetwork
from fastdarts.spaces.chain.parts import halved, last_parts, layer_part, stem_part
from fastdarts.spaces.chain.supernet import ChainSupernet
from fastdarts.spaces.space import Cells, Decision, ImageSpace, Part, Parts, Table
from fastdarts.spaces.topology import Edge, Entry, Topology


class ChainTopology(Topology):
    """States in a row: one edge leads into each node, from the state before it."""

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """One for each node."""
        return tuple(Edge(target, target - 1, False) for target in self.targets)

    def _edges_before(self, state: int) -> int:
        """One for each node before ``state``."""
        return state - 1

    def row(self, target: int, source: int) -> int:
        """The place of the node, counted from 0; raises :class:`FastdartsError` if the chain has no such edge."""
        if target not in self.targets or source != target - 1:
            raise FastdartsError(
                f"a chain of {self.nodes} places has no edge from state {source} into state {target}: expected one "
                "state into the next"
            )
        return target - 1

    def into(self, target: int) -> range:
        """The one row of this node."""
        return range(self.row(target, target - 1), target)


class ChainSpace(ImageSpace):
    """Chains of blocks. A subclass says which choices each block has, in :meth:`choices`, and what they make.

    There is no supernet, unless a subclass has one: the space is searched by its decisions.
    """

    kinds = {"chain": "chain"}  # noqa: RUF012 - of the class
    variants = ("mbconv",)
    fixed_depth = True

    @property
    def cell(self) -> Topology:
        """All blocks in a row."""
        return ChainTopology(self.nodes, inputs=("stem",), kept=1, multiplier=1, first=1, output="head")

    @abstractmethod
    def choices(self) -> list[tuple[Decision, tuple[Any, ...]]]:
        """The decisions, in the order of the blocks, and what each value of a decision stands for."""

    @abstractmethod
    def chain(self, values: Iterator[Any]) -> Chain:
        """The genotype of these values of all choices."""

    @abstractmethod
    def values(self, chain: Chain) -> list[Any]:
        """The inverse of :meth:`chain`, for chains of the space; anything for others."""

    def topology(self, nodes: int) -> Topology:
        """Raises :class:`FastdartsError` for another number of nodes than the space has."""
        if nodes != self.nodes:
            raise FastdartsError(
                f"--nodes is {brief(nodes)} but space {self.name} has {self.nodes} places: leave --nodes out"
            )
        return self.cell

    def check(self, nodes: int, layers: int) -> None:
        """As many nodes and layers as the space has."""
        self.topology(nodes)
        if layers != self.layers:
            raise FastdartsError(
                f"--layers is {layers} but chains of space {self.name} have {self.layers} blocks: leave --layers out"
            )

    def decisions(self, nodes: int) -> tuple[Decision, ...]:
        """See the class."""
        self.topology(nodes)
        return tuple(decision for decision, _ in self.choices())

    def decode(self, indices: Sequence[int], nodes: int) -> Chain:
        """The chain of these values."""
        self.check_values(indices, nodes)
        return self.chain(options[k] for k, (_, options) in zip(indices, self.choices(), strict=True))

    def encode(self, genotype: Chain) -> list[int]:
        """Of chains that differ from others of the space in its decisions only."""
        genotype, choices = check_chain(genotype), self.choices()
        found = self.values(genotype)
        fits = len(found) == len(choices) and all(v in options for v, (_, options) in zip(found, choices, strict=True))
        if not fits or self.chain(iter(found)) != genotype:
            raise FastdartsError(
                f"the chain of {len(genotype.blocks)} blocks is not one of space {self.name}: expected widths, strides "
                "and choices that the space has"
            )
        return [options.index(value) for value, (_, options) in zip(found, choices, strict=True)]

    def fields(self, genotype: Chain) -> dict[str, Any]:
        """See :func:`fastdarts.spaces.chain.genotype.to_dict`."""
        return to_dict(check_chain(genotype))

    def genotype(self, fields: dict[str, Any]) -> Chain:
        """See :func:`fastdarts.spaces.chain.genotype.from_dict`."""
        return from_dict(fields)

    def cells(self, genotype: Chain) -> Cells:
        """The blocks one after another."""
        blocks = to_dict(check_chain(genotype))["blocks"]
        return {"chain": ([(text, place, place + 1) for place, text in enumerate(blocks)], [len(blocks)])}

    def recipe(self, variant: str, genotype: Chain) -> Mapping[str, Any]:
        """The sizes that the genotype holds."""
        chain = check_chain(genotype)
        return {"channels": chain.stem, "layers": len(chain.blocks)}

    def scaled(self, genotype: Chain, channels: int, layers: int, width: float, depth: float) -> tuple[Chain, int, int]:
        """See :func:`fastdarts.spaces.chain.genotype.scaled`; the genotype holds its sizes itself."""
        chain = scaled(check_chain(genotype), width * channels / genotype.stem, depth)
        return chain, chain.stem, len(chain.blocks)

    def network(
        self,
        variant: str,
        channels: int,
        classes: int,
        layers: int,
        auxiliary: bool,
        genotype: Chain,
        *,
        in_channels: int,
    ) -> nn.Module:
        """See :class:`fastdarts.spaces.chain.network.ChainNetwork`."""
        if auxiliary:
            raise FastdartsError(f"networks of space {self.name} have no auxiliary head: use --no-auxiliary")
        return ChainNetwork(channels, classes, layers, genotype, in_channels=in_channels)


class Stage(NamedTuple):
    """Layers of one width: how many places, the stride of the first, and what they have before it is chosen."""

    channels: int
    places: int
    stride: int


class MBConvSpace(ChainSpace):
    """The chain of ProxylessNAS (Cai et al. 2019, section 4): kernel and expansion of each layer, or no layer.

    The first layer of a stage cannot be left out: the last column of its row is `none`, which nobody draws. ``stem``,
    ``stride``, ``first``, ``head``: channels and stride of the first convolution, channels of the first block, which is
    fixed, and of the last convolution.
    """

    has = frozenset({"cell weights", "fixing", "priced candidates", "binary gates"})

    CANDIDATES = tuple(itertools.product((3, 5, 7), (3, 6)))

    def __init__(self, name: str, stem: int, stride: int, first: int, stages: Sequence[Stage], head: int):
        self.name, self.channels, self._stride, self._first, self._head = name, stem, stride, first, head
        self._places = [
            stage._replace(places=place, stride=1 if place else stage.stride)
            for stage in stages
            for place in range(stage.places)
        ]
        self.nodes = len(self._places)
        self.layers = self.nodes + 1

    def _options(self, place: Stage) -> tuple[tuple[int, int] | None, ...]:
        """Kernels and expansions of a place; None for nothing."""
        return self.CANDIDATES + ((None,) if place.places else ())

    def primitives(self, nodes: int) -> dict[str, Table]:
        """What each place may hold, without strides and widths."""
        self.topology(nodes)
        rows = (["mb_k{}_e{}".format(*size) for size in self.CANDIDATES] for _ in self._places)
        ends = (ZERO if place.places else "none" for place in self._places)
        return {"chain": tuple((*row, end) for row, end in zip(rows, ends, strict=True))}

    def supernet(
        self,
        channels: int,
        classes: int,
        layers: int,
        criterion: nn.Module,
        nodes: int,
        *,
        in_channels: int,
        memory: str,
    ) -> ChainSupernet:
        """:class:`ChainSupernet`."""
        self.check(nodes, layers)
        frame, table = self._frame(channels), self.primitives(nodes)["chain"]
        derive = functools.partial(self.strongest, nodes=nodes)
        options = {"in_channels": in_channels, "memory": memory}
        return ChainSupernet(frame, self._blocks(), table, derive, classes, criterion, **options)

    def _frame(self, channels: int) -> Chain:
        """A chain of the space with so many channels of the stem, and all others in proportion."""
        chain = self.decode([0] * self.nodes, self.nodes)
        return scaled(chain, channels / chain.stem)._replace(stem=channels)

    def _blocks(self) -> list[list[Block | None]]:
        """What each place may hold, as wide as published."""
        return [
            [None if size is None else Block(*size, place.stride, place.channels) for size in self._options(place)]
            for place in self._places
        ]

    def strongest(self, strengths: Sequence[Tensor], nodes: int) -> Chain:
        """The strongest candidate of each place. Ties keep the lower index."""
        self.check_strengths(strengths, nodes)
        rows = zip(strengths[0].tolist(), self._places, strict=True)
        counts = ((row, len(self._options(place))) for row, place in rows)
        return self.decode([max(range(count), key=row.__getitem__) for row, count in counts], nodes)

    def of_entries(self, cells: Mapping[str, Sequence[Entry]], nodes: int) -> Chain:
        """The chain of one candidate for each place, by the names in :meth:`primitives`."""
        rows = zip(self.topology(nodes).place(cells["chain"]), self.primitives(nodes)["chain"], strict=True)
        return self.decode([row.index(placed.op) for placed, row in rows], nodes)

    def taken(self, genotype: Chain, nodes: int) -> dict[str, list[tuple[int, int]]]:
        """The value of each place."""
        self.topology(nodes)
        return {"chain": [*enumerate(self.encode(genotype))]}

    def parts(self, model: Supernet, channels: int, shape: tuple[int, int, int], classes: int) -> Parts:
        """All layers by themselves, as ProxylessNAS prices them."""
        frame, (in_channels, *size) = self._frame(channels), shape
        first, *blocks = frame.blocks
        stem, now = stem_part(frame, tuple(size), in_channels), halved(tuple(size), frame.stride)
        rest = [stem, layer_part(first, frame.stem, now, first.stride, frame.activation)]
        C, edges = first.channels, []
        for row, block in zip(self._blocks(), blocks, strict=True):
            found: list[list[Part] | None] = []
            for own in row:
                sized = own and own._replace(channels=block.channels, stride=block.stride)
                found.append([layer_part(sized, C, now, block.stride, frame.activation)] if sized else [])
            edges.append(found + [None] * (len(self.CANDIDATES) + 1 - len(found)))
            C, now = block.channels, halved(now, block.stride)
        return Parts([("chain", edges)], [*rest, *last_parts(frame, C, now, classes)])

    def choices(self) -> list[tuple[Decision, tuple[Any, ...]]]:
        """One for each place."""
        rows = [self._options(place) for place in self._places]
        return [(Decision(f"layer {number}", len(row)), row) for number, row in enumerate(rows, start=1)]

    def chain(self, values: Iterator[Any]) -> Chain:
        """A layer, or nothing, for each value."""
        blocks = [
            None if value is None else Block(*value, place.stride, place.channels)
            for value, place in zip(values, self._places, strict=True)
        ]
        return Chain(self.channels, self._stride, (Block(3, 1, 1, self._first, skip="none"), *blocks), self._head)

    def values(self, chain: Chain) -> list[Any]:
        """Kernel and expansion of each block, or None."""
        return [None if block is None else (block.kernel, block.expansion) for block in chain.blocks[1:]]


class MnasNetSpace(ChainSpace):
    """The blocks of MnasNet (Tan et al. 2019, section 4.1), each around one of MobileNetV2 (Sandler et al. 2018).

    Of each block are chosen: a dense convolution or an inverted bottleneck of expansion 1, 3 or 6; its kernel; whether
    it has squeeze-and-excitation; what is added; 3/4, 1 or 5/4 of the channels; a layer less, as many, or one more.
    Blocks of one layer may have one or two.
    """

    name = "mnasnet"
    channels = 32
    BASE = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
    """Channels, layers and stride of the blocks of MobileNetV2."""
    nodes = layers = len(BASE)
    EXPANSIONS = (0, 1, 3, 6)

    def primitives(self, nodes: int) -> dict[str, Table]:
        """What each block may be, without its other choices."""
        self.topology(nodes)
        names = tuple(f"mb_e{expansion}" if expansion else "conv" for expansion in self.EXPANSIONS)
        return {"chain": (names,) * self.nodes}

    def choices(self) -> list[tuple[Decision, tuple[Any, ...]]]:
        """Six for each block."""
        found = []
        for number, (channels, layers, _) in enumerate(self.BASE, start=1):
            options = {
                "operation": self.EXPANSIONS,
                "kernel": (3, 5),
                "squeeze": (0.0, 0.25),
                "skip": ("identity", "pool", "none"),
                "channels": tuple(int(share * channels) for share in (0.75, 1, 1.25)),
                "layers": tuple(count for count in (layers - 1, layers, layers + 1) if count),
            }
            found += [(Decision(f"{name} of block {number}", len(row)), row) for name, row in options.items()]
        return found

    def chain(self, values: Iterator[Any]) -> Chain:
        """A block for each six values."""
        blocks = []
        for _, _, stride in self.BASE:
            expansion, kernel, squeeze, skip, channels, layers = itertools.islice(values, 6)
            blocks.append(Block(kernel, expansion, stride, channels, layers, squeeze, skip))
        return Chain(self.channels, 2, tuple(blocks), 1280, "relu", 0.2)

    def values(self, chain: Chain) -> list[Any]:
        """What the blocks say, in the order of the choices."""
        return [
            value
            for block in filter(None, chain.blocks)
            for value in (block.expansion, block.kernel, block.squeeze, block.skip, block.channels, block.repeats)
        ]


MBCONV = MBConvSpace(
    "mbconv",
    32,
    2,
    16,
    [Stage(24, 4, 2), Stage(40, 4, 2), Stage(80, 4, 2), Stage(96, 4, 1), Stage(192, 4, 2), Stage(320, 1, 1)],
    1280,
)
MBCONV_TINY = MBConvSpace("mbconv-tiny", 8, 1, 8, [Stage(8, 2, 1), Stage(16, 2, 2), Stage(24, 2, 2)], 64)
MNASNET = MnasNetSpace()
