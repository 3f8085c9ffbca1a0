"""FairDARTS (Chu et al., "Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search", ECCV 2020).

As in the public code, the two edges of a node are chosen before the threshold is applied. Its evaluation drops the sum
of a node, which ours does not: drop path acts on each operation, as in DARTS.
"""

from __future__ import annotations

from typing import Literal

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel, refuse_idle, refuse_none
from fastdarts.policies.bilevel import AlphaOptimizer, Bilevel
from fastdarts.policies.penalties import ZeroOne
from fastdarts.policies.relaxations import Sigmoid
from fastdarts.policies.selection import Strongest, Threshold
from fastdarts.registry import register
from fastdarts.runs.kinds import NotNegative, Portion
from fastdarts.spaces import Space
from fastdarts.tasks.settings import BilevelConfig


@register("fair-darts", paper="Chu et al., ECCV 2020")
class FairDARTS(BilevelConfig):
    """FairDARTS: candidates have gates of their own, do not compete, and are pulled towards 0 or 1."""

    space: str = "darts-7"
    """Space to search in, one without the candidate none."""
    zero_one_weight: NotNegative = 10.0
    """Weight of the zero-one loss in the loss of the alphas."""
    zero_one: Literal["l2", "l1"] = "l2"
    """Distance of a gate from 1/2 that the zero-one loss rewards: its square, or its absolute value."""
    threshold: Portion = 0.85
    """Least gate of a candidate that the derived cell keeps."""
    parse: Literal["threshold-sparse", "threshold-edge", "darts"] = "threshold-sparse"
    """Rule by which a cell is derived. threshold-sparse: of the two strongest edges of a node, the strongest candidate
    each. threshold-edge: of every edge, the two strongest candidates. darts: DARTS' rule, without the threshold."""

    published = {"cifar": {"batch_size": 128, "learning_rate": 0.005, "arch_learning_rate": 3e-3}}

    def check(self, space: Space) -> None:
        """A gate of `none` would mean nothing: the gates of an edge may all be open, or all closed."""
        super().check(space)
        refuse_none(self, space, "leaves an edge out by closing its gates")
        if self.parse == "darts":
            refuse_idle(self, ["threshold"], "the other values of --parse")
        if self.parse != "darts" and "free edges" not in space.has:
            raise FastdartsError(
                f"--parse is {self.parse}, but a node of space {space.name} has two inputs, whatever their gates: use "
                "--parse darts"
            )
        if self.parse != "darts" and self.edge_normalisation:
            raise FastdartsError(
                f"--edge-normalisation weights the edges, but --parse is {self.parse}, whose threshold is on the gates "
                "alone: use --parse darts, or --edge-normalisation False"
            )

    def build(self, space: Space) -> Bilevel:
        adam = AlphaOptimizer(self.arch_learning_rate, self.arch_weight_decay, self.arch_grad_clip, (0.9, 0.999))
        per_edge = self.parse == "threshold-edge"
        return bilevel(
            self,
            space,
            alphas=adam,
            relaxation=Sigmoid(),
            penalty=ZeroOne(self.zero_one_weight, self.zero_one == "l2"),
            selection=Strongest() if self.parse == "darts" else Threshold(self.threshold, per_edge=per_edge),
        )
