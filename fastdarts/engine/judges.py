"""What says how good an architecture is without training it: a table, a supernet's weights, or its size."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch

from fastdarts.engine.counted import Counted
from fastdarts.engine.history import Failed
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.nn.statistics import batch_statistics
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.evaluators import shared_error
from fastdarts.policies.samplers import chosen_by
from fastdarts.policies.searchers.objective import Objective
from fastdarts.runs.checkpoint import find_checkpoint, load_checkpoint, loading
from fastdarts.runs.run import stored_config
from fastdarts.spaces import Architecture, Space
from fastdarts.spaces.tabular import Direction, better, read_tabular
from fastdarts.tasks.images.batches import Batches
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.task import find_task


class Judge(ABC):
    """Gives each architecture a metric.

    Attributes:
        digest: of the file that it reads, which a search that goes on must find as it was; "" for none.
    """

    digest = ""

    @abstractmethod
    def objective(self, direction: Direction | None, target: float | None) -> Objective:
        """How the metric becomes a reward; with a direction of the user's, in that direction."""

    def open(self, device: torch.device) -> None:  # noqa: B027 - may stay as it is
        """Prepare what judges, on this device."""

    @abstractmethod
    def __call__(self, architecture: Architecture, text: str) -> float:
        """The metric; raises :class:`Failed` if there is none."""

    def introduction(self) -> str:
        """What is said of it before the search, in one line."""
        return ""


class TableJudge(Judge):
    """The values of a user's file."""

    def __init__(self, config: Any, space: Space):
        self.path, self.table = config.table, read_tabular(config.table, space, config.column, config.nodes)
        self.digest = self.table.digest
        self.size = space.size(config.nodes)

    def objective(self, direction: Direction | None, target: float | None) -> Objective:
        name = self.table.metric
        numbers: Iterable[float] = (value for value in self.table.values.values() if value is not None)
        return Objective.of(name, direction or better(name), numbers, target)

    def __call__(self, architecture: Architecture, text: str) -> float:
        if text not in self.table.values:
            raise Failed("the table does not have it")
        if (value := self.table.values[text]) is None:
            raise Failed(f"its {self.table.metric} is not finite")
        return value

    def introduction(self) -> str:
        objective = self.objective(None, None)
        return (
            f"table {self.path}: {objective.name} of {len(self.table.values)} of {self.size} architectures, from which "
            f"a search learns without a training"
        )


class SizeJudge(Judge):
    """How large or how slow a network is, as a guess of how good it is."""

    def __init__(self, kind: str, count: Callable[[str, Architecture], float]):
        self.kind, self._count = kind, count

    def objective(self, direction: Direction | None, target: float | None) -> Objective:
        return Objective(self.kind, "maximize", None, target)

    def __call__(self, architecture: Architecture, text: str) -> float:
        return self._count(self.kind, architecture)


class SupernetJudge(Judge):
    """The error in percent with the weights of a supernet, on the validation half of its images.

    BatchNorms use the statistics of the batch: the running ones belong to all architectures together.
    """

    def __init__(self, config: Any, space: Space):
        folder = config.shared_weights
        settings = resolve(stored_config(folder, "search", SearchConfig))
        if settings.space != space.name or not isinstance(settings.build(space), Bilevel):
            raise FastdartsError(
                f"--shared-weights is {folder}, a search by method {settings.method} in space {settings.space}: "
                f"expected one that trains a supernet in space {space.name}"
            )
        self.space, self.settings, self.path = space, settings, find_checkpoint(folder)
        self.state = load_checkpoint(self.path, "search")

    def objective(self, direction: Direction | None, target: float | None) -> Objective:
        return Objective("valid_error", "minimize", 100.0, target)

    def open(self, device: torch.device) -> None:
        settings = self.settings
        problem = find_task(settings.task).problem(settings, self.space)
        self.step, self.device = SearchStep(settings, problem, device), device
        with loading(self.path):
            self.step.load_state_dict(self.state["supernet"])
        held_out = Batches(problem.data.train, problem.halves[1], settings.batch_size, problem.eval_transform(), 0)
        self.batches = [(x.to(device), y.to(device)) for x, y in held_out.in_order()]

    def __call__(self, architecture: Architecture, text: str) -> float:
        chosen = chosen_by(self.step.space, architecture.genotype, self.settings.nodes)
        logits = functools.partial(self.step.model.discrete, chosen=chosen)
        with batch_statistics(self.step.model), self.step.autocast():
            return shared_error(logits, self.batches, self.device)


def judge_of(config: Any, space: Space, costs: Counted) -> Judge | None:
    """What judges with these settings; None if networks are trained."""
    by = config.judged_by
    if by == "table":
        return TableJudge(config, space)
    if by == "supernet":
        return SupernetJudge(config, space)
    return None if by == "training" else SizeJudge(by, costs.count)
