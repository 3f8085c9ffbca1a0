"""SGAS (Li et al., "SGAS: Sequential Greedy Architecture Search", CVPR 2020)."""

from __future__ import annotations

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.decisions import GreedyDecisions
from fastdarts.registry import register
from fastdarts.runs.kinds import Count, NotNegativeInt
from fastdarts.spaces import CellSpace, Space
from fastdarts.tasks.settings import BilevelConfig


@register("sgas", paper="Li et al., CVPR 2020")
class SGAS(BilevelConfig):
    """SGAS: edges are decided one after another during the search, the most certain ones first (section 3.2)."""

    decide_from: NotNegativeInt = 9
    """Epoch, counted from 0, after which the first edge of each kind of cell is decided."""
    decide_every: Count = 5
    """Epochs from one decision to the next; the public code recommends 7, with 64 epochs."""
    decide_history: NotNegativeInt = 0
    """Earlier epochs that the stability of an edge looks at: 4 is criterion 2; 0, without stability, criterion 1."""
    batch_growth: NotNegativeInt = 8
    """Images by which the batches grow with every decision, as decided edges take less memory."""

    needs = frozenset({"fixing"})
    projected_by = "darts-pt"

    def check(self, space: Space) -> None:
        """Edges must be decidable, and the epochs enough to decide all that a cell keeps."""
        super().check(space)
        tables = space.primitives(self.nodes).values()
        operations = {len(row) - row.count("none") for table in tables for row in table if "none" in row}
        if not isinstance(space, CellSpace) or not all("none" in row for table in tables for row in table):
            raise FastdartsError(
                f"--method sgas decides edges of cells like those of DARTS by the weight of `none`, but space "
                f"{space.name} has others, or edges without it: choose another space, such as darts"
            )
        if min(operations) < 2:
            raise FastdartsError(
                f"--method sgas needs two operations beside `none` on every edge, but space {space.name} has edges "
                "with fewer: choose another space"
            )
        if self.partial > 1 or self.edge_normalisation:
            raise FastdartsError(
                f"--partial is {self.partial} and --edge-normalisation {self.edge_normalisation}, but a pruned edge of "
                "method sgas must carry nothing: leave both out"
            )
        if self.max_memory is not None and self.batch_growth:
            raise FastdartsError(
                f"--max-memory is {self.max_memory} but the batches of method sgas grow by {self.batch_growth} images "
                "with every decision: use --batch-growth 0, or leave --max-memory out"
            )
        cell = space.topology(self.nodes)
        rounds = sum(min(cell.kept, len(cell.into(target))) for target in cell.targets)
        needed = self.decide_from + self.decide_every * (rounds - 1) + 2
        if self.epochs < needed:
            raise FastdartsError(
                f"--epochs is {self.epochs} but {rounds} decisions, the first after epoch {self.decide_from} and "
                f"{self.decide_every} epochs apart, need {needed}: raise it, or lower --decide-from or --decide-every"
            )

    def build(self, space: Space) -> Bilevel:
        decisions = GreedyDecisions(self.decide_from, self.decide_every, self.decide_history, self.batch_growth)
        return bilevel(self, space, selection=decisions)
