"""The settings of a projection: those of the search whose supernet is projected, but for what its schedule decides."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from fastdarts.errors import FastdartsError
from fastdarts.policies.projection import Projection
from fastdarts.policies.start import FromRun
from fastdarts.registry import find_method, methods
from fastdarts.runs.checkpoint import find_checkpoint, load_checkpoint, loading
from fastdarts.runs.kinds import Batch
from fastdarts.runs.run import stored_config
from fastdarts.spaces import Space, find_space
from fastdarts.tasks.settings import SearchConfig, SupernetConfig, resolve
from fastdarts.tasks.task import find_task, tasks


@dataclasses.dataclass(frozen=True)
class Projecting:
    """Settings of the methods that project the supernet of another search."""

    supernet: Path | None = None
    """Folder of the search whose supernet is projected."""
    decide_every: Batch = 5
    """Epochs of tuning from one decision of a projection to the next."""
    criterion: Literal["accuracy", "loss"] = "accuracy"
    """Measure by which a projection judges a candidate: that of the supernet without it."""
    bn_statistics: Literal["batch", "running"] = "batch"
    """Statistics by which BatchNorm normalises there: those of the batch, as published, or the running ones. The
    running ones lag behind decisions made since the last tuning."""

    needs = frozenset({"fixing", "class logits"})
    free_on_resume = SupernetConfig.free_on_resume | {"supernet"}

    def check(self, space: Space) -> None:
        """There is a supernet, and the epochs are those that its decisions take."""
        super().check(space)
        if self.supernet is None:
            raise FastdartsError(
                f"--method {self.method} got no --supernet: it projects that of a search; use fastdarts project RUN"
            )
        if self.epochs != (needed := projection_epochs(self)):
            raise FastdartsError(
                f"--epochs is {self.epochs} but the decisions of this projection, {self.decide_every} epochs apart, "
                f"take {needed}: use fastdarts project, which knows"
            )

    def prepared(self) -> Any:
        """``self``, once it is known that the supernet fits."""
        if self.resume is None:
            check_supernet(self)
        return self

    def policies(self) -> dict[str, Any]:
        """What a projection has of its own: where it starts, and how it decides."""
        return {
            "selection": Projection(self.decide_every, self.criterion, self.bn_statistics),
            "start": FromRun(self.supernet, lambda: check_supernet(self)),
        }


OWN = {
    "method", "run", "resume", "supernet", "decide_every", "criterion", "bn_statistics", "epochs", "learning_rate",
    "learning_rate_min", "learning_rate_warmup", "weight_decay", "warmup", "drop_path_prob", "gap_every", "max_memory",
}  # fmt: skip
"""Settings that a projection does not take over from the search."""


def projected(folder: Path, decide_every: int = Projecting.decide_every) -> Any:
    """The settings of a projection of the search in ``folder``, which are those of the search with these differences.

    The L2 is the one that the search ended with. The learning rate is a tenth of the search's, and stays. Tuning is
    first-order, without drop path.

    Raises :class:`FastdartsError` if that run has no supernet to project, or has not come to its end.
    """
    source = resolve(stored_config(folder, "search", SearchConfig))
    partial, edge_normalisation = getattr(source, "partial", 1), getattr(source, "edge_normalisation", False)
    lacking = sorted(Projecting.needs - find_space(source.space).has - find_task(source.task).has)
    if lacking:
        able = [name for name, task in tasks().items() if "class logits" in task.has]
        remedy = f"for task {' or '.join(able)}" if "class logits" in lacking else "in another space"
        raise FastdartsError(
            f"{folder} is a search by method {source.method}, which has no {' and '.join(lacking)} in space "
            f"{source.space} for task {source.task}: project one {remedy}"
        )
    reasons = (
        (isinstance(source, Projecting), "is a projection itself"),
        (partial > 1, f"lets channels bypass the candidates (--partial {partial})"),
        (edge_normalisation, "weights its edges by what no decision fixes (--edge-normalisation)"),
        (not source.projected_by, "is not among those whose supernets are projected"),
    )
    if why := next((reason for holds, reason in reasons if holds), None):
        able = [name for name, method in methods().items() if method.settings.projected_by]
        raise FastdartsError(
            f"{folder} is a search by method {source.method}, which {why}: project one by method {', '.join(able)} "
            "without --partial and --edge-normalisation"
        )
    path = find_checkpoint(folder)
    state = load_checkpoint(path, "search")
    with loading(path):
        done, epochs = state["epoch"], state["config"]["epochs"]
        weight_decay = state["supernet"]["optimizer"]["param_groups"][0]["weight_decay"]  # DARTS-ADA has raised it
    if done < epochs:
        raise FastdartsError(
            f"the search in {folder} has done {done} of {epochs} epochs: finish it first, by fastdarts search --resume "
            f"{folder}"
        )
    settings = find_method(source.projected_by).settings.of_task(source.task)
    names = {field.name for field in dataclasses.fields(settings)} - OWN
    config = settings(
        **{name: getattr(source, name) for name in names if hasattr(source, name)},
        weight_decay=weight_decay,
        supernet=folder,
        decide_every=decide_every,
        learning_rate=source.learning_rate / 10,
        learning_rate_min=source.learning_rate / 10,
        gap_every=0,
    )
    return dataclasses.replace(config, epochs=projection_epochs(config))


def projection_epochs(config: Any) -> int:
    """How many epochs of tuning a projection has: decisions come before the first, the last and every
    ``decide_every``-th one.

    As published, the last decision of two-input cells has an epoch of its own, while that of NAS-Bench-201 comes an
    epoch early.
    """
    cell = find_space(config.space).topology(resolve(config).nodes)
    if cell.kept is None:
        return config.decide_every * (len(cell.edges) - 1)
    return config.decide_every * (len(cell.edges) + cell.nodes - 2) + 1


def check_supernet(config: Any) -> None:
    """Raise :class:`FastdartsError` if what is in ``config.supernet`` cannot be projected with ``config``."""
    fitting, config = resolve(projected(config.supernet, config.decide_every)), resolve(config)
    for name in ("method", "space", "stem", "channels", "layers", "nodes", "partial", "edge_normalisation", "dataset"):
        mine, its = getattr(config, name), getattr(fitting, name)
        if mine != its:
            raise FastdartsError(
                f"--{name.replace('_', '-')} is {mine} but the projection of {config.supernet} has {its}: use "
                "fastdarts project, which takes the settings of the search"
            )
