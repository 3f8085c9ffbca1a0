"""What a policy is, and what it may see of the search that it takes part in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.nn.supernet import Supernet
from fastdarts.spaces import Architecture, Space
from fastdarts.tasks.task import Batch, Metric, Row, Streams


class Next(NamedTuple):
    """How a loop goes on after an epoch: with which epoch, and how many rows of metrics.jsonl remain (None: all)."""

    epoch: int
    rows: int | None = None


class Policy(ABC):
    """A part of a method. What it must know after a kill is its state, which is kept in every checkpoint by name."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values, lists and tensors; by default nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""


class Search(Protocol):
    """A running search, as its policies see it.

    Attributes:
        epoch, epochs: the epoch at work (from 0), and how many there are; of all stages together.
        model, space, nodes: the supernet, its space, and its nodes a cell.
        device: where it is.
        seed: that of the settings.
        train_stream, arch, valid: the streams of the weights, of the alphas (None if both learn from the same batch),
            and of measurements.
        optimizer, arch_optimizer: that of the weights, and that of the alphas if they learn.
        weight_decay: the L2 on the weights; may be set.
        metric: the number by which supernets are compared.
    """

    epoch: int
    epochs: int
    model: Supernet
    space: Space
    nodes: int
    device: torch.device
    seed: int
    train_stream: Streams
    arch: Streams | None
    valid: Streams
    optimizer: torch.optim.Optimizer
    arch_optimizer: torch.optim.Optimizer | None
    weight_decay: float
    metric: Metric

    def measured_on(self, batches: Iterable[Batch], prefix: str) -> Row:
        """Loss and metric of the model on these batches, which are on the device."""

    def derive(self) -> Any:
        """The genotype that would be derived now."""

    def difference_error(self, batch: Batch, arch_batch: Batch) -> Row:
        """How far the finite difference of an unrolled step on these batches is from the exact product."""

    def autocast(self) -> torch.autocast:
        """Around passes of the model: in the precision of the settings."""

    def interruptible(self, batches: Iterable[Batch], at_start: bool = False) -> Iterator[Batch]:
        """``batches`` on the device, for a measurement. A signal ends it: the search is saved as of the end of this
        epoch (of its start with ``at_start``), and what goes on repeats the measurement."""

    def save(self) -> None:
        """Save as of the start of this epoch, with the states of all policies."""

    def due(self) -> bool:
        """Whether it is time to save."""

    def rows(self) -> list[Row]:
        """The rows of metrics.jsonl so far."""

    def say(self, text: str) -> None:
        """Print a line."""

    def progress(self, title: str, steps: int) -> None:
        """Begin a bar of so many steps."""

    def advance(self) -> None:
        """Advance it by one."""

    def keep(self, epoch: int) -> None:
        """Keep the supernet as it is after ``epoch``, to come back to."""

    def forget(self, epoch: int) -> None:
        """Keep that no more."""

    def restore(self, epoch: int) -> None:
        """Bring the supernet back to what it was after ``epoch``."""

    def write_text(self, name: str, text: str) -> None:
        """Write a file into the run's folder."""


class Stepping(Protocol):
    """What a monitor may use to rehearse, see :class:`fastdarts.engine.step.SearchStep`."""

    model: Supernet

    def difference_error(self, batch: Batch, arch_batch: Batch) -> Row:
        """How far the finite difference of an unrolled step on these batches is from the exact product."""


class Selection(Policy):
    """How a supernet becomes an architecture: at the end, or by decisions between epochs.

    Attributes:
        keeps_edges: whether a node keeps as many edges as the space says, each with one operation. Other rules find
            cells that a table of such cells does not hold.
    """

    keeps_edges: bool = True

    @abstractmethod
    def architecture(self, search: Search) -> Architecture | None:
        """What would be derived now; None if that is known only at the end."""

    def derive(self, space: Space, nodes: int, strengths: Sequence[Tensor]) -> Any:
        """The genotype of these strengths, [E, K] by kind of cell.

        Raises :class:`FastdartsError` if more than the strengths decides.
        """
        raise FastdartsError("the method decides by more than the strengths of the candidates: search by it")

    def between(self, search: Search) -> None:
        """The decisions that are due before the epoch at work."""

    def batch_size(self, published: int) -> int:
        """Images per step of the epoch at work."""
        return published

    def finish(self, search: Search, row: Row) -> tuple[Architecture, float]:
        """The result of the search and its metric; ``row`` is that of the supernet to take."""
        return self.architecture(search), row[search.metric.name]

    def events(self) -> Row:
        """What result.json says of the decisions."""
        return {}


class Stopper(Policy):
    """When a search ends, or goes back; by default neither before its last epoch."""

    def after(self, search: Search) -> Next:
        """What comes after the epoch at work."""
        return Next(search.epoch + 1)

    def final_row(self, rows: list[Row]) -> Row:
        """The row of the epoch whose supernet is the result."""
        return rows[-1]

    def facts(self, search: Search) -> Row:
        """What the row of the epoch at work says of it."""
        return {}

    def note(self, epochs: int) -> str:
        """What is to be said before a search of so many epochs; "" for nothing."""
        return ""

    def events(self) -> Row:
        """What result.json says of it."""
        return {}


class Monitor(Policy):
    """Something that is measured after some epochs, for metrics.jsonl."""

    def __init__(self, every: int = 1):
        self.every = every

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether it is measured after ``epoch``."""
        return self.every > 0 and (epoch + 1) % self.every == 0

    @abstractmethod
    def measure(self, search: Search) -> Row:
        """Numbers, lists or tensors by name."""

    def rehearse(self, supernet: Stepping, batch: Batch, arch_batch: Batch) -> None:
        """Do what takes the most memory, once, if that may be more than a step takes."""
