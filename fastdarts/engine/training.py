"""Training discrete networks, one genotype after another: shared by the evaluation and by random search."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.engine.capture import Captured, Graphs, hooked, taken_from_host
from fastdarts.engine.loop import Loop, Row
from fastdarts.engine.memory import Estimate, estimate, explaining
from fastdarts.nn.finite import check_step
from fastdarts.nn.fusion.recognise import may_draw
from fastdarts.nn.optim import SGD, ClippedAdam
from fastdarts.nn.sync_bn import synchronise
from fastdarts.nn.turns import parts_of, turn_of
from fastdarts.policies.base import Next
from fastdarts.ranks import average, give, share, summed, weighed
from fastdarts.runs.run import Run
from fastdarts.runs.writer import Progress
from fastdarts.spaces import Architecture
from fastdarts.tasks.images.batches import Batches
from fastdarts.tasks.images.measure import Meter, measure
from fastdarts.tasks.images.objective import Objective

Attended = Callable[[Iterable[Any]], Iterator[Any]]
"""What gives the batches of a measurement one after another, and saves where the run is stopped."""


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Around whatever is computed in ``precision``, as settings name it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def next_rate(scheduler: torch.optim.lr_scheduler.LRScheduler) -> None:
    """Go to the learning rate of the next epoch, without a warning where a run that goes on after the last step of an
    epoch has made none itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step", UserWarning)
        scheduler.step()


def statistics_of(model: nn.Module) -> list[Tensor]:
    """The running statistics. Where each BatchNorm sees its own part of a batch only, their means over the ranks are
    taken after every step: a mean of moving averages is the moving average of the means."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


@dataclass(frozen=True)
class Recipe:
    """How a genotype is built and trained; the fields mean what they mean in
    :class:`fastdarts.tasks.images.settings.EvaluateConfig`."""

    variant: str
    channels: int
    layers: int
    epochs: int
    learning_rate: float
    learning_rate_min: float
    schedule: str
    gamma: float
    momentum: float
    weight_decay: float
    grad_clip: float
    auxiliary: bool
    auxiliary_weight: float
    drop_path_prob: float
    label_smoothing: float
    sync_bn: bool
    precision: str
    optimizer: str = "sgd"


@dataclass(frozen=True)
class Job:
    """One training: what, its seed, and what marks its rows in metrics.jsonl (a seed or a sample number).

    ``start`` holds weights by name that take the place of those that the seed has drawn.
    """

    architecture: Architecture
    seed: int
    mark: dict[str, Any] = field(default_factory=dict)
    start: Mapping[str, Tensor] = field(default_factory=dict)


def optimizer_of(recipe: Recipe, model: nn.Module) -> SGD | ClippedAdam:
    """The optimizer of the weights; ``momentum`` is that of SGD."""
    rate, decay, clip = recipe.learning_rate, recipe.weight_decay, recipe.grad_clip
    if recipe.optimizer == "adam":
        return ClippedAdam(model.parameters(), rate, decay, clip)
    return SGD(model.parameters(), rate, recipe.momentum, decay, clip)


class Training:
    """A genotype's network with its optimizer and schedule, and how far it is."""

    def __init__(
        self, job: Job, recipe: Recipe, objective: Objective, device: torch.device, graphs: Graphs | None = None
    ):
        torch.manual_seed(job.seed)
        self.recipe, self.device, self.objective = recipe, device, objective
        space, genotype = job.architecture
        model = objective.network(space, recipe.variant, recipe.channels, recipe.layers, recipe.auxiliary, genotype)
        if is_fake(next(model.parameters())):  # made where they belong, and cannot move
            self.model = model
        else:
            model.load_state_dict(model.state_dict() | dict(job.start))
            self.model = model.to(device)
        if recipe.sync_bn:
            synchronise(self.model)
        give([*self.model.parameters(), *self.model.buffers()])
        self._statistics = [] if recipe.sync_bn else statistics_of(self.model)
        self.optimizer = optimizer_of(recipe, self.model)
        if recipe.schedule == "cosine" and parts_of(self.model) > 1:
            self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._share_of_rate)
        elif recipe.schedule == "cosine":
            self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
                self.optimizer, recipe.epochs, eta_min=recipe.learning_rate_min
            )
        else:
            self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, recipe.gamma)
        self.model.train()
        graphs = Graphs("off", device) if graphs is None else graphs
        self._pass = Captured("training steps", self._train, graphs, self._why_not_trained)
        self._judged = Captured("measurements", self._infer, graphs, self._why_not_judged)
        self._seen = self._fresh = self._seen_judging = self._fresh_judging = None

    def begin_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch: drop path with probability drop_path_prob * epoch / epochs."""
        self._fresh = self._fresh_judging = None
        self.model.drop_path_prob = self.recipe.drop_path_prob * epoch / self.recipe.epochs
        if (parts := parts_of(self.model)) > 1:
            self.model.trained = turn_of(epoch, self.recipe.epochs, parts).part

    def _share_of_rate(self, epoch: int) -> float:
        """The learning rate of an epoch as a share of the first one: along a cosine for each part of the network."""
        turn = turn_of(min(epoch, self.recipe.epochs - 1), self.recipe.epochs, parts_of(self.model))
        least = self.recipe.learning_rate_min / self.recipe.learning_rate
        done = (epoch - turn.first) / (turn.end - turn.first)
        return least + (1 - least) * (1 + math.cos(math.pi * done)) / 2

    def step(self, x: Tensor, y: Tensor, meter: Meter, epoch: int, step: int) -> None:
        """One SGD step on a batch of images [N, C, H, W] and targets [N, ...], of this rank's part of it.

        Raises :class:`NotFinite`, before the weights move, if the loss or a gradient is not finite.
        """
        self.optimizer.prepare()
        (numbers,) = self._pass(self._key, x, y)
        self.optimizer.count()
        value, norm, *counted = (number.item() for number in numbers.cpu().unbind())
        check_step(value, norm, self.model, self.optimizer, epoch, step)
        meter.add(value, counted, len(y))

    def judge(self, x: Tensor, y: Tensor) -> list[float]:
        """The mean loss and what is counted on a batch, of the model in evaluation mode."""
        (numbers,) = self._judged(self._judge_key, x, y)
        return numbers.tolist()

    def _infer(self, x: Tensor, y: Tensor) -> tuple[Tensor]:
        with autocast(self.recipe.precision, self.device):  # here, as what it keeps must not outlive a recording
            logits, _ = self.model(x)
            loss = self.objective.criterion(logits, y)
        return (torch.cat([loss.double().reshape(1), self.objective.counted(logits, y).double()]),)

    def _judge_key(self) -> Hashable:
        """All that a measurement takes from the host: not the probability of drop path, another in every epoch."""
        if self._fresh_judging is None:
            drops, self.model.drop_path_prob = self.model.drop_path_prob, 0.0
            self._fresh_judging = taken_from_host(self.model)
            self.model.drop_path_prob = drops
            same = self._seen_judging == self._fresh_judging
            self._seen_judging = self._seen_judging if same else self._fresh_judging
        return self._seen_judging

    def _why_not_trained(self) -> str:
        """Why a step cannot be recorded; "" for no reason."""
        adam = "Adam makes the moments of the weights in its first step"
        return hooked(self.model, self.optimizer) or adam * isinstance(self.optimizer, ClippedAdam)

    def _why_not_judged(self) -> str:
        """Why a measurement cannot be recorded; "" for no reason."""
        draws = "random numbers are drawn, and drawn again by what comes next"
        return hooked(self.model) or draws * may_draw(self.model)

    def _key(self) -> Hashable:
        """All that a step takes from the host; settings of layers only change between epochs."""
        if self._fresh is None:
            self._fresh = taken_from_host(self.model)
            self._seen = self._seen if self._seen == self._fresh else self._fresh
        return self._seen, self.optimizer.buffers()

    def _train(self, x: Tensor, y: Tensor) -> tuple[Tensor]:
        """A step, all of it on the device; returns the loss, the norm of the gradients and what is counted."""
        recipe = self.recipe
        self.optimizer.zero_grad()
        with autocast(recipe.precision, self.device):
            logits, logits_aux = self.model(x)
            loss, own = self.objective.criterion(logits, y, recipe.label_smoothing), share(len(y))
            value = summed([weighed(loss, own).detach()])[0]
            if logits_aux is not None:
                loss = loss + recipe.auxiliary_weight * self.objective.criterion(logits_aux, y, recipe.label_smoothing)
        weighed(loss, own).backward()
        checked = torch.stack([value.double(), self.optimizer.norm().double()])
        self.optimizer.step(sound=checked.isfinite().all())
        average(self._statistics)
        return (torch.cat([checked, self.objective.counted(logits.detach(), y).double()]),)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for the random state."""
        return {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scheduler")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)
        self._pass.forget()
        self._judged.forget()


def training_memory(job: Job, recipe: Recipe, objective: Objective, device: torch.device, batch: int) -> Estimate:
    """What a step on so many images takes."""

    def work() -> Training:
        training = Training(job, recipe, objective, device)
        training.begin_epoch(recipe.epochs - 1)
        training.step(*objective.rehearsal(batch), objective.meter_type(), 0, 0)
        return training

    return estimate(work, device)


class Trainer:
    """Trains one job after another, recording a row per epoch and a checkpoint as often as the run asks.

    Args:
        objective: what is learned of which images.
        batches: gives a job's training batches and the batches it is judged on.
        prefix: names the latter in the rows, "test" or "valid".
        run: open; goes on from its ``state``.
        graphs: how training steps are recorded, and where they are computed.
        judge_last: judge each job after its last epoch only.
        final: gives the batches that a job is tested on, once and at its end, with the weights of its best epoch: the
            first one with the lowest error of those that were judged. These weights are kept.
        look: looks at the network of a job when it is trained. It gets what makes a measurement interruptible too.
        enough: says of a row that its epoch is the last one of its job.

    Attributes:
        errors: the error in percent of each job that is done: the one of ``final``, else that after its last epoch;
            None of one that failed.
    """

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        batches: Callable[[Job], tuple[Batches, Batches]],
        prefix: str,
        run: Run,
        progress: Progress,
        graphs: Graphs,
        judge_last: bool = False,
        final: Callable[[Job], Batches] | None = None,
        look: Callable[[Job, nn.Module, Attended], None] | None = None,
        enough: Callable[[Row], bool] | None = None,
    ):
        self.recipe, self.objective, self.batches, self.prefix, self.run = recipe, objective, batches, prefix, run
        self.progress, self.graphs, self.judge_last, self.final, self.look = progress, graphs, judge_last, final, look
        self.enough = enough
        fresh = {"errors": [], "training": None}
        with run.loading(fresh) as state:
            if state is None:
                state = fresh
                run.save(state)  # from here on a run without a checkpoint has lost it
            self.errors = [None if error is None else float(error) for error in state["errors"]]
        self._state = state

    def train(self, job: Job, later: int = 0) -> None:
        """Train a job, or what is left of it, keep its weights and add its error; ``later``: jobs that follow."""
        training = Training(job, self.recipe, self.objective, self.graphs.device, self.graphs)
        loop = _Epochs(self, job, training)
        loop.later = later * self.recipe.epochs
        batch = loop.train_batches.batch_size
        memory = partial(training_memory, job, self.recipe, self.objective, self.graphs.device)
        with explaining(batch, memory, self.graphs.device, "--channels or --layers"):
            row = loop.train_from(self._state)
        if loop.best is not None:
            training.model.load_state_dict(loop.best["weights"])
        self.run.write_weights(weights_of(job), training.model)
        self.done(row[f"{self.prefix}_error" if self.final is None else "test_error"])

    def done(self, error: float | None) -> None:
        """Add the error of the next job, None if it failed."""
        self.errors.append(error)
        self._state = {"errors": self.errors, "training": None}
        self.run.save(self._state)


def train_all(jobs: Sequence[Job], *settings: Any, **more: Any) -> list[float]:
    """Train ``jobs`` one after another; returns the error in percent of each. All else is as for :class:`Trainer`."""
    trainer = Trainer(*settings, **more)
    for number, job in enumerate(jobs[len(trainer.errors) :], len(trainer.errors) + 1):
        trainer.train(job, len(jobs) - number)
    return trainer.errors


class _Epochs(Loop):
    """The epochs of one job of a trainer."""

    saves_last = False

    def __init__(self, trainer: Trainer, job: Job, training: Training):
        self.meter_type = training.objective.meter_type
        super().__init__(trainer.run, trainer.progress, training.recipe.epochs)
        self.job, self.training = job, training
        self.errors, self.prefix, self.judge_last = trainer.errors, trainer.prefix, trainer.judge_last
        self.look, self.enough = trainer.look, trainer.enough
        self.train_batches, self.judge_batches = trainer.batches(job)
        self.images = len(self.train_batches.indices)
        self.final, self.best = None if trainer.final is None else trainer.final(job), None

    def train_from(self, state: dict[str, Any]) -> Row:
        """All epochs that are left after ``state``; returns the last row."""
        if state["training"] is not None:
            with self.recording.loading(self._place(0, 0), self.epochs, self.count()):
                self._go_on_from(state)
        return self.train()

    def state(self) -> dict[str, Any]:
        best = {} if self.final is None else {"best": self.best}
        return {"errors": self.errors, "training": self.training.state_dict()} | best

    def load(self, state: dict[str, Any]) -> None:
        self.training.load_state_dict(state["training"])
        if self.final is not None:
            self.best = state["best"]

    def begin(self, resumed: bool) -> None:
        self.training.begin_epoch(self.epoch)

    def count(self) -> int:
        return len(self.train_batches)

    def batches(self, start: int) -> Iterable[tuple[Tensor, Tensor]]:
        return self.train_batches.epoch(self.epoch, start)

    def step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        self.training.step(*batch, self.meter, self.epoch, number)

    def title(self) -> str:
        return f"{_mark(self.job, ' ')}  {super().title()}"

    def measured(self) -> Row:
        training = self.training
        rate = training.optimizer.param_groups[0]["lr"]
        row = self.job.mark | {"epoch": self.epoch, "lr": rate} | self.meter.summary("train")
        if self.epoch + 1 == self.epochs or not self.judge_last:
            attended = self.interruptible(self.judge_batches.in_order())
            meter = training.objective.meter_type()
            row |= measure(training.model, attended, training.device, self.prefix, meter=meter, judge=training.judge)
        if self.final is not None:
            self._keep_best(row[f"{self.prefix}_error"])
            if self.epoch + 1 == self.epochs:
                row |= self._tested(self.final)
        elif self.epoch + 1 == self.epochs:
            self._looked_at(training.model)
        return row | {"drop_path_prob": training.model.drop_path_prob}

    def _keep_best(self, error: float) -> None:
        """Keep the weights if this epoch is better than all before it."""
        if self.best is None or error < self.best["error"]:
            weights = {name: value.clone() for name, value in self.training.model.state_dict().items()}
            self.best = {"error": error, "epoch": self.epoch, "weights": weights}

    def _tested(self, batches: Batches) -> Row:
        """The test of the best epoch. Its weights are put into a copy: a run that is stopped here goes on with those of
        the last epoch, and measures again."""
        model = copy.deepcopy(self.training.model)
        model.load_state_dict(self.best["weights"])
        with autocast(self.training.recipe.precision, self.training.device):
            objective, attended = self.training.objective, self.interruptible(batches.in_order())
            tested = attended, self.training.device, "test", objective.criterion, objective.meter_type()
            row = measure(model, *tested)
        self._looked_at(model)
        return row

    def _looked_at(self, model: nn.Module) -> None:
        if self.look is not None:
            with autocast(self.training.recipe.precision, self.training.device):
                self.look(self.job, model, self.interruptible)

    def line(self, row: Row) -> str:
        errors = {name: row.get(f"{name}_error") for name in dict.fromkeys((self.prefix, "test"))}
        said = self.training.objective.said
        judged = "".join(f"  {name} {said(error)}" for name, error in errors.items() if error is not None)
        if self.best is not None and "test_error" in row:
            judged += f" (epoch {self.best['epoch'] + 1}, the best)"
        return f"{self.title()}  train {said(row['train_error'])}{judged}  {row['seconds']:.1f} s"

    def after(self, row: Row) -> Next:
        next_rate(self.training.scheduler)
        if self.enough is not None and self.enough(row):
            return Next(self.epochs)
        return super().after(row)


def weights_of(job: Job) -> str:
    """The file of the weights that a job leaves."""
    return f"weights_{_mark(job, '_')}.pt"


def _mark(job: Job, separator: str) -> str:
    return separator.join(str(part) for pair in job.mark.items() for part in pair)
