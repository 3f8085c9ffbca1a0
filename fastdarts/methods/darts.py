"""DARTS (Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019)."""

from __future__ import annotations

from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.registry import register
from fastdarts.spaces import Space
from fastdarts.tasks.settings import AlphaConfig, ArchSideEffects, BilevelConfig

PAPER = "Liu et al., ICLR 2019"


@register("darts", paper=PAPER)
class DARTS(BilevelConfig):
    """DARTS: alphas learn from held-out images and weights from the rest, in turn (sections 2 and 3.1)."""

    projected_by = "darts-pt"

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space)


@register("joint", paper=PAPER)
class Joint(AlphaConfig):
    """Joint baseline of DARTS: alphas and weights learn from the same images, in one step (section 3.3)."""

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space, order="together", held_out=False)


@register("coordinate", paper=PAPER)
class Coordinate(ArchSideEffects, AlphaConfig):
    """Coordinate baseline of DARTS: alphas and weights learn from the same images, in turn (section 3.3)."""

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space, held_out=False)
