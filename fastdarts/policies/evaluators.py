"""What single cells are worth with the weights of a supernet (Li and Talwalkar 2019, arXiv:1902.07638)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import Tensor

from fastdarts.nn.random_state import same_random_numbers
from fastdarts.nn.statistics import batch_statistics
from fastdarts.policies.base import Batch, Monitor, Row, Search, Selection
from fastdarts.policies.samplers import DrawnPath
from fastdarts.ranks import total
from fastdarts.spaces import Architecture

FINALISTS, FIRST_BATCHES = 10, 10  # as published


@torch.no_grad()
def shared_error(logits: Callable[[Tensor], Tensor], batches: Iterable[Batch], device: torch.device) -> float:
    """The error in percent of what gives these logits. The random state is left as it was."""
    wrong, count = 0, 0
    with same_random_numbers(device):
        for x, y in batches:
            wrong += (logits(x).argmax(1) != y).sum().item()
            count += len(y)
    wrong, count = total(wrong, count)
    return 100 * wrong / count


class PathError(Monitor):
    """``valid_error`` in percent of drawn cells with the weights of the supernet.

    Every batch passes through another cell, drawn with the same random numbers after every epoch.
    """

    def __init__(self, path: DrawnPath):
        super().__init__()
        self.path = path

    def measure(self, search: Search) -> Row:
        model, generator = search.model, torch.Generator().manual_seed(0)
        with search.autocast(), batch_statistics(model):
            batches = search.interruptible(search.valid.in_order())
            cells = functools.partial(self.path.logits, model, generator=generator)
            return {"valid_error": shared_error(cells, batches, search.device)}


class BestOfMany(Selection):
    """The best of many drawn cells with the weights of the supernet.

    All are ranked on the same ten batches, the best ten then on all images, with the same random numbers. BatchNorms
    use the statistics of the batch: the running ones belong to all cells together.
    """

    def __init__(self, candidates: int, path: DrawnPath, *, keeps_edges: bool = True):
        self.candidates, self.path, self.keeps_edges = candidates, path, keeps_edges

    def architecture(self, search: Search) -> None:
        """Known at the end only."""

    def finish(self, search: Search, row: Row) -> tuple[Architecture, float]:
        """The best cell and its error in percent."""
        model, valid = search.model, search.valid
        generator = torch.Generator().manual_seed(search.seed)
        drawn = [self.path.draw(generator) for _ in range(self.candidates)]
        few = [(x.to(search.device), y.to(search.device)) for x, y in islice(valid.epoch(0), FIRST_BATCHES)]

        def error(k: int, batches: Iterable[Batch]) -> float:
            cell = functools.partial(self.path.of, model, genotype=drawn[k])
            found = shared_error(cell, search.interruptible(batches, at_start=True), search.device)
            search.advance()
            return found

        with search.autocast(), batch_statistics(model):
            search.progress("ranking drawn cells", self.candidates)
            errors = [error(k, few) for k in range(self.candidates)]
            finalists = sorted(range(self.candidates), key=errors.__getitem__)[:FINALISTS]
            search.progress("ranking the best", len(finalists))
            for k in finalists:
                errors[k] = error(k, valid.in_order())
        best = min(finalists, key=errors.__getitem__)
        return Architecture(search.space, drawn[best]), errors[best]
