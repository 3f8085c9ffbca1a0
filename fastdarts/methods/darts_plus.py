"""DARTS+ (Liang et al., "DARTS+: Improved Differentiable Architecture Search with Early Stopping", arXiv:1909.06035,
2019)."""

from __future__ import annotations

from typing import Literal

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel, refuse_idle
from fastdarts.nn.operations import SKIP_CONNECTIONS
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.enough import ManySkips, SameRanking, learning
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
    """First epoch, counted from 0, after which they may end it (skips). No epoch of a warm-up does."""
    stop_epochs: Count = 10
    """Epochs for which the order must have been the same, those of a warm-up not among them (ranking)."""

    has_own_stop = True
    projected_by = "darts-pt"

    def check(self, space: Space) -> None:
        """There is something to count."""
        super().check(space)
        if self.stop_by == "skips":
            refuse_idle(self, ["stop_epochs"], "--stop-by ranking")
        else:
            refuse_idle(self, ["stop_skips", "stop_from"], "--stop-by skips")
        named = [{name for row in table for name in row} for table in space.primitives(self.nodes).values()]
        if self.stop_by == "skips" and (space.cell.made_of or not named[0] & SKIP_CONNECTIONS):
            raise FastdartsError(
                f"--stop-by is skips but space {space.name} offers no skip connection: use --stop-by ranking, or "
                "another space"
            )
        most = max(len(learning(row)) for table in space.primitives(self.nodes).values() for row in table)
        if self.stop_by == "ranking" and (space.cell.made_of or most < 2):
            raise FastdartsError(
                f"--stop-by is ranking but no edge of space {space.name} offers two candidates with weights of their "
                "own, whose order could change: use --stop-by skips, or another space"
            )
        if self.stop_by == "ranking" and self.warmup + self.stop_epochs > self.epochs:
            raise FastdartsError(
                f"--stop-epochs is {self.stop_epochs} after --warmup {self.warmup}, but the search has --epochs "
                f"{self.epochs}: expected no more than it has"
            )

    def build(self, space: Space) -> Bilevel:
        if self.stop_by == "skips":
            stopper = ManySkips(self.stop_skips, max(self.stop_from, self.warmup))
        else:
            stopper = SameRanking(self.stop_epochs, self.warmup)
        return bilevel(self, space, stopper=stopper)
