"""SNAS (Xie et al., "SNAS: Stochastic Neural Architecture Search", ICLR 2019)."""

from __future__ import annotations

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.costs import ResourceCost
from fastdarts.policies.relaxations import Concrete
from fastdarts.policies.selection import EveryEdge, Strongest
from fastdarts.registry import register
from fastdarts.runs.kinds import Epochs, NotNegative, Positive
from fastdarts.spaces import CellSpace, Space
from fastdarts.tasks.settings import AlphaConfig


@register("snas", paper="Xie et al., ICLR 2019")
class SNAS(AlphaConfig):
    """SNAS: each step draws soft mixing weights, and alphas and weights learn from its loss together, on all images."""

    epochs: Epochs = 150
    """Passes over all images."""
    tau_start: Positive = 1.0
    """Temperature from which that of the drawing begins to fall."""
    tau_end: Positive = 0.03
    """Temperature in the last epoch; it falls by equal steps."""
    resource_weight: NotNegative = 1.5e-3
    """Weight of what the drawn cells cost: parameters, multiplications and memory traffic; 0 for none."""
    resource_ratio: NotNegative = 1.0
    """Weight of the reduction cell's cost over that of the normal cell."""

    published = {"cifar": {"arch_grad_clip": 10.0}}

    def check(self, space: Space) -> None:
        """Costs are known of candidates that compute maps of cells."""
        super().check(space)
        priced = isinstance(space, CellSpace) and "priced candidates" in space.has
        if self.resource_weight and not priced:
            raise FastdartsError(
                f"--resource-weight is {self.resource_weight} but space {space.name} has no cells with priced "
                "candidates: use --resource-weight 0"
            )

    def build(self, space: Space) -> Bilevel:
        concrete = Concrete(self.tau_start, self.tau_end, self.seed)
        costs = ResourceCost(concrete, self.resource_weight, self.resource_ratio) if self.resource_weight else None
        return bilevel(
            self,
            space,
            relaxation=concrete,
            order="together",
            held_out=False,
            penalty=costs,
            selection=EveryEdge() if "free edges" in space.has else Strongest(),
        )
