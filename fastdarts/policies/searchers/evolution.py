"""Regularised evolution (Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch

from fastdarts.policies.searchers.base import Choice, Searcher
from fastdarts.spaces.space import mutated

_TRIES = 100
"""Mutations that are drawn to find one that is new. In a small space none may be left."""


class Member(NamedTuple):
    """An architecture that is alive, and its reward."""

    choice: Choice
    reward: float


class Evolution(Searcher):
    """A population whose oldest member dies when a child is born.

    The first architectures are random, until ``population`` of them are alive. Then each child is a mutation of the
    best of ``tournament`` members, which are drawn with replacement; of equals, the first that was drawn counts. A
    mutation gives one decision another value. An architecture that failed does not become a member.

    Args:
        population, tournament: members that are alive, and how many compete to be the parent.
        duplicates: whether an architecture that was asked for before may be proposed again. Otherwise another one is
            drawn, for as long as new ones are easy to find.
    """

    def __init__(
        self, sizes: Sequence[int], seed: int, population: int = 100, tournament: int = 25, duplicates: bool = False
    ):
        super().__init__(sizes, seed)
        self.population, self.tournament, self.duplicates = population, tournament, duplicates
        self.alive: deque[Member] = deque()
        self._asked: set[Choice] = set()

    def ask(self) -> Choice:
        choice = self._drawn()
        for _ in range(_TRIES):
            if self.duplicates or choice not in self._asked:
                break
            choice = self._drawn()
        self._asked.add(choice)
        return choice

    def _drawn(self) -> Choice:
        if len(self.alive) < self.population:
            return self.uniform()
        rivals = torch.randint(len(self.alive), (self.tournament,), generator=self.generator).tolist()
        parent = max((self.alive[rival] for rival in rivals), key=lambda member: member.reward)
        return tuple(mutated(parent.choice, self.sizes, self.generator))

    def tell(self, choice: Choice, reward: float | None, cost: float | None = None) -> None:
        if reward is None:
            return
        self.alive.append(Member(choice, reward))
        if len(self.alive) > self.population:
            self.alive.popleft()
