"""The search network of a chain: at every place all candidates, of which a step may compute one (Cai et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.nn.gates import GatedOp
from fastdarts.nn.mbconv import MBConv, conv_layer
from fastdarts.nn.operations import Zero, check_images, drop_path
from fastdarts.nn.supernet import Chosen, Supernet, initial_alphas
from fastdarts.spaces.chain.genotype import Block, Chain
from fastdarts.spaces.space import Table

Options = Sequence[Sequence[Block | None]]
"""What each place may hold; None for nothing."""


class Place(nn.Module):
    """A place of a chain: a :class:`GatedOp` whose candidates are blocks without what these add to their output.

    [N, C_in, H, W] -> [N, C_out, ceil(H/stride), ceil(W/stride)]. Where the shape stays, the input is added to the
    mixture. In training that sum loses the mixture with probability ``drop_prob``, per sample.
    """

    def __init__(self, options: Sequence[Block | None], primitives: Sequence[str], C_in: int, activation: str):
        super().__init__()
        block = next(filter(None, options))
        stride, C = block.stride, block.channels
        self.reduction, self.channels = stride > 1, C
        self.residual = stride == 1 and C_in == C
        ops = [
            Zero(stride)
            if own is None
            else MBConv(C_in, C, own.kernel, stride, own.expansion, own.squeeze, activation, "none")
            for own in options
        ]
        ops += [Zero(stride)] * (len(primitives) - len(options))  # what this place does not offer
        self.mixed = GatedOp(ops, primitives, C, stride)

    def forward(
        self, x: Tensor, weights: Tensor, gates: tuple[int, ...] | None = None, drop_prob: float = 0.0
    ) -> Tensor:
        return self._added(self.mixed(x, weights, gates), x, drop_prob)

    def discrete(self, x: Tensor, k: int | None) -> Tensor:
        """The place where candidate ``k`` runs alone."""
        if k is None:
            raise FastdartsError("a place of a chain was left out: expected one of its candidates")
        return self._added(self.mixed.only(x, k), x, 0.0)

    def _added(self, out: Tensor, x: Tensor, drop_prob: float) -> Tensor:
        if not self.residual:
            return out
        return (drop_path(out, drop_prob) if self.training and drop_prob > 0 else out) + x


class ChainSupernet(Supernet):
    """The supernet of a chain: one table of alphas [places, candidates], a row for each place.

    ``forward(input)``: [N, in_channels, H, W], returns logits [N, num_classes].

    Args:
        frame: A chain of the space. Its stem, first block, head, widths and strides are those of the supernet.
        options: What each place may hold; kernel and expansion of each block count.
        table: Their names. A place with fewer options than others has `none` at the end of its row: the alphas there
            count as minus infinity, so that nobody draws it.
        derive: Makes a chain of the strengths [places, candidates] in a list.
        num_classes, criterion, in_channels: As of :class:`fastdarts.spaces.cells.supernet.Network`.
        memory: "store" keeps what backward needs. Otherwise each place is computed again in backward.
    """

    def __init__(
        self,
        frame: Chain,
        options: Options,
        table: Table,
        derive: Callable[[Sequence[Tensor]], Chain],
        num_classes: int,
        criterion: nn.Module,
        *,
        in_channels: int = 3,
        memory: str = "store",
    ):
        super().__init__()
        first, *blocks = frame.blocks
        self._derive = derive
        self.primitives = {"chain": table}
        self._criterion, self._in_channels = criterion, in_channels
        self._memory = "store" if memory == "store" else "checkpoint"
        activation = frame.activation
        self.stem = conv_layer(in_channels, frame.stem, 3, frame.stride, activation)
        before = MBConv(
            *(frame.stem, first.channels, first.kernel, first.stride, first.expansion),
            *(first.squeeze, activation, first.skip),
        )
        self.cells, channels = nn.ModuleList([before]), first.channels
        for names, row, block in zip(table, options, blocks, strict=True):
            sized = [None if own is None else own._replace(channels=block.channels, stride=block.stride) for own in row]
            self.cells.append(Place(sized, names, channels, activation))
            channels = block.channels
        self.head = conv_layer(channels, frame.head, 1, 1, activation)
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(frame.dropout)
        self.classifier = nn.Linear(frame.head, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        self.alphas = initial_alphas(len(table), len(table[0]), self.classifier.weight.device)
        self._arch_parameters = [self.alphas]
        self._lacking = torch.tensor([[name == "none" for name in row] for row in table], device="cpu")

    @property
    def places(self) -> list[Place]:
        """All blocks but the first, which is fixed."""
        return list(self.cells)[1:]

    def alpha_tables(self) -> Sequence[Tensor]:
        """The alphas, minus infinity where a place has no candidate."""
        (alpha,) = self.own_alphas()
        return (alpha.masked_fill(self._lacking.to(alpha.device), -torch.inf),)

    def forward(self, input: Tensor) -> Tensor:
        (weights,) = self.cell_weights()
        gates = self.relaxation.gates(0) if self.training else None

        def passed(row: int, place: Place, x: Tensor) -> Tensor:
            own = None if gates is None else gates[row]
            return self._pass(place, x, weights[row], own, self.drop_path_prob)

        return self._classify(input, passed)

    def discrete(self, input: Tensor, chosen: Chosen) -> Tensor:
        """Logits with the same weights where each place runs one candidate, with weight 1."""
        return self._classify(input, lambda row, place, x: place.discrete(x, chosen["chain"][row]))

    def _classify(self, input: Tensor, passed: Callable[[int, Place, Tensor], Tensor]) -> Tensor:
        check_images(input, self._in_channels, even=False)
        x = self.cells[0](self.stem(input))
        for row, place in enumerate(self.places):
            x = passed(row, place, x)
        return self.classifier(self.dropout(self.global_pooling(self.head(x)).flatten(1)))

    def genotype(self) -> Chain:
        """The chain of the strongest candidates."""
        with torch.no_grad():
            return self._derive(self.mixing_weights())

    def cell_kinds(self) -> list[str]:
        """The chain is one cell, whose edges are its places."""
        return ["chain"]

    def mixed_ops(self) -> dict[str, list[Sequence[GatedOp]]]:
        """Those of all places."""
        return {"chain": [[place.mixed for place in self.places]]}
