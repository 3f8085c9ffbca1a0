"""Training discrete networks, one genotype after another: shared by the evaluation and by random search."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastdarts.batches import Batches
from fastdarts.data import ImageData
from fastdarts.distributed import average, give, share, summed, total, weighed
from fastdarts.errors import NotFinite
from fastdarts.flat import SGD
from fastdarts.recorder import Progress
from fastdarts.relaxed import same_random_numbers
from fastdarts.runs import Run
from fastdarts.spaces import Architecture
from fastdarts.sync_bn import synchronise


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Around whatever is computed in ``precision``, as settings name it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@dataclass
class Meter:
    """Mean loss and error rate over the images seen."""

    loss: float = 0.0
    wrong: int = 0
    count: int = 0

    def update(self, loss: float, logits: Tensor, target: Tensor) -> None:
        """Count a batch: its mean loss, logits [N, classes] and labels [N]; of several ranks, the loss of all and the
        logits of this one."""
        wrong, count = map(int, total((logits.argmax(1) != target).sum().item(), len(target)))
        self.loss += loss * count
        self.wrong += wrong
        self.count += count

    def summary(self, prefix: str) -> dict[str, float]:
        """``{prefix}_loss`` and ``{prefix}_error`` (percent)."""
        return {f"{prefix}_loss": self.loss / self.count, f"{prefix}_error": 100 * self.wrong / self.count}


def finite(loss: Tensor, batch: str, epoch: int, step: int) -> float:
    """The value of ``loss`` on the ``batch`` named; raises :class:`NotFinite` if it is NaN or infinite."""
    value = loss.item()
    if not math.isfinite(value):
        raise NotFinite(f"{batch} loss", value, batch, f"epoch {epoch}, step {step}")
    return value


def check_gradients(model: nn.Module, optimizer: SGD, epoch: int, step: int) -> None:
    """Raise :class:`NotFinite` with the name of the first gradient that holds NaN or an infinity, before any update."""
    if not math.isfinite(optimizer.norm().item()):
        gradients = {id(w): g for w, g in optimizer.gathered()}
        for name, w in model.named_parameters():
            gradient = gradients[id(w)]
            if not gradient.isfinite().all():
                value = gradient[~gradient.isfinite()][0].item()
                raise NotFinite(f"gradient of {name}", value, "training", f"epoch {epoch}, step {step}")


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


@torch.no_grad()
def measure(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device, prefix: str
) -> dict[str, float]:
    """Cross-entropy and error (percent) of ``model`` in evaluation mode, over the batches of all ranks; the model is
    left in training mode, and the random state as it was."""
    meter = Meter()
    model.eval()
    with same_random_numbers(device):
        for x, y in batches:
            x, y = x.to(device), y.to(device)
            logits = model(x)
            logits = logits[0] if isinstance(logits, tuple) else logits
            (loss,) = total(share(len(y)) * F.cross_entropy(logits, y).item())
            meter.update(loss, logits, y)
    model.train()
    return meter.summary(prefix)


@dataclass(frozen=True)
class Recipe:
    """How a genotype is built and trained; the fields mean what they mean in
    :class:`fastdarts.config.EvaluateConfig`."""

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


@dataclass(frozen=True)
class Job:
    """One training: what, its seed, and what marks its rows in metrics.jsonl (a seed or a sample number)."""

    architecture: Architecture
    seed: int
    mark: dict[str, Any] = field(default_factory=dict)


class Training:
    """A genotype's network with its optimizer and schedule, and how far it is."""

    def __init__(self, job: Job, recipe: Recipe, data: ImageData, device: torch.device):
        torch.manual_seed(job.seed)
        self.recipe, self.device = recipe, device
        space, genotype = job.architecture
        sizes = recipe.channels, len(data.classes), recipe.layers, recipe.auxiliary
        self.model = space.network(recipe.variant, *sizes, genotype, in_channels=data.channels).to(device)
        if recipe.sync_bn:
            synchronise(self.model)
        give([*self.model.parameters(), *self.model.buffers()])
        self._statistics = [] if recipe.sync_bn else statistics_of(self.model)
        self.optimizer = SGD(
            self.model.parameters(), recipe.learning_rate, recipe.momentum, recipe.weight_decay, recipe.grad_clip
        )
        if recipe.schedule == "cosine":
            self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
                self.optimizer, recipe.epochs, eta_min=recipe.learning_rate_min
            )
        else:
            self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, recipe.gamma)
        self.model.train()

    def begin_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch: drop path with probability drop_path_prob * epoch / epochs."""
        self.model.drop_path_prob = self.recipe.drop_path_prob * epoch / self.recipe.epochs

    def step(self, x: Tensor, y: Tensor, meter: Meter, epoch: int, step: int) -> None:
        """One SGD step on a batch of images [N, C, H, W] and labels [N], of this rank's part of it."""
        recipe = self.recipe
        x, y = x.to(self.device), y.to(self.device)
        self.optimizer.zero_grad()
        with autocast(recipe.precision, self.device):
            logits, logits_aux = self.model(x)
            loss, own = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing), share(len(y))
            value = finite(summed([weighed(loss, own)])[0], "training", epoch, step)
            if logits_aux is not None:
                loss = loss + recipe.auxiliary_weight * F.cross_entropy(
                    logits_aux, y, label_smoothing=recipe.label_smoothing
                )
        weighed(loss, own).backward()
        check_gradients(self.model, self.optimizer, epoch, step)
        self.optimizer.step()
        average(self._statistics)
        meter.update(value, logits.detach(), y)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for the random state."""
        return {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scheduler")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)


def train_all(
    jobs: Sequence[Job],
    recipe: Recipe,
    data: ImageData,
    batches: Callable[[Job], tuple[Batches, Batches]],
    prefix: str,
    run: Run,
    progress: Progress,
    device: torch.device,
    judge_last: bool = False,
) -> list[float]:
    """Train ``jobs`` one after another, recording a row per epoch and a checkpoint as often as the run asks.

    Args:
        batches: gives a job's training batches and the batches it is judged on.
        prefix: names the latter in the rows, "test" or "valid".
        run: open; goes on from its ``state``.
        judge_last: judge each job after its last epoch only.

    Returns the error in percent of each job after its last epoch.
    """
    fresh = {"errors": [], "training": None}
    with run.taking_up(fresh) as state:
        if state is None:
            state = fresh
            run.save(state)  # from here on a run without a checkpoint has lost it
        errors = [float(error) for error in state["errors"]]
    for job in jobs[len(errors) :]:
        training = Training(job, recipe, data, device)
        error = _train(training, job, errors, state, *batches(job), prefix, run, progress, judge_last)
        errors.append(error)
        run.write_weights(f"weights_{_mark(job, '_')}.pt", training.model)
        state = {"errors": errors, "training": None}
        run.save(state)
    return errors


def _train(
    training: Training,
    job: Job,
    errors: list[float],
    state: dict[str, Any],
    train_batches: Batches,
    judge_batches: Batches,
    prefix: str,
    run: Run,
    progress: Progress,
    judge_last: bool,
) -> float:
    """One job from where ``state`` left it to its last epoch; returns the error after it."""
    first, start, meter, elapsed = 0, 0, Meter(), 0.0
    epochs = training.recipe.epochs

    def place(epoch: int, step: int) -> dict[str, Any]:
        return {
            "errors": errors,
            "training": training.state_dict(),
            "epoch": epoch,
            "step": step,
            "meter": asdict(meter),
            "elapsed": time.monotonic() - begun if step else 0.0,
        }

    def save(epoch: int, step: int) -> None:
        run.save(place(epoch, step))

    if state["training"] is not None:
        with run.taking_up(place(0, 0), epochs, len(train_batches)):
            training.load_state_dict(state["training"])
            first, start, meter, elapsed = state["epoch"], state["step"], Meter(**state["meter"]), state["elapsed"]

    for epoch in range(first, epochs):
        begun = time.monotonic() - elapsed
        training.begin_epoch(epoch)
        title = f"{_mark(job, ' ')}  epoch {epoch + 1}/{epochs}"
        progress.start(title, len(train_batches) - start)
        for step, (x, y) in enumerate(train_batches.epoch(epoch, start), start):
            training.step(x, y, meter, epoch, step)
            progress.advance(train_loss=meter.loss / meter.count)
            if run.due():
                save(epoch, step + 1)
        row = job.mark | {"epoch": epoch, "lr": training.optimizer.param_groups[0]["lr"]} | meter.summary("train")
        judged = ""
        if epoch + 1 == epochs or not judge_last:
            attended = run.attend(judge_batches.in_order(), lambda epoch=epoch: save(epoch, len(train_batches)))
            with autocast(training.recipe.precision, training.device):
                row |= measure(training.model, attended, training.device, prefix)
            judged = f"  {prefix} error {row[f'{prefix}_error']:.2f} %"
        row |= {"drop_path_prob": training.model.drop_path_prob, "seconds": time.monotonic() - begun}
        next_rate(training.scheduler)
        run.recorder.epoch(row)
        progress.line(f"{title}  train error {row['train_error']:.2f} %{judged}  {row['seconds']:.1f} s")
        start, meter, elapsed = 0, Meter(), 0.0
        if epoch + 1 < epochs:
            save(epoch + 1, 0)
    return row[f"{prefix}_error"]


def _mark(job: Job, separator: str) -> str:
    return separator.join(str(part) for pair in job.mark.items() for part in pair)
