"""The networks of NASNet, AmoebaNet and ENAS: cells of their public code, stacked and trained from scratch.

They differ from those of DARTS in how a cell takes its inputs and makes its output. A cell keeps its first input as it
is where size and channels fit. Its output may hold inputs, which are then reduced to the size of its nodes.
"""

from __future__ import annotations

import functools
import operator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.nn.fusion.call import run
from fastdarts.nn.nasnet_operations import BUILDERS, Reduce
from fastdarts.nn.operations import SKIP_CONNECTIONS, ReLUConvBN, check_images, drop_path
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.network import AuxiliaryHeadCIFAR, AuxiliaryHeadImageNet, outputs
from fastdarts.spaces.topology import DARTS_CELL


class Stack(NamedTuple):
    """How cells are stacked.

    stem: 32 * stem channels leave the stem for large images; 0 for the stem of small images.
    passes_reductions: whether the cell after a reduction cell takes the cell before that as its first input.
    dropout: share of the numbers before the classifier that are dropped in training.
    """

    stem: int
    passes_reductions: bool
    dropout: float


STACKS = {
    "cifar": Stack(0, False, 0.0),
    "imagenet": Stack(1, False, 0.5),
    "imagenet-large": Stack(3, True, 0.5),
}


class NASNetCell(nn.Module):
    """A discrete cell: each node is the sum of two operations, the output the concatenation of chosen states.

    `forward(s0, s1, drop_prob)` takes two outputs: s1 [N, C_now, H, W] of the last cell, and s0 [N, C_before, H0, W0]
    of the cell before it. s0 is None if there is no such cell. The result is [N, multiplier * C, H', W'], half as high
    and wide in a reduction cell. In training every operation but a skip connection is dropped per sample with
    `drop_prob`.

    Args:
        larger: whether the first input is twice as high and wide as the second.
        twice: whether the second input passes two 1x1 convolutions where its channels differ, as in ENAS.
    """

    def __init__(
        self,
        genotype: Genotype,
        C_before: int | None,
        C_now: int,
        C: int,
        reduction: bool,
        larger: bool,
        twice: bool = False,
    ):
        super().__init__()
        self.reduction, self.channels = reduction, C
        if larger:
            self.preprocess0 = nn.Sequential(nn.ReLU(), Reduce(C_before, C))
        elif C_before in (None, C):
            self.preprocess0 = nn.Identity()
        else:
            self.preprocess0 = ReLUConvBN(C_before, C, 1, 1, 0)
        self.preprocess1 = ReLUConvBN(C_now, C, 1, 1, 0)
        if twice and C_now != C:
            self.preprocess1 = nn.Sequential(self.preprocess1, ReLUConvBN(C, C, 1, 1, 0))
        entries, concat = genotype[2:] if reduction else genotype[:2]
        placed, inputs = DARTS_CELL.place(entries), range(len(DARTS_CELL.inputs))
        channels = [C_now if C_before is None else C] + [C] * (len(inputs) - 1 + len(entries) // 2)
        self._ops = nn.ModuleList(
            BUILDERS[op](channels[source], C, 2 if reduction and source in inputs else 1, True)
            for op, source, _ in placed
        )
        self._drops = [op not in SKIP_CONNECTIONS for op, _, _ in placed]
        self._sources = [source for _, source, _ in placed]
        self._concat = [*concat]
        self._fitted = nn.ModuleDict(
            {
                str(state): Reduce(channels[state], C) if reduction else _narrowed(channels[state], C)
                for state in concat
                if (reduction and state in inputs) or channels[state] != C
            }
        )
        self.multiplier = len(self._concat)

    def forward(self, s0: Tensor | None, s1: Tensor, drop_prob: float) -> Tensor:
        states = [s1 if s0 is None else self.preprocess0(s0), run(self.preprocess1, s1)]
        for first in range(0, len(self._sources), 2):
            incoming = []
            for number in (first, first + 1):
                out = run(self._ops[number], states[self._sources[number]])
                if self.training and drop_prob > 0 and self._drops[number]:
                    out = drop_path(out, drop_prob)
                incoming.append(out)
            states.append(functools.reduce(operator.add, incoming))
        chosen = [
            self._fitted[str(state)](states[state]) if str(state) in self._fitted else states[state]
            for state in self._concat
        ]
        return torch.cat(chosen, dim=1)


def _narrowed(C_in: int, C_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(C_in, C_out, 1, bias=False), nn.BatchNorm2d(C_out))


class NASNetwork(nn.Module):
    """A network of such cells: [N, in_channels, H, W] -> (logits, logits_aux), each [N, num_classes].

    A third of the `layers` normal cells stands before each of two reduction cells, which come in addition and double
    the channels. The stem for large images holds two more reduction cells, of C / 4 and C / 2 channels.

    `logits_aux` is None unless `auxiliary` is set and the network is training. `drop_path_prob` is an attribute to set
    between epochs: that of the last cell, those before have a share of it by their place. Raises FastdartsError for
    fewer than three layers.
    """

    def __init__(
        self,
        C: int,
        num_classes: int,
        layers: int,
        auxiliary: bool,
        genotype: Genotype,
        stack: Stack,
        *,
        in_channels: int = 3,
        enas: bool = False,
    ):
        if layers < 3:
            raise FastdartsError(f"--layers is {layers}, but these networks have three stages of cells: use 3 or more")
        super().__init__()
        self._in_channels, self.drop_path_prob = in_channels, 0.0
        width = 32 * stack.stem or 3 * C
        conv = (
            nn.Conv2d(in_channels, width, 3, 2, bias=False)
            if stack.stem
            else nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        )
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(width))
        self.cells, self._before = nn.ModuleList(), []
        made = [(width, 0)]
        """Channels of the outputs so far, and how often they were halved."""

        def add(channels: int, reduction: bool, before: int) -> None:
            C_now, level = made[-1]
            C_before, level_before = made[before] if len(made) >= -before else (None, level)
            if enas and C_before is None:  # both inputs of the first cell are the stem's output
                C_before, before = C_now, -1
            cell = NASNetCell(genotype, C_before, C_now, channels, reduction, level_before < level, twice=enas)
            self.cells.append(cell)
            self._before.append(None if C_before is None else before)
            made.append((cell.multiplier * channels, level + reduction))

        if stack.stem:
            add(max(C // 4, 1), True, -2)
            add(max(C // 2, 1), True, -2)
        reductions = [layers // 3, 2 * layers // 3]
        for number in range(layers):
            before = -2
            if number in reductions:
                C *= 2
                add(C, True, -2)
                before = -3 if stack.passes_reductions else -2
            add(C, False, before)
            if number == reductions[1] - 1:
                self._auxiliary_after = len(self.cells) - 1
                C_auxiliary = made[-1][0]
        head = AuxiliaryHeadImageNet if stack.stem else AuxiliaryHeadCIFAR
        self.auxiliary_head = head(C_auxiliary, num_classes) if auxiliary else None
        self.relu = nn.ReLU()
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(stack.dropout)
        self.classifier = nn.Linear(made[-1][0], num_classes, bias=not enas)

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        check_images(input, self._in_channels, even=False)
        outs, logits_aux = [self.stem(input)], None
        for index, (cell, before) in enumerate(zip(self.cells, self._before, strict=True)):
            prob = self.drop_path_prob * (index + 1) / len(self.cells)
            outs = [*outs[-2:], cell(None if before is None else outs[before], outs[-1], prob)]
            if index == self._auxiliary_after and self.auxiliary_head is not None and self.training:
                logits_aux = self.auxiliary_head(outs[-1])
        pooled = self.global_pooling(self.relu(outs[-1])).flatten(1)
        return outputs(self.classifier(self.dropout(pooled)), logits_aux)
