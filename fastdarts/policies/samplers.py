"""Single cells of a supernet: what each edge runs, and which cell a step trains (Li and Talwalkar 2019,
arXiv:1902.07638)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from fastdarts.errors import FastdartsError
from fastdarts.nn.supernet import Chosen, Supernet
from fastdarts.policies.bilevel import SinglePath
from fastdarts.spaces import Space


def chosen_by(space: Space, genotype: Any, nodes: int) -> Chosen:
    """What each edge of a supernet of ``space`` runs to be the network of ``genotype``; where edges have copies, what
    all run of the first copy, then of the next. The operations of a node take the copies in turn.

    Raises :class:`FastdartsError` for a genotype with an operation that its edge does not offer, or with two operations
    on one edge.
    """
    chosen: dict[str, list[int | None]] = {}
    for kind, taken in space.taken(genotype, nodes).items():
        cell = space.topology_of(kind, nodes)
        chosen[kind] = [None] * (space.copies * len(cell.edges))
        for number, (row, column) in enumerate(taken):
            place = row + number % space.copies * len(cell.edges)
            if chosen[kind][place] is not None:
                edge = cell.edges[row]
                raise FastdartsError(
                    f"the {space.kinds[kind]} has two operations on the edge {cell.arrow(edge.source, edge.target)}: "
                    "expected one, as an edge of a supernet runs one at a time"
                )
            chosen[kind][place] = column
    return chosen


class DrawnPath(SinglePath):
    """Every step of the weights trains another drawn cell; parts of a batch, one each."""

    generator = torch.default_generator
    """What the steps draw from."""

    def __init__(self, space: Space, nodes: int):
        self.space, self.nodes = space, nodes

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Any:
        """A genotype of ``space``, drawn from ``generator`` (on the CPU) only."""

    def logits(self, model: Supernet, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Those of a drawn cell with the weights of the supernet."""
        with _disable_current_modes(), torch.device("cpu"):  # an estimate of memory would read 1 from what is drawn
            genotype = self.draw(self.generator if generator is None else generator)
        return self.of(model, x, genotype)

    def of(self, model: Supernet, x: Tensor, genotype: Any) -> Tensor:
        """Those of this one."""
        return model.discrete(x, chosen_by(self.space, genotype, self.nodes))


class UniformPath(DrawnPath):
    """Cells that are all equally likely, `none` among their operations."""

    def draw(self, generator: torch.Generator) -> Any:
        return self.space.sample(generator, self.nodes, none=True)
