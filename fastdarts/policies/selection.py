"""Selections: how the strengths of the candidates become an architecture."""

from __future__ import annotations

from fastdarts.policies.base import Search, Selection
from fastdarts.spaces import Architecture


class Strongest(Selection):
    """The rule of DARTS (Liu et al. 2019, section 2.4): the strongest edges of each node, each with its strongest
    operation; of a space with one kind of rule of its own, that."""

    def architecture(self, search: Search) -> Architecture:
        """What the supernet would become now."""
        return Architecture(search.space, search.model.genotype())
