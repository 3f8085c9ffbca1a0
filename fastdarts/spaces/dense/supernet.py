"""The supernet of dense networks: three kinds of cells, each with alphas of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.nn.dense_operations import initialise
from fastdarts.nn.fusion.call import fuses
from fastdarts.nn.fusion.chain import one_pass
from fastdarts.nn.maps import pack
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.supernet import Chosen, Supernet, initial_alphas
from fastdarts.spaces.dense.cells import RunCell, SearchCell
from fastdarts.spaces.dense.network import Frame, Variant, check_maps, frames_of
from fastdarts.spaces.space import ImageSpace, Table


class DenseSupernet(Supernet):
    """The supernet: images [N, in_channels, H, W] to the maps of several scales that
    :func:`fastdarts.nn.maps.unpack` takes apart; see :class:`fastdarts.nn.supernet.Supernet`.

    All cells of a kind share its alphas: 9 edges of a normal or a reduction cell and 15 of an upsampling cell, if each
    has three nodes. H and W are multiples of the factor by which the encoder reduces.

    Args:
        C: Channels of the finest upsampling cell.
        outputs: Numbers that are said of each pixel.
        layers: Cells.
        criterion: Loss ``criterion(maps, target)``.
        tables: The candidates of every edge, by kind of cell.
        nodes: Nodes of each cell.
        space: The space, by whose rule an architecture is derived.
        in_channels: Channels of the images. An even number is that of two views, one after the other, which are
            compared.
        memory: See :class:`fastdarts.MixedOp`; "checkpoint" keeps only the outputs of the cells.

    Raises:
        FastdartsError: A size does not fit.
    """

    def __init__(
        self,
        C: int,
        outputs: int,
        layers: int,
        criterion: nn.Module,
        tables: dict[str, Table],
        nodes: int,
        space: ImageSpace,
        *,
        in_channels: int = 6,
        memory: str = "store",
    ):
        super().__init__()
        self._criterion, self._memory, self._space, self._nodes = criterion, memory, space, nodes
        self.primitives, self._in_channels = tables, in_channels
        [plan] = frames_of(Variant(True), in_channels, outputs, C, layers, nodes)
        own = "recompute" if memory == "checkpoint" else memory
        self.frame = Frame(plan)
        self.cells = nn.ModuleList(SearchCell(place, tables[place.kind], nodes, own) for place in plan.places)
        initialise(self)
        device = self.frame.stem0[0].weight.device
        alphas = {kind: initial_alphas(len(table), len(table[0]), device) for kind, table in tables.items()}
        for kind, table in alphas.items():
            setattr(self, f"alphas_{kind}", table)
        self._arch_parameters = [*alphas.values()]

    def forward(self, input: Tensor) -> Tensor:
        with one_pass():
            return self._maps(
                input, [self._mixing(*pair) for pair in zip(self.cells, self.cell_weights(), strict=True)]
            )

    def _mixing(self, cell: nn.Module, weights: Tensor) -> RunCell:
        return lambda *inputs: self._pass(cell, weights, self.drop_path_prob, *inputs)

    def discrete(self, input: Tensor, chosen: Chosen) -> Tensor:
        """Maps with the same weights where each edge runs one candidate, with weight 1, or nothing."""

        def running(cell: nn.Module) -> RunCell:
            return lambda *inputs: cell.discrete(chosen[cell.kind], *inputs)

        return self._maps(input, [running(cell) for cell in self.cells])

    def _maps(self, input: Tensor, cells: Sequence[RunCell]) -> Tensor:
        check_maps(input, self._in_channels, self.frame.plan.multiple)
        if fuses(input):  # once, not around every cell
            input = input.contiguous(memory_format=torch.channels_last)
        return pack(self.frame(input, cells))

    def cell_kinds(self) -> list[str]:
        """normal, reduce or upsample, cell by cell."""
        return [cell.kind for cell in self.cells]

    def mixed_ops(self) -> dict[str, list[Sequence[MixedOp]]]:
        """The mixed operations of each cell, by kind."""
        return {kind: [cell.edges for cell in self.cells if cell.kind == kind] for kind in self.primitives}

    def genotype(self) -> Any:
        """Derive the architecture by the rule of the space."""
        with torch.no_grad():
            return self._space.strongest(self.mixing_weights(), self._nodes)
