"""Regularised evolution (Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019)."""

from __future__ import annotations

from fastdarts.engine.blackbox import BlackBoxConfig
from fastdarts.policies.searchers.evolution import Evolution
from fastdarts.registry import register
from fastdarts.runs.kinds import Count


@register("evolution", paper="Real et al., AAAI 2019")
class RegularisedEvolution(BlackBoxConfig):
    """Regularised evolution: the best of some drawn members has a child with one change, and the oldest member dies."""

    population: Count = 100
    """Members of the population; as many architectures are random at first."""
    tournament: Count = 25
    """Members that are drawn, of which the best becomes the parent."""
    allow_duplicates: bool = False
    """Architectures that were evaluated before may come again, as published; otherwise another child is drawn."""

    def searcher(self, sizes: tuple[int, ...]) -> Evolution:
        return Evolution(sizes, self.seed, self.population, self.tournament, self.allow_duplicates)
