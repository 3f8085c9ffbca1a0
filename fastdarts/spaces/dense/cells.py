"""The cells of dense networks: what they make of their inputs, in a search and of a genotype."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastdarts.nn.dense_operations import BUILDERS, convolution, upsampling
from fastdarts.nn.fusion.call import run
from fastdarts.nn.maps import resized
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import Identity, drop_path
from fastdarts.spaces.cells.cell import leave
from fastdarts.spaces.dense.genotype import CELLS, Pair
from fastdarts.spaces.dense.plan import Place
from fastdarts.spaces.space import Table


class EncoderInputs(nn.Module):
    """The two states of a cell of the encoder, [N, C, H, W] each: a 1x1 convolution of each input.

    The first input is halved by a 3x3 convolution where the cell before was a reduction.
    """

    def __init__(self, place: Place):
        super().__init__()
        first, second = place.inputs
        halves = place.before == "reduce"
        self.preprocess0 = convolution(first, place.channels, 3, 2) if halves else convolution(first, place.channels, 1)
        self.preprocess1 = convolution(second, place.channels, 1)

    def forward(self, s0: Tensor, s1: Tensor) -> list[Tensor]:
        return [self.preprocess0(s0), self.preprocess1(s1)]


class DecoderInputs(nn.Module):
    """The four states of an upsampling cell, [N, C, H, W] each, of inputs half as large but for ``skip``.

    The first input is a quarter as large where the cell before upsampled.
    """

    def __init__(self, place: Place):
        super().__init__()
        first, second, outputs, skip = place.inputs
        C, doubles = place.channels, place.before == "upsample"
        self.preprocess0 = nn.Sequential(
            upsampling(first, C) if doubles else convolution(first, C, 1), upsampling(C, C)
        )
        self.preprocess1 = nn.Sequential(convolution(second, C, 1), upsampling(C, C))
        self.prediction = convolution(outputs, C, 1)
        self.skip = convolution(skip, C, 1)

    def forward(self, s0: Tensor, s1: Tensor, prediction: Tensor, skip: Tensor) -> list[Tensor]:
        prediction = self.prediction(resized(prediction, skip.shape[-2:]))
        return [self.preprocess0(s0), self.preprocess1(s1), prediction, self.skip(skip)]


class _Cell(nn.Module):
    """What cells have in common.

    Attributes:
        kind, channels: see :class:`fastdarts.spaces.dense.plan.Place`.
        reduction, upsampling: whether it halves or doubles height and width.
    """

    def __init__(self, place: Place):
        super().__init__()
        self.kind, self.channels = place.kind, place.channels
        self.reduction, self.upsampling = place.kind == "reduce", place.kind == "upsample"
        self.inputs = (DecoderInputs if self.upsampling else EncoderInputs)(place)

    def stride(self, reduces: bool) -> int:
        """Of an operation on an edge; ``reduces``: whether the edge leaves an input."""
        return 2 if self.reduction and reduces else 1


class SearchCell(_Cell):
    """A cell of the supernet: a :class:`fastdarts.MixedOp` for each edge; its output has all nodes.

    ``forward(weights, drop_prob, *inputs)``: mixing weights [E, K], and maps as they leave earlier cells; returns
    [N, nodes * C, H, W].
    """

    memory = "store"

    def __init__(self, place: Place, table: Table, nodes: int, memory: str = "store"):
        super().__init__(place)
        self.memory, self.topology = memory, CELLS[place.kind].of(nodes)
        self.edges = nn.ModuleList()
        for edge, names in zip(self.topology.edges, table, strict=True):
            builders = [BUILDERS[name] for name in names]
            op = MixedOp(place.channels, self.stride(edge.reduces), builders, memory=memory)
            op.primitives = tuple(names)  # not the names of the builders
            self.edges.append(op)

    def forward(self, weights: Tensor, drop_prob: float, *inputs: Tensor) -> Tensor:
        drop_prob, cell = drop_prob if self.training else 0.0, self.topology
        given = len(cell.inputs)
        states: list[Tensor] = [*self.inputs(*inputs)]
        nodes: list[Tensor] = []
        for source in range(cell.states - 1):
            rows = [row for row, edge in enumerate(cell.edges) if edge.source == source]
            first = cell.edges[rows[0]].target - given
            base = nodes[first:]
            outs = leave(self.edges, states[source], rows, weights, None, base, self.memory, drop_prob)
            nodes[first:] = outs
            if source >= given - 1:  # nothing more leads into the next node
                states.append(nodes[source - given + 1])
        return torch.cat(nodes, 1)

    def discrete(self, chosen: Sequence[int | None], *inputs: Tensor) -> Tensor:
        """The cell where each edge runs its ``chosen`` candidate only, with weight 1; an edge of None is left out."""
        states: list[Tensor] = [*self.inputs(*inputs)]
        first, given = self.edges[0], len(self.topology.inputs)
        for target in self.topology.targets:
            picked = [(row, k) for row in self.topology.into(target) if (k := chosen[row]) is not None]
            outs = [run(self.edges[row]._ops[k], states[self.topology.edges[row].source]) for row, k in picked]
            if not outs:  # of the size of a node
                outs = [states[0][:, :, :: first.stride, :: first.stride] * 0.0]
            states.append(functools.reduce(operator.add, outs))
        return torch.cat(states[given:], 1)


class DenseCell(_Cell):
    """A discrete cell: ``forward(drop_prob, *inputs)`` gives all nodes, [N, nodes * C, H, W].

    In training, every operation but a skip connection of stride 1 is dropped per sample with probability ``drop_prob``.
    """

    def __init__(self, place: Place, pairs: Sequence[Pair]):
        super().__init__(place)
        placed, self._given = CELLS[place.kind].place(pairs), len(CELLS[place.kind].inputs)
        self._ends = [(edge.source, edge.target) for edge in placed]
        self.ops = nn.ModuleList(
            BUILDERS[edge.op](place.channels, self.stride(edge.source < self._given), True) for edge in placed
        )

    def forward(self, drop_prob: float, *inputs: Tensor) -> Tensor:
        states: dict[int, Tensor] = dict(enumerate(self.inputs(*inputs)))
        for op, (source, target) in zip(self.ops, self._ends, strict=True):
            out = run(op, states[source])
            drops = self.training and drop_prob > 0 and not isinstance(op, Identity)
            out = drop_path(out, drop_prob) if drops else out
            states[target] = states[target] + out if target in states else out
        return torch.cat([state for number, state in sorted(states.items()) if number >= self._given], 1)


RunCell = Callable[..., Tensor]
"""From the inputs of a cell, as they leave earlier ones, to its output."""
