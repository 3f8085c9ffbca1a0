"""OLES (Jiang et al., "Operation-Level Early Stopping for Robustifying Differentiable NAS", NeurIPS 2023)."""

from __future__ import annotations

from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.freezing import Freezing, Watched
from fastdarts.registry import register
from fastdarts.runs.kinds import Count, Portion
from fastdarts.spaces import Space
from fastdarts.tasks.settings import AlphaConfig, ArchSideEffects


@register("oles", paper="Jiang et al., NeurIPS 2023")
class OLES(ArchSideEffects, AlphaConfig):
    """OLES: DARTS that freezes an operation once what it learns in training no longer serves the validation images."""

    freeze_window: Count = 20
    """Steps over which the likeness of both gradients of an operation is averaged."""
    freeze_below: Portion = 0.4
    """Mean cosine of the gradients below which an operation is frozen."""

    needs = frozenset({"fixing"})

    def build(self, space: Space) -> Bilevel:
        freezing = Freezing(self.freeze_window, self.freeze_below)
        return bilevel(self, space, hypergradient=Watched(freezing), selection=freezing)
