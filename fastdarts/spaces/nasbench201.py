"""NAS-Bench-201 (Dong and Yang 2020, arXiv:2001.00326): one kind of cell, five operations on each of its six edges.

State 0 is the input of a cell, state i the sum of one operation on each state before it, state 3 the output. Operations
are those of the benchmark: no BatchNorm after the pool, and none of them strides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.nn.fusion.call import fuses, run
from fastdarts.nn.fusion.chain import one_pass
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import Identity, ReLUConvBN, Zero, check_images, drop_path
from fastdarts.nn.supernet import Chosen, Supernet, initial_alphas
from fastdarts.spaces.cells.cell import leave
from fastdarts.spaces.cells.network import outputs
from fastdarts.spaces.space import Cells, Decision, ImageSpace, Table
from fastdarts.spaces.topology import Topology

NODES = 4  # the input counts, as in the benchmark
OPS: dict[str, Callable[[int, int, bool], nn.Module]] = {  # in the order of alpha's columns
    "none": lambda C, stride, affine: Zero(stride),
    "skip_connect": lambda C, stride, affine: Identity(),
    "nor_conv_1x1": lambda C, stride, affine: ReLUConvBN(C, C, 1, stride, 0, affine),
    "nor_conv_3x3": lambda C, stride, affine: ReLUConvBN(C, C, 3, stride, 1, affine),
    "avg_pool_3x3": lambda C, stride, affine: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
}
CELL = Topology(NODES - 1, inputs=("c_{k-1}",), kept=None, multiplier=1, first=1)
TABLE: Table = (tuple(OPS),) * len(CELL.edges)


_SOURCES = [edge.source for edge in CELL.edges]
_FORM = "+".join("|" + "|".join(f"{{}}~{_SOURCES[row]}" for row in CELL.into(target)) + "|" for target in CELL.targets)
_PLACES = re.compile(r"\|([^|~+]+)~(\d)(?=\|)")


class Structure(NamedTuple):
    """A cell: its operations in the order of the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2; ``str`` gives the string by
    which the benchmark knows it."""

    operations: tuple[str, ...]

    def __str__(self) -> str:
        return _FORM.format(*self.operations)


def parse_structure(text: str) -> Structure:
    """The cell of the benchmark's string ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``; raises :class:`FastdartsError`."""
    found = _PLACES.findall(text)
    structure = Structure(tuple(op for op, _ in found))
    if [int(source) for _, source in found] != _SOURCES or str(structure) != text.strip():
        raise FastdartsError(
            f"{text[:80]!r} is not a cell of NAS-Bench-201: expected |op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
        )
    return check_structure(structure)


def check_structure(genotype: Any) -> Structure:
    """``genotype`` if it is a cell of the benchmark; raises :class:`FastdartsError` for anything else."""
    operations = genotype.operations if isinstance(genotype, Structure) else None
    if not isinstance(operations, tuple | list) or len(operations) != len(CELL.edges):
        raise FastdartsError(
            f"{brief(genotype)} is no cell of space nasbench201: expected a Structure of {len(CELL.edges)} operations"
        )
    if unknown := [op for op in operations if not isinstance(op, str) or op not in OPS]:
        raise FastdartsError(
            f"unknown operation {brief(unknown[0])} in a cell of space nasbench201: use one of {', '.join(OPS)}"
        )
    return genotype


class ResidualBlock(nn.Module):
    """What halves the image between two stages: two 3x3 convolutions, the first of stride 2, beside a pooled 1x1 one.

    [N, C_in, H, W] -> [N, C_out, ceil(H/2), ceil(W/2)]; where H or W is odd, the pool's last window is cut: the public
    code fails there.
    """

    reduction = True

    def __init__(self, C_in: int, C_out: int):
        super().__init__()
        self.channels = C_out
        self.conv_a = ReLUConvBN(C_in, C_out, 3, 2, 1)
        self.conv_b = ReLUConvBN(C_out, C_out, 3, 1, 1)
        self.downsample = nn.Sequential(
            nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False), nn.Conv2d(C_in, C_out, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(x) + self.conv_b(self.conv_a(x))


class SearchCell(nn.Module):
    """The cell of the supernet: a :class:`MixedOp` per edge; all that leave a state are one op, where it has a kernel.

    ``forward(x, weights, drop_prob, added)``: [N, C, H, W] and mixing weights [6, 5]; returns [N, C, H, W]. ``added``:
    a number to add to each of the last three states, [3]; None for nothing.
    """

    reduction = False
    memory = "store"  # of modules that were pickled without

    def __init__(self, C: int, memory: str = "store"):
        super().__init__()
        self.channels = C
        self.memory = memory
        self.edges = nn.ModuleList(MixedOp(C, 1, list(OPS.values()), memory=memory) for _ in CELL.edges)
        for edge in self.edges:
            edge.primitives = tuple(OPS)  # not the names of the builders

    def forward(self, x: Tensor, weights: Tensor, drop_prob: float = 0.0, added: Tensor | None = None) -> Tensor:
        drop_prob, states = drop_prob if self.training else 0.0, [x] * NODES
        for source in range(NODES - 1):
            rows = [row for row, edge in enumerate(CELL.edges) if edge.source == source]
            base = [states[CELL.edges[row].target] for row in rows] if source else []
            outs = leave(self.edges, states[source], rows, weights, None, base, self.memory, drop_prob)
            if added is not None and not source:
                outs = [out + number for out, number in zip(outs, added, strict=True)]
            for row, out in zip(rows, outs, strict=True):
                states[CELL.edges[row].target] = out
        return states[-1].contiguous() if x.is_contiguous() else states[-1]

    def discrete(self, x: Tensor, chosen: Sequence[int | None]) -> Tensor:
        """The cell where each edge runs its ``chosen`` candidate only, with weight 1; an edge of None is left out."""

        def edge(row: int, state: Tensor) -> Tensor:
            k = chosen[row]
            return torch.zeros_like(state) if k is None else run(self.edges[row]._ops[k], state)

        return _cell(x, edge)


class Cell(nn.Module):
    """A discrete cell; ``forward(x, drop_prob)`` keeps the shape [N, C, H, W]."""

    reduction = False

    def __init__(self, structure: Structure, C: int):
        super().__init__()
        self.channels = C
        self.edges = nn.ModuleList(OPS[name](C, 1, True) for name in structure.operations)

    def forward(self, x: Tensor, drop_prob: float = 0.0) -> Tensor:
        def edge(row: int, state: Tensor) -> Tensor:
            op = self.edges[row]
            out = run(op, state)
            drops = self.training and drop_prob > 0 and not isinstance(op, Identity)
            return drop_path(out, drop_prob) if drops else out

        return _cell(x, edge)


def _cell(x: Tensor, edge: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The last state of a cell whose edge ``row`` makes ``edge(row, state)`` of the state it leaves."""
    states = [x]
    for target in CELL.targets:
        first, *others = zip(CELL.into(target), states, strict=True)
        out = edge(*first)
        for row, state in others:
            out = out + edge(row, state)
        states.append(out)
    return states[-1]


def _body(C: int, layers: int, cell: Callable[[int], nn.Module]) -> nn.ModuleList:
    """Three stages of cells, C, 2C and 4C wide, a residual block before the second and the third."""
    stage = (layers - 2) // 3
    blocks: list[nn.Module] = []
    for width in (C, 2 * C, 4 * C):
        blocks += [ResidualBlock(width // 2, width)] if width > C else []
        blocks += [cell(width) for _ in range(stage)]
    return nn.ModuleList(blocks)


class _Skeleton(nn.Module):
    """Stem, cells and classifier, the same in search and evaluation."""

    def _build(self, C: int, classes: int, layers: int, in_channels: int, cell: Callable[[int], nn.Module]) -> None:
        _check_layers(layers)
        self._in_channels = in_channels
        self.stem = nn.Sequential(nn.Conv2d(in_channels, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))
        self.cells = _body(C, layers, cell)
        self.lastact = nn.Sequential(nn.BatchNorm2d(4 * C), nn.ReLU(inplace=True))
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4 * C, classes)

    def _classify(self, input: Tensor, cell: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        check_images(input, self._in_channels)
        x = self.stem(input)
        x = x.contiguous(memory_format=torch.channels_last) if fuses(x) else x  # once, not around every cell
        with one_pass():
            for block in self.cells:
                x = block(x) if isinstance(block, ResidualBlock) else cell(block, x)
        return self.classifier(self.global_pooling(self.lastact(x)).flatten(1))


class SearchNetwork(_Skeleton, Supernet):
    """The supernet: one alpha [6, 5], shared by all cells; see :class:`fastdarts.nn.supernet.Supernet`.

    ``forward(input)``: [N, in_channels, even H, even W], returns logits [N, classes].
    """

    def __init__(
        self,
        C: int,
        num_classes: int,
        layers: int,
        criterion: nn.Module,
        *,
        in_channels: int = 3,
        memory: str = "store",
    ):
        super().__init__()
        self._criterion = criterion
        self.primitives = {"cell": TABLE}
        self._memory = memory
        of_cells = "recompute" if memory == "checkpoint" else memory
        self._build(C, num_classes, layers, in_channels, lambda width: SearchCell(width, of_cells))
        self.alphas = initial_alphas(len(CELL.edges), len(OPS), self.classifier.weight.device)
        self._arch_parameters = [self.alphas]

    def forward(self, input: Tensor) -> Tensor:
        pairs = iter([(weights, self._zeros(weights)) for weights in self.cell_weights()])

        def cell(block: nn.Module, x: Tensor) -> Tensor:
            weights, zeros = next(pairs)
            return self._pass(block, x, weights, self.drop_path_prob, zeros)

        return self._classify(input, cell)

    def _zeros(self, weights: Tensor) -> Tensor | None:
        """For each node the sum of the weights that are 0, if these are to learn."""
        if not (self.training and self.relaxation.zeros_learn):
            return None
        zeros = weights.masked_fill(weights.detach() != 0, 0.0).sum(1)
        return torch.stack([zeros[row.start : row.stop].sum() for row in map(CELL.into, CELL.targets)])

    def discrete(self, input: Tensor, chosen: Chosen) -> Tensor:
        """Logits with the same weights where each edge runs one candidate, with weight 1, or nothing."""
        return self._classify(input, lambda cell, x: cell.discrete(x, chosen["cell"]))

    def cell_kinds(self) -> list[str]:
        """All cells are alike; residual blocks do not count."""
        return ["cell" for block in self.cells if isinstance(block, SearchCell)]

    def mixed_ops(self) -> dict[str, list[Sequence[MixedOp]]]:
        """The mixed operations of each cell."""
        return {"cell": [block.edges for block in self.cells if isinstance(block, SearchCell)]}

    def genotype(self) -> Structure:
        """The strongest operation of each edge; `none` may be among them. Ties keep the lower index."""
        with torch.no_grad():
            return NASBENCH201.strongest(self.mixing_weights(), NODES)


class Network(_Skeleton):
    """The discrete network: [N, in_channels, even H, even W] -> (logits [N, classes], None).

    ``drop_path_prob`` is an attribute to set between epochs. As published: 16 channels, 17 layers, 32x32 images.
    """

    def __init__(self, C: int, num_classes: int, layers: int, structure: Structure, *, in_channels: int = 3):
        super().__init__()
        self.drop_path_prob = 0.0
        self._build(C, num_classes, layers, in_channels, lambda width: Cell(structure, width))

    def forward(self, input: Tensor) -> tuple[Tensor, None]:
        return outputs(self._classify(input, lambda cell, x: cell(x, self.drop_path_prob)))


def _check_layers(layers: int) -> None:
    if layers < 5 or layers % 3 != 2:
        raise FastdartsError(
            f"--layers is {layers} but a network of space nasbench201 has three stages of equally many cells and two "
            "residual blocks: expected 5, 8, 11, 14, 17 (the published one), ..."
        )


class NasBench201(ImageSpace):
    """The space as a policy of the search."""

    name = "nasbench201"
    kinds = {"cell": "cell"}  # noqa: RUF012 - constant
    cell = CELL
    nodes = NODES
    layers = 17
    has = frozenset({"cell weights", "fixing", "auxiliary candidates"})
    variants = ("nasbench201",)

    def check(self, nodes: int, layers: int) -> None:
        """Four nodes, and as many layers as three stages of equal depth have."""
        self.topology(nodes)
        _check_layers(layers)

    def topology(self, nodes: int) -> Topology:
        """``nodes`` counts the input, as in the benchmark; raises :class:`FastdartsError` for another number than 4."""
        if nodes != NODES:
            raise FastdartsError(f"--nodes is {nodes} but cells of space nasbench201 have {NODES}: leave --nodes out")
        return self.cell

    def primitives(self, nodes: int) -> dict[str, Table]:
        """The same five on all six edges."""
        return {"cell": TABLE}

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
    ) -> SearchNetwork:
        """:class:`SearchNetwork`."""
        return SearchNetwork(channels, classes, layers, criterion, in_channels=in_channels, memory=memory)

    def strongest(self, strengths: Sequence[Tensor], nodes: int) -> Structure:
        """The strongest operation of each edge; `none` may be among them. Ties keep the lower index."""
        self.check_strengths(strengths, nodes)
        rows = strengths[0].tolist()
        return Structure(tuple(max(zip(row, OPS, strict=True), key=lambda pair: pair[0])[1] for row in rows))

    def network(
        self,
        variant: str,
        channels: int,
        classes: int,
        layers: int,
        auxiliary: bool,
        genotype: Structure,
        *,
        in_channels: int,
    ) -> Network:
        """:class:`Network`."""
        if auxiliary:
            raise FastdartsError("networks of space nasbench201 have no auxiliary head: use --no-auxiliary")
        return Network(channels, classes, layers, genotype, in_channels=in_channels)

    def scaled(
        self, genotype: Structure, channels: int, layers: int, width: float, depth: float
    ) -> tuple[Structure, int, int]:
        """The same, with as many cells more in each of the three stages."""
        cells = (layers - 2) // 3
        genotype, channels, cells = super().scaled(genotype, channels, cells, width, depth)
        return genotype, channels, 3 * cells + 2

    def candidate(self, name: str, C: int, stride: int) -> nn.Module:
        """One of the benchmark's operations."""
        return OPS[name](C, stride, True)

    def decisions(self, nodes: int) -> tuple[Decision, ...]:
        """Of each edge its operation; `none` is one of them."""
        edges = self.topology(nodes).edges
        return tuple(Decision(f"operation of {CELL.arrow(edge.source, edge.target)}", len(OPS)) for edge in edges)

    def encode(self, genotype: Structure) -> list[int]:
        """The columns of alpha."""
        return [[*OPS].index(op) for op in check_structure(genotype).operations]

    def decode(self, indices: Sequence[int], nodes: int) -> Structure:
        """The inverse of :meth:`encode`."""
        self.check_values(indices, nodes)
        return Structure(tuple([*OPS][k] for k in indices))

    def fields(self, genotype: Structure) -> dict[str, Any]:
        """{"architecture": the benchmark's string}."""
        return {"architecture": str(check_structure(genotype))}

    def genotype(self, fields: dict[str, Any]) -> Structure:
        """See :func:`parse_structure`."""
        text = fields.get("architecture") if isinstance(fields, dict) and len(fields) == 1 else None
        if not isinstance(text, str):
            raise FastdartsError(
                f"a cell of space nasbench201 needs the one field architecture, a string, got {brief(fields)}"
            )
        return parse_structure(text)

    def from_text(self, text: str) -> Structure | None:
        """The benchmark's string."""
        return parse_structure(text) if text.startswith("|") else None

    def text(self, genotype: Structure) -> str:
        """The benchmark's string."""
        return str(check_structure(genotype))

    def cells(self, genotype: Structure) -> Cells:
        """The one cell; its output is its last state."""
        operations = check_structure(genotype).operations
        pairs = [(op, edge.source) for op, edge in zip(operations, CELL.edges, strict=True)]
        return {"cell": (pairs, CELL.outputs)}


NASBENCH201 = NasBench201()
