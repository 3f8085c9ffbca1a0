"""DARTS-ES (Zela et al., "Understanding and Robustifying Differentiable Architecture Search", ICLR 2020).

A search ends where its curvature began to rise.
"""

from __future__ import annotations

import dataclasses

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.rollback import Growth, Rollback
from fastdarts.registry import register
from fastdarts.runs.kinds import Count, NotNegativeInt, Positive
from fastdarts.spaces import Space
from fastdarts.tasks.settings import BilevelConfig


@dataclasses.dataclass(frozen=True)
class RollbackConfig(BilevelConfig):
    """Settings of the methods that watch the largest eigenvalue, darts-es and darts-ada."""

    es_window: Count = 5
    """Measurements in a moving average of the eigenvalue."""
    es_lag: Count = 4
    """Measurements between the two averages that are compared."""
    es_factor: Positive = 1.3
    """Ratio of the newer average to the older one that ends a search; the paper's wording is 0.75 (older / newer) and
    lag 5."""
    es_start: NotNegativeInt = 10
    """First epoch to return to."""

    has_own_stop = True
    projected_by = "darts-pt"
    published = {"cifar": {"eigenvalue_every": 2}}

    def check(self, space: Space) -> None:
        """The eigenvalue must be measured, and must be able to rise."""
        super().check(space)
        if self.eigenvalue_every == 0:
            raise FastdartsError(
                f"--eigenvalue-every is 0 but method {self.method} decides by the eigenvalue: leave it out"
            )
        if self.es_factor == 1:
            raise FastdartsError("--es-factor is 1: expected more (newer / older) or less (older / newer)")

    def rollback(self, growth: Growth | None = None) -> Rollback:
        """What happens when it rises fast."""
        return Rollback(self.eigenvalue_every, self.es_window, self.es_lag, self.es_factor, self.es_start, growth)


@register("darts-es", paper="Zela et al., ICLR 2020")
class DARTSES(RollbackConfig):
    """DARTS-ES: DARTS, back to before the largest eigenvalue of the alphas' Hessian rose fast, and ended there."""

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space, stopper=self.rollback())
