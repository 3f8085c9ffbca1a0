"""DARTS− (Chu et al., "DARTS−: Robustly Stepping out of Performance Collapse Without Indicators", ICLR 2021)."""

from __future__ import annotations

from typing import Literal

from fastdarts.methods.common import bilevel
from fastdarts.policies.auxiliary import AuxiliarySkip
from fastdarts.policies.bilevel import Bilevel
from fastdarts.registry import register
from fastdarts.runs.kinds import NotNegative
from fastdarts.spaces import Space
from fastdarts.tasks.settings import BilevelConfig


@register("darts-minus", paper="Chu et al., ICLR 2021")
class DARTSMinus(BilevelConfig):
    """DARTS−: DARTS with one more skip connection on every edge, whose weight falls to 0 and which is not derived."""

    skip_beta: NotNegative = 1.0
    """Weight of the auxiliary skip connections in the first epoch."""
    skip_decay: Literal["linear", "cosine", "slow-cosine", "constant"] = "linear"
    """Way in which that weight falls; slow-cosine is a quarter of a period, cosine half of one."""

    needs = frozenset({"auxiliary candidates"})

    def build(self, space: Space) -> Bilevel:
        stages = AuxiliarySkip(self.epochs, space, self.skip_beta, self.skip_decay)
        return bilevel(self, space, stages=stages)
