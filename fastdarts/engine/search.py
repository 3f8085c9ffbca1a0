"""The search: a supernet is trained epoch by epoch, measured, and becomes a genotype (DARTS, algorithm 1 and section
3.1). What a method adds to that are the policies that its settings build."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from fastdarts.engine.capture import Graphs
from fastdarts.engine.costs import LATENCIES, with_cost
from fastdarts.engine.device import check_cores, check_kinks, check_precision, check_workers, prepare_device
from fastdarts.engine.isolation import isolated
from fastdarts.engine.loop import Loop
from fastdarts.engine.memory import Estimate, estimate, explaining, fit, free_memory, measured_limit
from fastdarts.engine.outcome import finish, write_genotype
from fastdarts.engine.step import SearchStep
from fastdarts.engine.training import next_rate
from fastdarts.errors import FastdartsError
from fastdarts.policies.alignment import aligned_cells
from fastdarts.policies.base import Batch, Next, Row
from fastdarts.policies.bilevel import Bilevel
from fastdarts.ranks import (
    agree,
    fail_together,
    from_first,
    joined,
    rank,
    refuse,
    settings_of,
    world,
)
from fastdarts.runs.checkpoint import NAME, load_checkpoint, loading, save_checkpoint
from fastdarts.runs.run import Run, can_go_on
from fastdarts.runs.watch import NOBODY, Watch
from fastdarts.runs.writer import Progress
from fastdarts.spaces import Space, find_space
from fastdarts.tasks.settings import BilevelConfig, SearchConfig, SupernetConfig, resolve
from fastdarts.tasks.task import Problem, find_task
from fastdarts.tasks.validation import validate

KEPT = "epochs"
"""The folder of the supernets that are kept to come back to."""


ProblemOf = Callable[[SearchConfig, Space], Problem]


def search(config: SearchConfig, watch: Watch = NOBODY, problem: ProblemOf | None = None) -> dict[str, Any]:
    """Search for an architecture, and leave the folder of the run behind.

    Afterwards the global state of torch is what it was before. Searches in several threads of one process wait for one
    another. Started by torchrun, or where torch.distributed has a process group, all ranks search as one and return the
    same.

    Args:
        config: The settings. ``SearchConfig(method=NAME, space=NAME, ...)`` makes them; what is left out is as
            published.
        watch: Who watches the run from Python, see :mod:`fastdarts.runs.watch`.
        problem: What gives the data for resolved settings and a space, where they are not those that settings name.

    Returns:
        What result.json holds. ``genotype`` is the architecture as a dict, and ``run`` names the folder.
            ``valid_error`` (percent) or ``valid_perplexity`` is that of the supernet after the last epoch. Of random
            search it is that of the best candidate. ``epochs`` and ``seconds`` say what was done.

    Raises:
        FastdartsError: A setting or the data is wrong. It is raised before any work.
        NotFinite: A loss, a gradient or a weight is not finite. The last checkpoint stays as it was.
        SystemExit: After SIGTERM, with code 0. The run is saved and can be resumed.
        KeyboardInterrupt: After Ctrl-C. The run is saved and can be resumed.

    Source: Liu et al. 2019 (DARTS), algorithm 1 and section 3.1; the paper of each method is named beside it.

    Examples:
        >>> from pathlib import Path
        >>> from fastdarts.engine.search import search
        >>> from fastdarts.tasks.settings import SearchConfig
        >>> tiny = dict(dataset="digits", samples=64, epochs=1, channels=4, layers=3)
        >>> found = search(SearchConfig(**tiny, run=Path("runs/digits")))
        >>> list(found["genotype"])
        ['space', 'normal', 'normal_concat', 'reduce', 'reduce_concat']
    """
    task = find_task(config.task)
    if "ranks" not in task.has:
        refuse(f"a search on {task.title}")  # before it waits for the others
    with joined(), isolated():
        agree(settings_of("search", config))
        return _search(config, watch, task.problem if problem is None else problem)


def _search(config: SearchConfig, watch: Watch, problem_of: ProblemOf) -> dict[str, Any]:
    with fail_together():
        validate(config)
        config = resolve(config.prepared())
        space = find_space(config.space)
        recipe = with_cost(config.build(space), config)
        trains_supernet = isinstance(recipe, Bilevel)
        if trains_supernet:
            problem = problem_of(config, space)
            check_network(config, problem, recipe.stages.all()[0].space)
        else:
            problem = recipe.data(lambda: problem_of(config, space))
            recipe.check(problem)
        problem.check_batches(config)
        device = prepare_device(config)
        notes = [check_precision(config, device), check_workers(config, device), check_cores(device)]
        if trains_supernet:
            notes.append(recipe.stopper.note(config.epochs))
            if isinstance(config, BilevelConfig):
                notes.append(check_kinks(config, device))
    agree(problem.facts())
    if not trains_supernet and config.resume is None and config.run is not None:
        begun = from_first(lambda: can_go_on(config.run))
        config = dataclasses.replace(config, resume=config.run if begun else None)  # by the same command as before
    line = None
    if trains_supernet and config.max_memory is not None:  # else no estimate, which takes longer than a small epoch
        limit = from_first(lambda: measured_limit(config.max_memory, free_memory(device)))
        config = dataclasses.replace(config, max_memory=limit)
        own = dataclasses.replace(config, batch_size=-(-config.batch_size // world()))
        own, line = from_first(lambda: fit(own, lambda config: step_memory(config, problem, device)))
        config = dataclasses.replace(config, memory=own.memory, accumulate=own.accumulate)
        problem.check_batches(config)  # parts may be more now
    elif isinstance(config, BilevelConfig) and config.keep_kinks:
        # A step on fake tensors meets kinks that cannot be kept, before the run has a folder.
        from_first(lambda: step_memory(config, problem, device))
    run = Run(config, "search", problem.label, watch)
    problem.check_resumed(run.state, config)
    with run, Progress() as progress, problem.opened(config, device):
        run.describe(device, primitives=space.primitives(config.nodes), **problem.description())
        progress.line(f"run {run.folder}")
        said = "" if trains_supernet else recipe.introduction()
        for text in filter(None, (problem.introduction(), said, line, *notes)):
            progress.line(text)
        if trains_supernet:
            with explaining_memory(config, problem, device):
                recipe = with_cost(config.build(space), config)
                outcome = Searching(config, recipe, problem, device, run, progress).result()
        else:
            outcome = recipe.run(config, problem, device, run, progress)
        seconds = sum(row["seconds"] for row in run.rows())
        result = {"kind": "search", "method": config.method, "epochs": config.epochs, **outcome, "seconds": seconds}
        finish(run, result)
    return result | {"run": str(run.folder)}


def check_network(config: SupernetConfig, problem: Problem, space: Space) -> None:
    """Raise :class:`FastdartsError` if the supernet does not fit the method or the data."""
    network = problem.check_network(config, space)
    if config.alignment_every or config.build(space).alignment is not None:
        aligned_cells(network)


class Searching(Loop):
    """A search that trains supernets, as the policies of its recipe see it: :class:`fastdarts.policies.base.Search`."""

    may_stop = True

    def __init__(
        self,
        config: SupernetConfig,
        recipe: Bilevel,
        problem: Problem,
        device: torch.device,
        run: Run,
        progress: Progress,
    ):
        self.stages = recipe.stages.all()
        self.meter_type = problem.meter_type
        super().__init__(run, progress, sum(stage.epochs for stage in self.stages))
        self.config, self.recipe, self.problem, self.device = config, recipe, problem, device
        self.task = find_task(config.task).of(vars(config))
        self.metric = self.task.metric
        self.seed, self.nodes = config.seed, config.nodes
        self.images, self.smaller = problem.examples, self.task.smaller
        self._arch_loss = 0.0
        self._graphs = Graphs(config.graphs, device, progress.line)

    # --- what policies see, beside what a loop has

    @property
    def model(self):
        return self.supernet.model

    @property
    def space(self):
        return self.supernet.space

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.supernet.optimizer

    @property
    def arch_optimizer(self) -> torch.optim.Optimizer | None:
        return None if self.supernet.architect is None else self.supernet.architect.optimizer

    @property
    def weight_decay(self) -> float:
        return self.optimizer.param_groups[0]["weight_decay"]

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self.supernet.set_weight_decay(value)

    def derive(self) -> Any:
        return self.recipe.selection.architecture(self).genotype

    def measured_on(self, batches: Iterable[Batch], prefix: str) -> Row:
        return self.problem.measure(self.model, batches, self.device, prefix)

    def difference_error(self, batch: Batch, arch_batch: Batch) -> Row:
        return self.supernet.difference_error(batch, arch_batch)

    def autocast(self) -> torch.autocast:
        return self.supernet.autocast()

    def interruptible(self, batches: Iterable[Batch], at_start: bool = False) -> Iterator[Batch]:
        attended = self.recording.interruptible(batches, lambda: self.save(0 if at_start else self.count()))
        for x, y in attended:
            yield x.to(self.device), y.to(self.device)

    def due(self) -> bool:
        return self.recording.due()

    def rows(self) -> list[Row]:
        return self.recording.rows()

    def say(self, text: str) -> None:
        self.display.line(text)

    def progress(self, title: str, steps: int) -> None:
        self.display.start(title, steps)

    def advance(self) -> None:
        self.display.advance()

    def keep(self, epoch: int) -> None:
        if rank() == 0:
            self._kept(epoch).parent.mkdir(exist_ok=True)
            state = {"supernet": self.supernet.state_dict(), "data": self.problem.state_dict()}
            save_checkpoint(self._kept(epoch), "epoch", state | {"selection": self.recipe.selection.state_dict()})

    def forget(self, epoch: int) -> None:
        if rank() == 0:
            self._kept(epoch).unlink(missing_ok=True)

    def restore(self, epoch: int) -> None:
        path = self._kept(epoch)
        state = from_first(lambda: load_checkpoint(path, "epoch"))
        with loading(path):
            self.supernet.load_state_dict(state["supernet"])
            if state.get("data"):  # of a text; earlier versions kept none
                self.problem.load_state_dict(state["data"])
            if state.get("selection"):  # what was decided later is undone
                self.recipe.selection.load_state_dict(state["selection"])

    def write_text(self, name: str, text: str) -> None:
        self.recording.recorder.write_text(name, text)

    def _kept(self, epoch: int):
        return self.recording.folder / KEPT / f"epoch_{epoch}.pt"

    # --- the loop

    def result(self) -> dict[str, Any]:
        """Train until the last epoch; returns the genotype and the supernet's validation error after it."""
        recipe, run = self.recipe, self.recording
        self._build()
        self.train()
        found, error = recipe.selection.finish(self, recipe.stopper.final_row(run.rows()))
        write_genotype(run, found)
        result = {"genotype": found.to_dict(), self.metric.name: error, "epochs": len(run.rows())}
        if recipe.cost is not None:
            result |= recipe.cost.facts(found.genotype)
        return result | recipe.stopper.events() | recipe.selection.events()

    def _stage_at(self, epoch: int) -> int:
        done = 0
        for number, stage in enumerate(self.stages):
            done += stage.epochs
            if epoch < done:
                return number
        return len(self.stages) - 1

    def _enter(self, number: int) -> None:
        """Build the supernet of a stage."""
        self._stage = number
        self.supernet = SearchStep(self.config, self.problem, self.device, self.recipe, number, self._graphs)
        self._open_streams()
        if (cost := self.recipe.cost) is not None and cost.table is not None:
            self.write_text(LATENCIES, cost.table.to_text())

    def _build(self) -> None:
        """The supernet as it is at the beginning, or where the last checkpoint was made."""
        state = self.recording.state
        begin = 0
        if state is not None:
            with loading(self.recording.folder / NAME):
                for name, policy in self.recipe.policies().items():
                    policy.load_state_dict(state["policies"].get(name, {}))
                begin = state["epoch"]
                self._enter(self._stage_at(begin))
        else:
            self._enter(0)
            if self.recipe.start is not None:
                self.supernet.load_state_dict(self.recipe.start.begin(self.supernet.state_dict()))
        self.take_up(self.count())

    def state(self) -> dict[str, Any]:
        """The supernet, the streams and the policies."""
        return {
            "arch_loss": self._arch_loss,
            "supernet": self.supernet.state_dict(),
            "data": self.problem.state_dict(),
            "policies": {name: own for name, policy in self.recipe.policies().items() if (own := policy.state_dict())},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from that; the policies have done so before."""
        self.supernet.load_state_dict(state["supernet"])
        self.problem.load_state_dict(state["data"])
        self._arch_loss = state["arch_loss"]

    def _open_streams(self) -> None:
        """Streams of the epoch at work: the size of its batches and the strength of its augmentation may be its own."""
        size = self.recipe.selection.batch_size(self.supernet.config.batch_size)
        streams = self.problem.streams(self.supernet.config, self.recipe, size, self.epoch, self.epochs)
        self.train_stream, self.arch, self.valid = streams
        if self.recipe.alphas is not None and self.recipe.weight_steps > self.count():
            raise FastdartsError(
                f"an epoch has {self.count()} steps, but the alphas learn in every {self.recipe.weight_steps}th: lower "
                "--weight-steps or --batch-size, or take more images"
            )

    def begin(self, resumed: bool) -> None:
        """Enter the stage of the epoch at work, if it is another one, and make the decisions that are due."""
        number = self._stage_at(self.epoch)
        if number != self._stage:
            self._enter(number)
        self.recipe.relaxation.start_epoch(self.epoch, self.epochs)
        if self.recipe.perturbation is not None:
            self.recipe.perturbation.start_epoch(self.epoch, self.epochs)
        self.recipe.stages.start_epoch(self.model, self.epoch)
        self.recipe.selection.between(self)
        self._open_streams()
        if not resumed:
            self.problem.start_epoch()
        supernet = self.supernet
        if supernet.config.drop_path_prob:
            supernet.model.drop_path_prob = supernet.config.drop_path_prob * self.epoch / max(self.epochs - 1, 1)

    def count(self) -> int:
        return len(self.train_stream)

    @property
    def asked(self) -> int:
        return self.config.epochs

    def batches(self, start: int) -> Iterator[tuple[Batch, Batch | None]]:
        """What the weights and what the alphas learn from."""
        both = self.arch.endless(self.epoch * self.count() + start) if self.arch else itertools.repeat(None)
        return zip(self.train_stream.epoch(self.epoch, start), both, strict=False)

    def step(self, batch: tuple[Batch, Batch | None], number: int) -> None:
        self._arch_loss += self.supernet.step(*batch, self.meter, self.epoch, number)

    def measured(self) -> Row:
        at = f"epoch {self.epoch}"
        row = {"epoch": self.epoch, "lr": self.supernet.scheduler.get_last_lr()[0]} | self.meter.summary("train", at)
        if self.recipe.alphas is not None:
            steps = sum(self.supernet.learns_alphas(self.epoch, step) for step in range(self.count()))
            row |= {"arch_loss": self._arch_loss / steps} if steps else {}
        for monitor in self.recipe.monitors:
            if monitor.due(self.epoch, self.epochs):
                row |= monitor.measure(self)
        return row | self.recipe.stopper.facts(self)

    def line(self, row: Row) -> str:
        return self.task.line(row, self.epochs)

    def after(self, row: Row) -> Next:
        """Go on, go back or end, as the stopper says; at the end of a stage, build the next supernet."""
        next_rate(self.supernet.scheduler)
        self._arch_loss = 0.0
        then = Next(self.epochs) if self.stopped else self.recipe.stopper.after(self)
        found = self.recipe.selection.architecture(self)
        if found is not None:
            write_genotype(self.recording, found)
        if then.epoch < self.epochs and self._stage_at(then.epoch) != self._stage:
            self.recipe.stages.end(self, self._stage)
            self.stages = self.recipe.stages.all()
            self._enter(self._stage_at(then.epoch))
            self.recipe.stages.begin(self, self._stage)
        return then


def explaining_memory(config: SupernetConfig, problem: Problem, device: torch.device) -> AbstractContextManager[None]:
    """Inside, a search that ends for want of a GPU's memory names the largest batch that fits."""

    def estimated(batch: int) -> Estimate:
        return step_memory(dataclasses.replace(config, batch_size=batch), problem, device)

    named = {field.name for field in dataclasses.fields(config)}
    spare = "--max-memory auto" if "max_memory" in named and config.max_memory is None else ""
    return explaining(config.batch_size, estimated, device, find_task(config.task).smaller, spare)


def step_memory(config: SupernetConfig, problem: Problem, device: torch.device) -> Estimate:
    """What the supernet of a search takes: a step on a full batch; what only passes forward takes less. With
    ``max_memory`` also what measures the curvature, where it is measured: that takes a minute to estimate. Of several
    stages, that of the largest.

    Raises :class:`FastdartsError` if nothing of the kind is trained (methods random and select).
    """
    config = resolve(config)
    if not isinstance(recipe := config.build(find_space(config.space)), Bilevel):
        raise FastdartsError(f"method {config.method} trains no supernet: its memory cannot be estimated")
    estimates = [_step_memory(config, recipe, stage, problem, device) for stage in range(len(recipe.stages.all()))]
    return max(estimates, key=lambda found: found.peak)


def _step_memory(
    config: SupernetConfig, recipe: Bilevel, stage: int, problem: Problem, device: torch.device
) -> Estimate:
    part, parts = -(-config.batch_size // config.accumulate), config.accumulate
    if parts > 2:  # two parts show what adds up over more of them
        config, parts = dataclasses.replace(config, accumulate=2), 2

    def work() -> SearchStep:
        supernet = SearchStep(config, problem, device, recipe, stage)
        supernet.model.drop_path_prob = config.drop_path_prob
        whole = [problem.rehearsal(config, config.batch_size) for _ in range(2)]
        batch, arch_batch = whole
        if parts * part < config.batch_size:
            batch, arch_batch = ((x[: parts * part], y[: parts * part]) for x, y in whole)
        last = supernet.first_epoch + supernet.config.epochs - 1
        recipe.stages.start_epoch(supernet.model, last)
        alone = recipe.order == "together"
        learning = recipe.weight_steps - 1  # the first step in which the alphas learn
        supernet.step(batch, None if alone else arch_batch, problem.meter_type(), last, learning)
        for monitor in recipe.monitors:
            if config.max_memory and monitor.every:
                monitor.rehearse(supernet, *whole)
        return supernet

    return estimate(work, device)
