"""Random search (Li and Talwalkar, "Random Search and Reproducibility for Neural Architecture Search", UAI 2019)."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from fastdarts.engine.blackbox import BlackBox, BlackBoxConfig
from fastdarts.errors import FastdartsError
from fastdarts.methods.common import refuse_mixture, single_path
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.evaluators import BestOfMany, PathError
from fastdarts.policies.samplers import UniformPath
from fastdarts.policies.searchers.base import Drawn
from fastdarts.registry import register
from fastdarts.runs.kinds import Batch, Count
from fastdarts.spaces import Space
from fastdarts.tasks.settings import SupernetConfig

PAPER = "Li and Talwalkar, UAI 2019"


@register("random", paper=PAPER)
class Random(BlackBoxConfig):
    """Random search: random architectures are judged one by one, and the best is kept."""

    candidates: Batch | None = None
    """Architectures to compare; --queries is another name for it (8)."""
    queries: Count | None = None
    """Architectures to evaluate; --candidates is another name for it (8)."""

    published = {"cifar": {"candidates": 8}}

    def left_out(self, space: Space) -> dict[str, Any]:
        found = super().left_out(space)
        return found | {"queries": self.candidates or found.get("candidates", 8), "candidates": self.queries or 8}

    def check(self, space: Space) -> None:
        """Both names of the number of architectures say the same."""
        super().check(space)
        if self.candidates != self.queries:
            raise FastdartsError(
                f"--candidates is {self.candidates} and --queries {self.queries}, which mean the same: give one of them"
            )

    def build(self, space: Space) -> BlackBox:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = Drawn(space.sample(generator, self.nodes) for _ in itertools.count())
        return BlackBox(self, space, drawn, drawn.decode)


@register("random-ws", paper=PAPER)
class RandomSharing(SupernetConfig):
    """Random search with shared weights: one supernet, trained one random cell at a time, ranks many."""

    candidates: Batch | None = None
    """Random cells to compare (1000)."""

    needs = frozenset({"class logits"})
    published = {"cifar": {"candidates": 1000}}

    def check(self, space: Space) -> None:
        """A single cell has no mixture to drop edges of, or to compare."""
        refuse_mixture(self, space)

    def build(self, space: Space) -> Bilevel:
        path = UniformPath(space.single, self.nodes)
        return single_path(self, path, BestOfMany(self.candidates, path), PathError(path))
