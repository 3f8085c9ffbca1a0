"""Going back when the curvature rises: DARTS-ES and DARTS-ADA (Zela et al. 2020, "Understanding and Robustifying
Differentiable Architecture Search", sections 4.3 and 5.2)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from fastdarts.checkpoint import load_checkpoint, save_checkpoint, taking_up
from fastdarts.config import ROLLBACK, SearchConfig
from fastdarts.distributed import from_first, rank
from fastdarts.runs import Run
from fastdarts.stopping import early_stopping


class Searched(Protocol):
    """What of :class:`fastdarts.supernet.Supernet` is needed to go back."""

    optimizer: torch.optim.Optimizer

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def set_weight_decay(self, weight_decay: float) -> None: ...


@dataclass(frozen=True)
class Rollback:
    """What a search does after an epoch at which :func:`early_stopping` detects.

    The supernet goes back to the state after the epoch to return to. DARTS-ES ends there. DARTS-ADA (``adapt``) goes on
    from there with ``config.ada_factor`` times the L2 on the weights, as long as that is at most
    ``config.ada_max_weight_decay``, on the same learning rate schedule; it may go back again.

    Of the published DARTS-ADA are mended: the eigenvalues measured after the epoch to return to are forgotten with
    their epochs (the published tracker keeps them), their rows move from metrics.jsonl to rollback_1.jsonl, ... (the
    published lists grow beyond the number of epochs), and the unrolled step looks ahead with the new L2 (the published
    architect keeps the old one). DARTS-ES stops at any L2 (the published one does not at the maximum of DARTS-ADA).
    """

    adapt: bool

    def after(
        self, epoch: int, supernet: Searched, config: SearchConfig, run: Run, history: list[dict]
    ) -> tuple[int, int | None]:
        """Keep the state after ``epoch`` and go back if it is time, noting that in ``history``.

        Returns the epoch to go on with, and how many rows of metrics.jsonl remain (None: all).
        """
        decay = supernet.optimizer.param_groups[0]["weight_decay"]
        stronger = decay * config.ada_factor
        if self.adapt and stronger > config.ada_max_weight_decay * (1 + 1e-9):  # 3e-4 * 10 * 10 is not quite 0.03
            return epoch + 1, None
        folder = run.folder / "epochs"
        if rank() == 0 and epoch >= config.es_start and epoch % config.eigenvalue_every == 0:
            folder.mkdir(exist_ok=True)
            save_checkpoint(_kept(folder, epoch), "epoch", {"supernet": supernet.state_dict()})
            if not self.adapt:  # DARTS-ADA may return to an epoch before the one that it went on from
                span = config.eigenvalue_every * (config.es_window // 2 + config.es_lag + 1)
                _kept(folder, epoch - span).unlink(missing_ok=True)

        rows = run.rows()
        series = [(row["epoch"], row["eigenvalue"]) for row in rows if "eigenvalue" in row]
        found = series and early_stopping(
            *zip(*series, strict=True),
            window=config.es_window,
            lag=config.es_lag,
            factor=config.es_factor,
            start=config.es_start,
            total_epochs=config.epochs,
        )
        if not found or found[0] != epoch:
            return epoch + 1, None
        back = found[1]
        path = _kept(folder, back)
        state = from_first(lambda: load_checkpoint(path, "epoch"))
        with taking_up(path):
            supernet.load_state_dict(state["supernet"])
        event = {name: rows[back][name] for name in ("epoch", "valid_error", "genotype")} | {"detected": epoch}
        if not self.adapt:
            history.append(event)
            return config.epochs, None
        supernet.set_weight_decay(stronger)
        history.append(event | {"weight_decay": stronger})
        undone = "".join(json.dumps(row) + "\n" for row in rows[back + 1 :])
        run.recorder.write_text(f"rollback_{len(history)}.jsonl", undone)
        return back + 1, back + 1

    def final_row(self, rows: list[dict[str, Any]], history: list[dict]) -> dict[str, Any]:
        """The row of the epoch whose supernet is the result."""
        return rows[history[-1]["epoch"]] if history and not self.adapt else rows[-1]


def why_never(config: SearchConfig) -> str:
    """What is to be said about a search by DARTS-ES or DARTS-ADA that is too short to go back; else ""."""
    if config.method not in ROLLBACK:
        return ""
    spans = -(-config.es_start // config.eigenvalue_every) + config.es_window // 2 + config.es_lag
    first = spans * config.eigenvalue_every + 1  # epochs done when the first two averages are compared
    if first < config.epochs:
        return ""
    return (
        f"method {config.method} never goes back within {config.epochs} epochs, as its first comparison comes after "
        f"{first} and not after the last one: lower --es-start, --es-window, --es-lag or --eigenvalue-every, or raise "
        "--epochs"
    )


def _kept(folder: Path, epoch: int) -> Path:
    return folder / f"epoch_{epoch}.pt"
