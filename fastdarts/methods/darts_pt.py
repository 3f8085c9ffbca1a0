"""DARTS-PT (Wang et al., "Rethinking Architecture Selection in Differentiable NAS", ICLR 2021).

What the supernet of a search loses without a candidate says what that candidate is worth.
"""

from __future__ import annotations

from fastdarts.engine.projecting import Projecting
from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.registry import register
from fastdarts.spaces import Space
from fastdarts.tasks.settings import AlphaConfig, ArchSideEffects, SupernetConfig

PAPER = "Wang et al., ICLR 2021"


@register("blank", paper=PAPER)
class Blank(SupernetConfig):
    """Blank supernet: the weights learn, the alphas stay as they are; `fastdarts project` makes a genotype of it."""

    projected_by = "blank-pt"

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space, order="together")


@register("darts-pt", paper=PAPER)
class DARTSPT(ArchSideEffects, Projecting, AlphaConfig):
    """DARTS-PT: the supernet of a search loses one candidate at a time, and is tuned in between (algorithm 1)."""

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space, **self.policies())


@register("blank-pt", paper=PAPER)
class BlankPT(Projecting, SupernetConfig):
    """blank-PT: the same for the supernet of a search by method blank."""

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space, order="together", **self.policies())
