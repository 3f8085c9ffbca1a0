"""What a searcher is: it proposes values of decisions, and is told how good they were."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch

Choice = tuple[int, ...]
"""A value of every decision, see :meth:`fastdarts.spaces.Space.decisions`: an architecture."""


class Searcher(ABC):
    """Proposes architectures, and is told what each was worth.

    What it proposes follows from its arguments and from what it was told, in that order, bit for bit. So a search that
    was stopped asks a fresh searcher for the same architectures and tells it the same results.

    Args:
        sizes: how many values each decision has.
        seed: of everything that is drawn.

    Attributes:
        learns: whether its proposals depend on what it is told.
    """

    learns = True

    def __init__(self, sizes: Sequence[int], seed: int):
        self.sizes, self.generator = tuple(sizes), torch.Generator().manual_seed(seed)

    @abstractmethod
    def ask(self) -> Choice:
        """The next architecture to look at. Several may be asked for before the first is told."""

    def tell(self, choice: Choice, reward: float | None, cost: float | None = None) -> None:
        """Say what an architecture that was asked for is worth.

        ``reward``: more is better; a share, such as the accuracy, lies between 0 and 1. It is None for an architecture
        that failed. ``cost``: what it costs, less is better; None where nobody counts.
        """

    def uniform(self) -> Choice:
        """Values that are all equally likely, drawn one after another."""
        return tuple(int(torch.randint(size, (), generator=self.generator)) for size in self.sizes)


class Drawn(Searcher):
    """Proposes these genotypes in turn; what they are worth changes nothing.

    The values of the decisions are not known, so a choice is the number of a genotype.
    """

    learns = False

    def __init__(self, genotypes: Iterator[Any]):
        self._left, self._drawn = genotypes, []

    def ask(self) -> Choice:
        self._drawn.append(next(self._left))
        return (len(self._drawn) - 1,)

    def decode(self, choice: Choice) -> Any:
        """The genotype of this number."""
        return self._drawn[choice[0]]
