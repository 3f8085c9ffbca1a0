"""DARTS-ADA (Zela et al., "Understanding and Robustifying Differentiable Architecture Search", ICLR 2020).

A search goes back to where its curvature began to rise, and its weights get more L2.
"""

from __future__ import annotations

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.methods.darts_es import RollbackConfig
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.rollback import Growth
from fastdarts.registry import register
from fastdarts.runs.kinds import Positive
from fastdarts.spaces import Space


@register("darts-ada", paper="Zela et al., ICLR 2020")
class DARTSADA(RollbackConfig):
    """DARTS-ADA: DARTS, back to before the largest eigenvalue rose fast, and on from there with more L2."""

    ada_factor: Positive = 10.0
    """Factor of the L2 on the weights at every return."""
    ada_max_weight_decay: Positive = 0.03
    """Largest L2 that the weights may get."""

    def check(self, space: Space) -> None:
        """The L2 must grow, and must have room to."""
        super().check(space)
        if not self.weight_decay * self.ada_factor > self.weight_decay:
            raise FastdartsError(
                f"--weight-decay is {self.weight_decay} and --ada-factor {self.ada_factor}: method darts-ada ends "
                "because the L2 grows; choose a weight decay above 0 and a factor above 1"
            )
        if self.resume is None and self._growth.after(self.weight_decay) is None:
            raise FastdartsError(
                f"--weight-decay is {self.weight_decay} and --ada-factor {self.ada_factor}, whose product is above "
                f"--ada-max-weight-decay {self.ada_max_weight_decay}: method darts-ada would never go back; lower one "
                "of the first two or raise the third"
            )

    @property
    def _growth(self) -> Growth:
        return Growth(self.ada_factor, self.ada_max_weight_decay)

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space, stopper=self.rollback(self._growth))
