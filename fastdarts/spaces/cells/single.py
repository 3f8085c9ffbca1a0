"""The supernet of ENAS, which runs single cells: every cell of the space, one at a time, with shared weights.

Pham et al., "Efficient Neural Architecture Search via Parameter Sharing", ICML 2018, section 2.4, and its public code.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.nn.fusion.call import fuses, run
from fastdarts.nn.nasnet_operations import BUILDERS, Reduce
from fastdarts.nn.operations import SKIP_CONNECTIONS, ReLUConvBN, check_images, drop_path
from fastdarts.nn.supernet import Chosen, Supernet
from fastdarts.spaces.space import Table
from fastdarts.spaces.topology import DARTS_CELL


def loose_ends(entries: Sequence[tuple[str, int]]) -> list[int]:
    """The nodes of a cell of [operation, source] pairs, two for each node, that no operation reads."""
    read = {source for _, source in entries}
    return [state for state in range(2, len(entries) // 2 + 2) if state not in read]


class SingleCell(nn.Module):
    """Every cell of a space with two operations per node, one at a time.

    Each of the two operations of a node has weights of its own for every state that it may read. The nodes that no
    other reads pass a ReLU and a 1x1 convolution, whose columns belong to them, and a BatchNorm.

    Args:
        table: The candidates of every edge.
        C_before, C_now: Channels of the output of the cell before the last, and of the last one.
        C: Channels of each node and of the output.
        larger: Whether the first input is twice as high and wide as the second.
    """

    def __init__(self, table: Table, C_before: int, C_now: int, C: int, larger: bool):
        super().__init__()
        self._cell = DARTS_CELL.holding(len(table))
        if larger:
            self.preprocess0 = nn.Sequential(nn.ReLU(), Reduce(C_before, C))
        else:
            self.preprocess0 = _fitted(C_before, C)
        self.preprocess1 = _fitted(C_now, C)
        self._ops = nn.ModuleList(
            nn.ModuleList(BUILDERS[name](C, C, 1, True) for name in names)
            for _ in range(self._cell.kept)
            for names in table
        )
        self._drops = [[name not in SKIP_CONNECTIONS for name in names] for names in table]
        self.columns = nn.ModuleList(nn.Conv2d(C, C, 1, bias=False) for _ in self._cell.targets)
        self.bn = nn.BatchNorm2d(C)

    def forward(self, s0: Tensor, s1: Tensor, chosen: Sequence[int | None], drop_prob: float) -> Tensor:
        """[N, C, H, W] of the size of ``s1``, for the operations ``chosen`` of both copies of all edges."""
        cell, count = self._cell, len(self._cell.edges)
        states, read = [run(self.preprocess0, s0), run(self.preprocess1, s1)], set()
        for target in cell.targets:
            incoming = []
            for copy in range(cell.kept):
                for row in cell.into(target):
                    if (k := chosen[copy * count + row]) is None:
                        continue
                    source = cell.edges[row].source
                    out = run(self._ops[copy * count + row][k], states[source])
                    if self.training and drop_prob > 0 and self._drops[row][k]:
                        out = drop_path(out, drop_prob)
                    incoming.append(out)
                    read.add(source)
            states.append(functools.reduce(operator.add, incoming))
        ends = [target for target in cell.targets if target not in read]
        weight = torch.cat([self.columns[target - cell.targets.start].weight for target in ends], dim=1)
        return self.bn(F.conv2d(F.relu(torch.cat([states[target] for target in ends], dim=1)), weight))


def _fitted(C_in: int, C: int) -> nn.Module:
    return nn.Identity() if C_in == C else ReLUConvBN(C_in, C, 1, 1, 0)


class SingleCells(Supernet):
    """The supernet of ENAS, without alphas: a stem, ``layers`` normal cells, two reduction cells and a classifier.

    The cell at place layers // 3, and that at 2 * (layers // 3) + 1, are reduction cells. Their input is halved and
    doubles its channels before the cell, which has stride 1; the cell after takes that as its first input.

    ``drop_path_prob`` is that of the last cell; those before have a share of it by their place.

    Args:
        C: Channels of the first cells. The stem has 3 * C.
        num_classes: Outputs.
        layers: Normal cells, 3 or more.
        criterion: Loss ``criterion(logits, target)``.
        tables: The candidates of every edge, by kind of cell.
        in_channels: Channels of the images.

    Raises FastdartsError for fewer layers.
    """

    def __init__(
        self,
        C: int,
        num_classes: int,
        layers: int,
        criterion: nn.Module,
        tables: Mapping[str, Table],
        *,
        in_channels: int = 3,
    ):
        if layers < 3:
            raise FastdartsError(
                f"--layers is {layers}, but a supernet of single cells has three stages of cells: use 3 or more"
            )
        super().__init__()
        self.primitives, self._criterion, self._in_channels = dict(tables), criterion, in_channels
        self._arch_parameters = []
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 3 * C, 3, padding=1, bias=False), nn.BatchNorm2d(3 * C))
        self.cells, self.reductions, self._kinds = nn.ModuleList(), nn.ModuleDict(), []
        C_before = C_now = 3 * C
        for place in range(layers + 2):
            reduces = place in (layers // 3, 2 * (layers // 3) + 1)
            if reduces:
                C *= 2
                self.reductions[str(place)] = Reduce(C_now, C)
                C_before, C_now = C_now, C
            self._kinds.append("reduce" if reduces else "normal")
            self.cells.append(SingleCell(self.primitives[self._kinds[-1]], C_before, C_now, C, reduces))
            C_before, C_now = C_now, C
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(C, num_classes, bias=False)

    def cell_kinds(self) -> list[str]:
        """normal or reduce, cell by cell."""
        return [*self._kinds]

    def forward(self, input: Tensor) -> NoReturn:
        """Raise :class:`FastdartsError`: there is no mixture."""
        raise FastdartsError("a supernet of single cells has no mixture: pass it by discrete(input, chosen)")

    def discrete(self, input: Tensor, chosen: Chosen) -> Tensor:
        """Logits [N, num_classes] of images [N, in_channels, H, W] for one cell of each kind.

        ``chosen`` names the operations of the first copy of all edges, then those of the second. Of each copy, one edge
        into every node has one.
        """
        check_images(input, self._in_channels)
        s1 = self.stem(input)
        if fuses(s1):  # cells compute in channels-last: their operations then need no copies of their own
            s1 = s1.contiguous(memory_format=torch.channels_last)
        s0 = s1
        for place, (cell, kind) in enumerate(zip(self.cells, self._kinds, strict=True)):
            if str(place) in self.reductions:
                s0, s1 = s1, self.reductions[str(place)](s1)
            drop_prob = self.drop_path_prob * (place + 1) / len(self.cells)
            s0, s1 = s1, cell(s0, s1, chosen[kind], drop_prob)
        return self.classifier(self.global_pooling(F.relu(s1)).flatten(1))
