"""What a task is: what is learned, from which data, and how good it is. The engine knows nothing else of it."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.nn.supernet import Supernet
from fastdarts.registry import Registry
from fastdarts.spaces import Space

Row = dict[str, Any]
Batch = tuple[Any, Tensor]
"""What a network takes and the target. The first has a length, the number of examples, and ``to(device)``."""


class Metric(NamedTuple):
    """The number by which supernets and networks are compared: its key in rows, its title, its unit. Less is better."""

    name: str
    title: str
    unit: str = ""

    def said(self, value: float) -> str:
        """``value`` with title and unit."""
        return f"{self.title} {self.number(value)}"

    def number(self, value: float) -> str:
        """``value`` with its unit: four digits of it where it has none."""
        return f"{value:.2f}{self.unit}" if self.unit else f"{value:.4g}"


class Streams(Protocol):
    """Batches in the order of their epoch."""

    def __len__(self) -> int:
        """How many an epoch has."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Those of an epoch, from number ``start`` on."""

    def endless(self, step: int) -> Iterator[Batch]:
        """Those of all epochs one after another, from number ``step`` on."""

    def first(self, epoch: int) -> Batch:
        """The first batch of :meth:`epoch`, for a measurement: the stream stays where it is."""

    def batch(self, step: int) -> Batch:
        """The first batch of :meth:`endless`, for a measurement: the stream stays where it is."""

    def in_order(self) -> Iterator[Batch]:
        """All examples, for a measurement."""


class Meter(Protocol):
    """What was learned in an epoch so far; a dataclass of numbers, which a checkpoint keeps."""

    mean: float

    def update(self, loss: float, outputs: Tensor | None, target: Tensor) -> None:
        """Count a batch: its mean loss, what the network gave, and the target."""

    def summary(self, prefix: str, at: str = "") -> Row:
        """The numbers of a row, each with this prefix.

        Raises :class:`fastdarts.errors.NotFinite`, as of ``at``, if one is none that a row can hold.
        """


class Learned(NamedTuple):
    """A pass from which weights learn: the loss that is differentiated, the one that is reported, the outputs."""

    loss: Tensor
    value: Tensor
    outputs: Tensor | None


class Data(ABC):
    """The data of one search, as far as every search has some.

    Attributes:
        label: part of the default name of the run's folder.
    """

    label: str

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """What all ranks must agree upon."""

    @abstractmethod
    def description(self) -> Row:
        """What environment.json says of the data."""

    def introduction(self) -> str:
        """What is said of the data before the search, in one line; "" if its name says all."""
        return ""

    def check_batches(self, config: Any) -> None:  # noqa: B027 - may stay as it is
        """Raise :class:`FastdartsError` if the data makes no batches of that size."""

    def check_resumed(self, state: Mapping[str, Any] | None, config: Any) -> None:  # noqa: B027
        """Raise :class:`FastdartsError` if a run goes on from ``state`` with other data than it began with."""

    def opened(self, config: Any, device: torch.device) -> AbstractContextManager[Any]:
        """Inside, batches can be made, for a model on ``device``."""
        return nullcontext()


class NoData(Data):
    """What a search has that looks at no data."""

    def __init__(self, label: str):
        self.label = label

    def facts(self) -> Mapping[str, Any]:
        return {}

    def description(self) -> Row:
        return {}


class Problem(Data):
    """A task with the data of one search.

    Attributes:
        meter_type: a :class:`Meter`.
        examples: how many training examples are in use, if ``--samples`` can lower that; None if there is no such flag.
    """

    examples: int | None = None
    meter_type: type[Any]

    def check_network(self, config: Any, space: Space) -> Supernet:
        """A supernet without content; raises :class:`FastdartsError` if it does not fit the data."""
        with torch.device("meta"), torch.no_grad():
            return self.network(config, space)

    @abstractmethod
    def network(self, config: Any, space: Space) -> Supernet:
        """A fresh supernet of ``space``. It draws from the default generator only."""

    @abstractmethod
    def streams(
        self, config: Any, recipe: Any, size: int, epoch: int, epochs: int
    ) -> tuple[Streams, Streams | None, Streams]:
        """Batches of so many examples for ``epoch`` of ``epochs``: of the weights, of the alphas (None if they learn
        from the same), and of measurements."""

    @abstractmethod
    def rate_share(self, config: Any, epoch: int) -> float:
        """The learning rate of the weights in ``epoch`` as a share of ``config.learning_rate``."""

    def rate(self, config: Any, rate: float, batch: Batch) -> float:
        """The learning rate for a batch in an epoch of this rate."""
        return rate

    @abstractmethod
    def learn(self, config: Any, model: Supernet, forward: Any, batch: Batch) -> Learned:
        """A pass of the weights; ``forward(x)`` gives what they learn from, the mixture or one path of it."""

    def counted(self, outputs: Tensor, target: Tensor) -> Tensor | None:
        """What ``meter.add(loss, counted, examples)`` takes of a batch, a few numbers [n] on the device, so that they
        are read along with the loss; None if the meter takes outputs and labels."""
        return None

    def why_not_recorded(self) -> str:
        """Why a pass of :meth:`learn` cannot be recorded as a CUDA graph; "" if it can: then it works on the device
        alone and takes nothing from the host that changes from step to step."""
        return f"{type(self).__name__} does not say that its passes work on the device alone"

    @abstractmethod
    def measure(self, model: nn.Module, batches: Iterable[Batch], device: torch.device, prefix: str) -> Row:
        """Loss and metric of ``model`` in evaluation mode; it is left in training mode."""

    @abstractmethod
    def rehearsal(self, config: Any, examples: int) -> Batch:
        """A batch of so many examples without content, from which the memory of a step is estimated."""

    def state_dict(self) -> dict[str, Any]:
        """Where the streams are, if that does not follow from the number of the step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""

    def start_epoch(self) -> None:
        """Bring the streams to the beginning of an epoch."""


class Task(ABC):
    """What is learned; an object of a subclass, registered by :func:`register_task`.

    Attributes:
        name: what spaces call it.
        title: what it learns from, in words.
        metric: by which supernets are compared.
        learns_from: the task in whose spaces it searches; "" for its own ones only.
        settings: classes of what its searches add to the settings of every search (``extends`` says to which), those
            derived most first.
        evaluation: the settings of its evaluations; None if derived networks cannot be trained from scratch.
        recipe: the published settings of DARTS, for settings that are left out.
        betas: decays of the two moments of Adam on the alphas, as published.
        smaller: flags that make its networks smaller.
        clips_look_ahead: whether the step that a second-order gradient looks ahead is clipped as the weights' own.
        has: what it can do beside what all can, see ``needs`` of :class:`fastdarts.tasks.settings.SearchConfig`.
            "ranks": several processes may search as one. "training from scratch": a search can train derived networks.
            "class logits": networks give logits [N, classes], by which single candidates are judged.
    """

    name: str
    title: str
    metric: Metric
    settings: tuple[type[Any], ...]
    evaluation: type[Any] | None = None
    recipe: Mapping[str, Any]
    betas: tuple[float, float] = (0.5, 0.999)
    learns_from: str = ""
    smaller: str = "--channels or --layers"
    clips_look_ahead: bool = False
    has: frozenset[str] = frozenset()

    def fits(self, space: Space) -> bool:
        """Whether it can be learned in that space."""
        return space.task in (self.name, self.learns_from)

    def of(self, settings: Mapping[str, Any]) -> Task:
        """The task with the metric of runs with these settings, as they or a stored run hold them."""
        return self

    @abstractmethod
    def problem(self, config: Any, space: Space) -> Problem:
        """The data of a search with these settings, which are resolved.

        Raises :class:`FastdartsError` on anything wrong with the data.
        """

    @abstractmethod
    def line(self, row: Row, epochs: int) -> str:
        """What is printed of the row of an epoch."""

    def tested(self, result: Row) -> str:
        """What is printed of the result of an evaluation, of a task that has them.

        Raises :class:`FastdartsError` for a task that does not say it.
        """
        raise FastdartsError(f"task {self.name} does not say what its evaluations found: give it a tested(result)")


TASKS: dict[str, Task] = {}
_TASKS = Registry("task", TASKS, lambda name, thing: register_task(thing), made_of=type)
BUILT_IN = ("images", "language", "targets", "pretext", "dense")


def register_task(task: Task) -> Task:
    """Make an object of a class derived from :class:`Task` the task ``task.name``, and return it.

    Raises :class:`FastdartsError` if it is no such object, or if another task has its name.
    """
    if not isinstance(task, Task):
        what = f"the class {task.__name__}" if isinstance(task, type) else f"a {type(task).__name__}"
        raise FastdartsError(f"a task is {what}: expected an object of a class derived from fastdarts.tasks.task.Task")
    _TASKS.check_name(task.name, f"task {task.name!r} ({type(task).__name__})")
    _TASKS.add(task.name, task)
    return task


def tasks() -> dict[str, Task]:
    """All tasks by name."""
    for name in BUILT_IN:
        importlib.import_module(f"fastdarts.tasks.{name}.task")
    _TASKS.load()
    return TASKS


def find_task(name: str) -> Task:
    """The task of this name; raises :class:`FastdartsError` naming those there are."""
    if name not in tasks():
        raise FastdartsError(f"there is no task {name!r}: expected one of {', '.join(TASKS)}")
    return TASKS[name]
