"""Selections: how the strengths of the candidates become an architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastdarts.policies.base import Search, Selection
from fastdarts.spaces import Architecture, Space


class Strongest(Selection):
    """The rule of DARTS (Liu et al. 2019, section 2.4): the strongest edges of each node, each with its strongest
    operation; of a space with one kind of rule of its own, that."""

    def derive(self, space: Space, nodes: int, strengths: Sequence[Tensor]) -> Any:
        """By the rule of the space."""
        return space.strongest(strengths, nodes)

    def architecture(self, search: Search) -> Architecture:
        """What the supernet would become now."""
        return Architecture(search.space, search.model.genotype())
