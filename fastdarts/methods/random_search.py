"""Random search (Li and Talwalkar, "Random Search and Reproducibility for Neural Architecture Search", UAI 2019)."""

from __future__ import annotations

import torch

from fastdarts.engine.random_search import RandomSearch
from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.evaluators import BestOfMany, PathError
from fastdarts.policies.samplers import UniformPath
from fastdarts.registry import register
from fastdarts.runs.kinds import Batch
from fastdarts.spaces import Architecture, Space
from fastdarts.tasks.settings import SearchConfig, SupernetConfig

PAPER = "Li and Talwalkar, UAI 2019"


@register("random", paper=PAPER)
class Random(SearchConfig):
    """Random search: random cells are trained one by one, and the best is kept."""

    candidates: Batch | None = None
    """Random cells to compare (8)."""

    needs = frozenset({"training from scratch"})
    published = {"cifar": {"candidates": 8}}

    def build(self, space: Space) -> RandomSearch:
        generator = torch.Generator().manual_seed(self.seed)
        return RandomSearch([Architecture(space, space.sample(generator, self.nodes)) for _ in range(self.candidates)])


@register("random-ws", paper=PAPER)
class RandomSharing(SupernetConfig):
    """Random search with shared weights: one supernet, trained one random cell at a time, ranks many."""

    candidates: Batch | None = None
    """Random cells to compare (1000)."""

    needs = frozenset({"class logits"})
    published = {"cifar": {"candidates": 1000}}

    def check(self, space: Space) -> None:
        """A single cell has no mixture to drop edges of, or to compare."""
        if self.drop_path_prob:
            raise FastdartsError(
                "--drop-path-prob drops edges of a mixture, but method random-ws trains single cells: leave it out"
            )
        if self.alignment_every:
            raise FastdartsError(
                f"--alignment-every is {self.alignment_every} but method random-ws trains no mixture of candidates "
                "whose cells could be compared: leave it out"
            )

    def build(self, space: Space) -> Bilevel:
        return bilevel(
            self,
            space,
            order="together",
            path=UniformPath(space, self.nodes),
            monitors=(PathError(),),
            selection=BestOfMany(self.candidates),
        )
