"""Search without gradients: a searcher proposes architectures, an evaluator says how good each is, and so on."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from fastdarts.engine.children import train_children
from fastdarts.engine.counted import costs_of
from fastdarts.engine.following import follow
from fastdarts.engine.history import History
from fastdarts.engine.judges import Judge, judge_of
from fastdarts.engine.queries import query
from fastdarts.errors import FastdartsError
from fastdarts.policies.searchers.base import Choice, Searcher
from fastdarts.policies.searchers.objective import Objective
from fastdarts.policies.searchers.optuna_samplers import import_optuna
from fastdarts.runs.checks import parse_count, parse_seconds
from fastdarts.runs.kinds import Count, Epochs, Few, Workers
from fastdarts.runs.run import Run
from fastdarts.runs.settings import RunConfig
from fastdarts.runs.writer import Progress
from fastdarts.spaces import Space
from fastdarts.spaces.tabular import Direction
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig
from fastdarts.tasks.task import Data, NoData, find_task

Evaluator = Literal["training", "table", "supernet", "parameters", "macs", "latency"]


@dataclass(frozen=True)
class BlackBoxConfig(SearchConfig):
    """Settings of the methods that ask for architectures and are told how good they are."""

    group: ClassVar[str] = "black-box search"

    epochs: Epochs = 50
    """Epochs of the training of each architecture."""
    queries: Count | None = None
    """Architectures to evaluate (1000)."""
    evaluator: Evaluator | None = None
    """Measure of how good an architecture is. training: its network is trained from scratch. table: --table says it.
    supernet: the weights of --shared-weights judge it. parameters, macs and latency: the more, the better. Left out, it
    follows from --table and --shared-weights; without both it is training."""
    table: Path | None = None
    """CSV or JSON file with a metric for each architecture, such as those of NAS-Bench-201."""
    column: str | None = None
    """Column of the table; by default the first one with numbers."""
    direction: Direction | None = None
    """Sense of that column. By default less of an error, a loss, a perplexity or a latency is better, and more of
    anything else."""
    shared_weights: Path | None = None
    """Folder of a search whose supernet judges the architectures."""
    rungs: tuple[Epochs, ...] = ()
    """Epochs after which a training ends early, unless its error is among the best of those that came so far."""
    reduction: Few = 3
    """Number of trainings at a rung of which one goes on (successive halving)."""
    cost: Literal["parameters", "macs", "latency"] | None = None
    """Cost of the networks that is counted; method nsga2 lowers it, and the report shows the Pareto front. latency is
    measured on this device, for one image."""
    target: str | None = None
    """Cost to aim at, such as 500k or 5ms: the reward is multiplied by (cost / target)^-0.07, as in MnasNet."""
    cost_table: Path | None = None
    """Latencies in the key format of ProxylessNAS, JSON or YAML, or the latency.json of another run. A table of this
    processor is measured further; in others a missing key is an error."""
    max_parameters: str | None = None
    """Most parameters of a network, such as 500k; a larger one counts as failed."""
    max_macs: str | None = None
    """Most multiply-accumulates of an image, such as 50M; a network with more counts as failed."""
    processes: Workers | None = None
    """Worker processes on this machine, each with an architecture of its own. 0 leaves all to `fastdarts worker`. Left
    out, the search asks and judges by itself, one architecture after another."""
    storage: str | None = None
    """Storage of Optuna that workers share: a file on a shared disk, postgresql://..., or grpc://HOST:PORT
    (trials.journal in the run's folder)."""
    study: str | None = None
    """Title of the search in that storage (the name of the run's folder)."""

    @property
    def judged_by(self) -> Evaluator:
        """The evaluator that is meant."""
        if self.evaluator is not None:
            return self.evaluator
        return "table" if self.table else "supernet" if self.shared_weights else "training"

    def left_out(self, space: Space) -> dict[str, Any]:
        return {"queries": 1000, **super().left_out(space)}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("table", "shared_weights", "cost_table"):
            if isinstance(path := getattr(self, name), Path):  # what it is else is said when the settings are checked
                object.__setattr__(self, name, Path(os.path.abspath(path)))

    def prepared(self) -> BlackBoxConfig:
        """What trains nothing has no curves for TensorBoard, which takes seconds to load."""
        silent = self.judged_by != "training" and self.loggers == RunConfig.loggers
        return replace(self, loggers=()) if silent else self

    def check(self, space: Space) -> None:
        """There is what the evaluator needs, and nothing that it does not use."""
        by = self.judged_by
        for name, wanted in (("table", "table"), ("shared_weights", "supernet")):
            flag, given = f"--{name.replace('_', '-')}", getattr(self, name) is not None
            if given != (by == wanted):
                said = (
                    f"{flag} is given but the evaluator is {by}: leave one of them out"
                    if given
                    else (f"--evaluator is {by}, which needs {flag}: give it")
                )
                raise FastdartsError(said)
        for name in ("column", "direction"):
            if getattr(self, name) is not None and by != "table":
                raise FastdartsError(f"--{name} is {getattr(self, name)} but there is no --table: leave it out")
        if by == "training" and (lacking := {"training from scratch"} - find_task(space.task).has):
            raise FastdartsError(
                f"--method {self.method} needs {lacking.pop()}, which searches in space {space.name} do not have: give "
                "a --table, or choose another space"
            )
        if self.rungs and by != "training":
            raise FastdartsError(f"--rungs end trainings early, but the evaluator is {by}: leave it out")
        ascending = all(before < after for before, after in pairwise((*self.rungs, self.epochs)))
        if not ascending:
            raise FastdartsError(
                f"--rungs is {' '.join(map(str, self.rungs))}: expected ascending epochs below --epochs {self.epochs}"
            )
        if self.target is not None and self.cost is None:
            raise FastdartsError(f"--target is {self.target} but no cost is counted: add --cost")
        if self.cost_table is not None and "latency" not in (self.cost, by):
            raise FastdartsError(f"--cost-table holds latencies, but --cost is {self.cost}: leave one of them out")
        self.limits()
        self._wanted()
        self._check_workers()
        if self.needs_network and space.task != "images":
            raise FastdartsError(f"costs are those of networks for images: space {space.name} has others")

    def _check_workers(self) -> None:
        if self.processes is None:
            for name in ("storage", "study"):
                if (given := getattr(self, name)) is not None:
                    raise FastdartsError(f"--{name} is {given} but no worker uses it: add --processes, 0 for none here")
            return
        if "latency" in (self.cost, self.judged_by) and self.cost_table is None:
            raise FastdartsError(
                "workers cannot measure latencies, as they disturb each other and machines differ: give a --cost-table "
                "or leave --processes out"
            )
        if self.run is None and self.resume is None and (self.storage or not self.processes):
            raise FastdartsError("workers elsewhere need to know the folder of the search: name it with --run")
        import_optuna()

    @property
    def needs_network(self) -> bool:
        """Whether networks are counted, whose size depends on the images."""
        wanted = self.cost, self.max_parameters, self.max_macs
        return self.judged_by in ("parameters", "macs", "latency") or any(value is not None for value in wanted)

    def _wanted(self) -> float | None:
        """The target as a number, in milliseconds for latency."""
        if self.target is None or self.cost != "latency":
            return None if self.target is None else parse_count(self.target, "--target")
        return 1e3 * parse_seconds(self.target, "--target")

    def limits(self) -> dict[str, float]:
        """The most that a network may cost, by kind of cost."""
        given = {name: getattr(self, f"max_{name}") for name in ("parameters", "macs")}
        return {name: parse_count(most, f"--max-{name}") for name, most in given.items() if most is not None}

    def objective(self, judge: Judge | None) -> Objective:
        """How the metric of the evaluator becomes a reward; without a judge it is the error of trained networks."""
        target = self._wanted()
        if judge is None:
            return Objective("valid_error", "minimize", 100.0, target)
        return judge.objective(self.direction, target)

    @abstractmethod
    def searcher(self, sizes: tuple[int, ...]) -> Searcher:
        """What proposes values of decisions that have so many; ``self`` is resolved."""

    def build(self, space: Space) -> BlackBox:
        sizes = tuple(decision.size for decision in space.decisions(self.nodes))
        return BlackBox(self, space, self.searcher(sizes), lambda choice: space.decode(choice, self.nodes))


class BlackBox:
    """A searcher and what judges its proposals.

    decode: gives the genotype of a choice of the searcher.
    """

    def __init__(self, config: BlackBoxConfig, space: Space, searcher: Searcher, decode: Callable[[Choice], Any]):
        self.config, self.space, self.searcher, self.decode = config, space, searcher, decode

    def data(self, problem: Callable[[], Data]) -> Data:
        """The data of the search: none where nothing is trained and no network is counted."""
        config = self.config
        if config.judged_by == "table" and not config.needs_network:
            return NoData(f"{config.space}-{config.method}")
        return problem()

    def check(self, problem: Data) -> None:
        """Raise :class:`FastdartsError` for what cannot be judged: data that is no set of classes, a bad file."""
        learns = isinstance(problem, ImageProblem) and problem.learns_objective
        if self.config.judged_by == "training" and not learns:
            raise FastdartsError(
                "networks are trained from scratch by the objective of a task on images, which this one does not use: "
                "choose a method that trains a supernet"
            )
        self.costs = costs_of(self.config, self.space, problem)
        self.judge = judge_of(self.config, self.space, self.costs)

    def introduction(self) -> str:
        """What is said of the search before it, in one line."""
        return "" if self.judge is None else self.judge.introduction()

    def run(
        self, config: BlackBoxConfig, problem: Data, device: torch.device, run: Run, progress: Progress
    ) -> dict[str, Any]:
        """Ask, evaluate and tell until all queries are made; returns the best architecture and the history."""
        history = History(config.objective(self.judge), self.space, self.searcher, self.decode, self.costs)
        shared = config.processes is not None
        self.costs.open(device, None if shared else run.folder)
        if run.state is not None and shared != ("study" in run.state):
            raise FastdartsError(
                f"the run to resume was begun {'without' if shared else 'with'} --processes: "
                f"{'leave it out' if shared else 'add it'}"
            )
        if shared:
            follow(self, config, problem, run, progress, device, history)
            done = len(history) if self.judge else config.epochs
        elif self.judge is None:
            train_children(history, config, problem, run, progress, device)
            done = config.epochs
        else:
            query(history, self.judge, config.queries, run, progress, device)
            done = len(history)
        found = history.outcome(run) | {"epochs": done}
        if self.judge is None and not history.learns:  # as earlier versions name the history of random search
            found["candidates"] = [
                {"genotype": asked.architecture.to_dict(), "valid_error": entry.metric}
                for asked, entry in history.entries
            ]
        return found
