"""The history of a search without gradients: what was asked for, and how good it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from fastdarts.engine.outcome import write_genotype
from fastdarts.errors import FastdartsError
from fastdarts.policies.searchers.base import Choice, Searcher
from fastdarts.policies.searchers.objective import Objective, pareto_front
from fastdarts.runs.run import Run
from fastdarts.spaces import Architecture, Space


class Failed(Exception):
    """Why an architecture has no metric."""


class Asked(NamedTuple):
    """An architecture that a searcher has asked for, and its text."""

    choice: Choice
    architecture: Architecture
    text: str


class Entry(NamedTuple):
    """How good an architecture is. metric: None if it ``failed``, which says why. cost: None where nobody counts."""

    metric: float | None
    cost: float | None = None
    failed: str | None = None

    def facts(self) -> dict[str, Any]:
        """What is known, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class History:
    """Asks a searcher, and tells it what each architecture was worth.

    Args:
        objective: how a metric becomes a reward.
        decode: gives the genotype of a choice.
        costs: counts what a network costs, as the settings ask for; raises :class:`Failed` for one that is too large.

    Attributes:
        entries: what was asked for, in order, and how good it was.
        best: the number of the entry with the highest reward, the first of equals; None if all have failed.
    """

    def __init__(
        self,
        objective: Objective,
        space: Space,
        searcher: Searcher,
        decode: Callable[[Choice], Any],
        costs: Callable[[Architecture], float | None],
    ):
        self.objective, self.space, self.searcher, self.decode, self.costs = objective, space, searcher, decode, costs
        self.entries: list[tuple[Asked, Entry]] = []
        self.best: int | None = None
        self._reward = -math.inf
        self._known: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def learns(self) -> bool:
        """Whether the searcher does."""
        return self.searcher.learns

    def ask(self) -> Asked:
        """The next architecture."""
        choice = self.searcher.ask()
        genotype = self.decode(choice)
        return Asked(choice, Architecture(self.space, genotype), self.space.text(genotype))

    def known(self, asked: Asked) -> Entry | None:
        """The entry of an architecture that was asked for before."""
        return self._known.get(asked.text)

    def tell(self, asked: Asked, entry: Entry) -> None:
        """Add an entry, and tell the searcher."""
        self.searcher.tell(asked.choice, self.add(asked, entry), entry.cost)

    def add(self, asked: Asked, entry: Entry) -> float | None:
        """Add an entry; returns its reward."""
        reward = None if entry.metric is None else self.objective.reward(entry.metric, entry.cost)
        if reward is not None and reward > self._reward:
            self.best, self._reward = len(self.entries), reward
        self.entries.append((asked, entry))
        self._known.setdefault(asked.text, entry)
        return reward

    def best_metric(self) -> float | None:
        """The metric of the best entry so far."""
        return None if self.best is None else self.entries[self.best][1].metric

    def outcome(self, run: Run) -> dict[str, Any]:
        """What result.json says; writes the genotype of the best entry.

        Raises :class:`FastdartsError` if all have failed.
        """
        if self.best is None:
            raise FastdartsError(
                f"all {len(self)} architectures have failed, the first one because {self.entries[0][1].failed}: "
                "allow larger ones, or change what evaluates them"
            )
        asked, entry = self.entries[self.best]
        write_genotype(run, asked.architecture)
        found: dict[str, Any] = {
            "genotype": asked.architecture.to_dict(),
            "best": entry.metric,
            "metric": self.objective.name,
            "direction": self.objective.direction,
            "queries": len(self),
            "failed": sum(entry.failed is not None for _, entry in self.entries),
            "baseline": not self.learns,
            "history": [{"architecture": asked.text, **entry.facts()} for asked, entry in self.entries],
        }
        if (error := self.objective.error(entry.metric)) is not None:
            found["valid_error"] = error
        if entry.cost is not None:
            rewards = self.objective._replace(target=None)
            points = [None if e.metric is None else (rewards.reward(e.metric), e.cost) for _, e in self.entries]
            found["front"] = pareto_front(points)
        return found
