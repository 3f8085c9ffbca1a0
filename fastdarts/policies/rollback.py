"""Going back when the curvature rises: DARTS-ES and DARTS-ADA (Zela et al. 2020, "Understanding and Robustifying
Differentiable Architecture Search", sections 4.3 and 5.2)."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from fastdarts.policies.base import Next, Row, Search, Stopper
from fastdarts.policies.stopping import early_stopping


class Growth(NamedTuple):
    """How the L2 on the weights grows at a return: by a factor, up to a maximum."""

    factor: float
    most: float

    def after(self, weight_decay: float) -> float | None:
        """The L2 after a return; None if it would be above the maximum."""
        stronger = weight_decay * self.factor
        return stronger if stronger <= self.most * (1 + 1e-9) else None  # 3e-4 * 10 * 10 is not quite 0.03


class Rollback(Stopper):
    """What a search does after an epoch at which :func:`early_stopping` detects.

    The supernet goes back to the state after the epoch to return to. DARTS-ES ends there. DARTS-ADA goes on from there
    with a larger L2 on the weights and the same learning rate schedule. It goes back as long as the L2 may grow.

    Four things differ from the published code. The eigenvalues measured after the epoch to return to are forgotten; the
    published tracker keeps them. Their rows move from metrics.jsonl to rollback_1.jsonl and so on; the published lists
    grow beyond the number of epochs. The unrolled step looks ahead with the new L2; the published architect keeps the
    old one. DARTS-ES stops at any L2; the published one does not at the maximum of DARTS-ADA.

    Args:
        every: epochs between two eigenvalues.
        window, lag, factor, start: see :func:`early_stopping`.
        growth: of the L2 in DARTS-ADA; None for DARTS-ES.
    """

    def __init__(
        self,
        every: int,
        window: int = 5,
        lag: int = 4,
        factor: float = 1.3,
        start: int = 10,
        growth: Growth | None = None,
    ):
        self.every, self.window, self.lag, self.factor, self.start = every, window, lag, factor, start
        self.growth, self.history = growth, []

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = list(state["history"])

    def after(self, search: Search) -> Next:
        """Keep the state after the epoch at work, and go back if it is time."""
        epoch, go_on = search.epoch, Next(search.epoch + 1)
        stronger = self.growth.after(search.weight_decay) if self.growth else None
        if self.growth and stronger is None:
            return go_on
        if epoch >= self.start and epoch % self.every == 0:
            search.keep(epoch)
            if not self.growth:  # DARTS-ADA may return to an epoch before the one that it went on from
                search.forget(epoch - self.every * (self.window // 2 + self.lag + 1))
        rows = search.rows()
        series = [(row["epoch"], row["eigenvalue"]) for row in rows if "eigenvalue" in row]
        found = series and early_stopping(
            *zip(*series, strict=True),
            window=self.window,
            lag=self.lag,
            factor=self.factor,
            start=self.start,
            total_epochs=search.epochs,
        )
        if not found or found[0] != epoch:
            return go_on
        back = found[1]
        search.restore(back)
        event = {name: rows[back][name] for name in ("epoch", search.metric.name, "genotype")} | {"detected": epoch}
        if not self.growth:
            self.history.append(event)
            return Next(search.epochs)
        search.weight_decay = stronger
        self.history.append(event | {"weight_decay": stronger})
        undone = "".join(json.dumps(row) + "\n" for row in rows[back + 1 :])
        search.write_text(f"rollback_{len(self.history)}.jsonl", undone)
        return Next(back + 1, back + 1)

    def final_row(self, rows: list[Row]) -> Row:
        """The row of the epoch whose supernet is the result."""
        return rows[self.history[-1]["epoch"]] if self.history and not self.growth else rows[-1]

    def facts(self, search: Search) -> Row:
        """The L2 on the weights, where it changes."""
        return {"weight_decay": search.weight_decay} if self.growth else {}

    def note(self, epochs: int) -> str:
        """That a search is too short to go back."""
        spans = -(-self.start // self.every) + self.window // 2 + self.lag
        first = spans * self.every + 1  # epochs done when the first two averages are compared
        if first < epochs:
            return ""
        return (
            f"this search never goes back within {epochs} epochs, as its first comparison comes after {first} and not "
            "after the last one: lower --es-start, --es-window, --es-lag or --eigenvalue-every, or raise --epochs"
        )

    def events(self) -> Row:
        """Every return."""
        return {"rollbacks": self.history}
