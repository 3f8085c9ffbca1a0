"""Random search with weight sharing (Li and Talwalkar 2019, arXiv:1902.07638): one supernet, trained one random cell
at a time, ranks many."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from fastdarts.errors import FastdartsError
from fastdarts.nn.statistics import batch_statistics
from fastdarts.nn.supernet import Chosen, Supernet, same_random_numbers
from fastdarts.policies.base import Batch, Monitor, Row, Search, Selection
from fastdarts.policies.bilevel import SinglePath
from fastdarts.ranks import total
from fastdarts.spaces import Architecture, Space

FINALISTS, FIRST_BATCHES = 10, 10  # as published


def chosen_by(space: Space, genotype: Any, nodes: int) -> Chosen:
    """What each edge of a supernet of ``space`` runs to be the network of ``genotype``.

    Raises :class:`FastdartsError` for a genotype with two operations on one edge: an edge of a supernet runs one.
    """
    chosen, cell, cells = {}, space.topology(nodes), space.cells(genotype)
    for kind, table in space.primitives(nodes).items():
        chosen[kind] = [None] * len(table)
        for op, source, target in cell.place(cells[kind][0]):
            row = cell.row(target, source)
            if chosen[kind][row] is not None:
                raise FastdartsError(
                    f"the {space.kinds[kind]} has two operations on the edge {cell.arrow(source, target)}: expected "
                    "one, as an edge of a supernet runs one at a time"
                )
            chosen[kind][row] = table[row].index(op)
    return chosen


def random_logits(model: Supernet, space: Space, nodes: int, x: Tensor, generator: torch.Generator) -> Tensor:
    """Logits of a cell drawn from ``generator``, `none` among its operations, with the weights of the supernet."""
    with _disable_current_modes(), torch.device("cpu"):  # an estimate of memory would read 1 from whatever is drawn
        genotype = space.sample(generator, nodes, none=True)
    return model.discrete(x, chosen_by(space, genotype, nodes))


def mean_error(model: Supernet, space: Space, nodes: int, batches: Iterable[Batch]) -> dict[str, float]:
    """``valid_error`` in percent: every batch by another random cell, the same ones at every call. The random
    state is left as it was."""
    generator, wrong, count = torch.Generator().manual_seed(0), 0, 0
    device = next(model.parameters()).device
    with torch.no_grad(), batch_statistics(model), same_random_numbers(device):
        for x, y in batches:
            wrong += (random_logits(model, space, nodes, x, generator).argmax(1) != y).sum().item()
            count += len(y)
    wrong, count = total(wrong, count)
    return {"valid_error": 100 * wrong / count}


class UniformPath(SinglePath):
    """Every step of the weights trains another random cell."""

    def __init__(self, space: Space, nodes: int):
        self.space, self.nodes = space, nodes

    def logits(self, model: Supernet, x: Tensor, generator: torch.Generator) -> Tensor:
        return random_logits(model, self.space, self.nodes, x, generator)


class PathError(Monitor):
    """``valid_error`` of random cells with the weights of the supernet, see :func:`mean_error`."""

    def measure(self, search: Search) -> Row:
        with search.autocast():
            batches = search.interruptible(search.valid.in_order())
            return mean_error(search.model, search.space, search.nodes, batches)


class BestOfMany(Selection):
    """The best of many random cells with the weights of the supernet.

    All are ranked on the same ten batches, the best ten then on all images, with the same random numbers. BatchNorms
    use the statistics of the batch: the running ones belong to all cells together.
    """

    def __init__(self, candidates: int):
        self.candidates = candidates

    def architecture(self, search: Search) -> None:
        """Known at the end only."""

    def finish(self, search: Search, row: Row) -> tuple[Architecture, float]:
        """The best cell and its error in percent."""
        model, space, nodes, valid = search.model, search.space, search.nodes, search.valid
        generator = torch.Generator().manual_seed(search.seed)
        drawn = [space.sample(generator, nodes, none=True) for _ in range(self.candidates)]
        few = [(x.to(search.device), y.to(search.device)) for x, y in islice(valid.epoch(0), FIRST_BATCHES)]

        @torch.no_grad()
        def error(genotype: Any, batches: Iterable[Batch]) -> float:
            chosen, wrong, count = chosen_by(space, genotype, nodes), 0, 0
            with same_random_numbers(search.device):
                for x, y in search.interruptible(batches, at_start=True):
                    wrong += (model.discrete(x, chosen).argmax(1) != y).sum().item()
                    count += len(y)
            search.advance()
            wrong, count = total(wrong, count)
            return 100 * wrong / count

        with search.autocast(), batch_statistics(model):
            search.progress("ranking random cells", self.candidates)
            errors = [error(genotype, few) for genotype in drawn]
            finalists = sorted(range(self.candidates), key=errors.__getitem__)[:FINALISTS]
            search.progress("ranking the best", len(finalists))
            for k in finalists:
                errors[k] = error(drawn[k], valid.in_order())
        best = min(finalists, key=errors.__getitem__)
        return Architecture(space, drawn[best]), errors[best]
