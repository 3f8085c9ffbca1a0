"""Single cells of a supernet: what each edge runs, and which cell a step trains (Li and Talwalkar 2019,
arXiv:1902.07638)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from fastdarts.errors import FastdartsError
from fastdarts.nn.supernet import Chosen, Supernet
from fastdarts.policies.bilevel import SinglePath
from fastdarts.spaces import Space


def chosen_by(space: Space, genotype: Any, nodes: int) -> Chosen:
    """What each edge of a supernet of ``space`` runs to be the network of ``genotype``.

    Raises :class:`FastdartsError` for a genotype with an operation that its edge does not offer, or with two operations
    on one edge.
    """
    chosen, cells = {}, space.cells(genotype)
    for kind, table in space.primitives(nodes).items():
        cell = space.topology_of(kind, nodes)
        chosen[kind] = [None] * len(table)
        for op, source, target in cell.place(cells[kind][0]):
            row, edge = cell.row(target, source), f"on the edge {cell.arrow(source, target)}"
            if op not in table[row]:
                raise FastdartsError(
                    f"the {space.kinds[kind]} has {op} {edge}, which space {space.name} does not offer there: expected "
                    f"one of {', '.join(table[row])}"
                )
            if chosen[kind][row] is not None:
                raise FastdartsError(
                    f"the {space.kinds[kind]} has two operations {edge}: expected one, as an edge of a supernet runs "
                    "one at a time"
                )
            chosen[kind][row] = table[row].index(op)
    return chosen


def random_logits(model: Supernet, space: Space, nodes: int, x: Tensor, generator: torch.Generator) -> Tensor:
    """Logits of a cell drawn from ``generator``, `none` among its operations, with the weights of the supernet."""
    with _disable_current_modes(), torch.device("cpu"):  # an estimate of memory would read 1 from whatever is drawn
        genotype = space.sample(generator, nodes, none=True)
    return model.discrete(x, chosen_by(space, genotype, nodes))


class UniformPath(SinglePath):
    """Every step of the weights trains another random cell."""

    def __init__(self, space: Space, nodes: int):
        self.space, self.nodes = space, nodes

    def logits(self, model: Supernet, x: Tensor, generator: torch.Generator) -> Tensor:
        return random_logits(model, self.space, self.nodes, x, generator)
