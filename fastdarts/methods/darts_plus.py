"""DARTS+ (Liang et al., "DARTS+: Improved Differentiable Architecture Search with Early Stopping", arXiv:1909.06035,
2019)."""

from __future__ import annotations

from typing import Literal

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.enough import WEIGHTLESS, ManySkips, SameRanking
from fastdarts.registry import register
from fastdarts.runs.kinds import Count, EpochsOrNone
from fastdarts.spaces import Space
from fastdarts.tasks.settings import BilevelConfig


@register("darts-plus", paper="Liang et al., arXiv 2019")
class DARTSPlus(BilevelConfig):
    """DARTS+: DARTS that ends at two skip connections in the normal cell, or when candidates keep their order."""

    stop_by: Literal["skips", "ranking"] = "skips"
    """Criterion by which the search ends. skips: criterion 1, the skip connections of the derived normal cell. ranking:
    criterion 2, the order of the operations that learn on every edge."""
    stop_skips: Count = 2
    """Skip connections of the normal cell that end a search (skips)."""
    stop_from: EpochsOrNone = 0
    """First epoch, counted from 0, after which they may end it (skips)."""
    stop_epochs: Count = 10
    """Epochs for which the order must have been the same (ranking)."""

    has_own_stop = True
    projected_by = "darts-pt"

    def check(self, space: Space) -> None:
        """There is something to count."""
        super().check(space)
        named = [{name for row in table for name in row} for table in space.primitives(self.nodes).values()]
        if self.stop_by == "skips" and "skip_connect" not in named[0]:
            raise FastdartsError(
                f"--stop-by is skips but space {space.name} offers no skip_connect: use --stop-by ranking, or another "
                "space"
            )
        if self.stop_by == "ranking" and (space.cell.made_of or set().union(*named) <= WEIGHTLESS):
            raise FastdartsError(
                f"--stop-by is ranking but no candidate of space {space.name} has weights of its own: use another space"
            )

    def build(self, space: Space) -> Bilevel:
        by_skips = self.stop_by == "skips"
        stopper = ManySkips(self.stop_skips, self.stop_from) if by_skips else SameRanking(self.stop_epochs)
        return bilevel(self, space, stopper=stopper)
