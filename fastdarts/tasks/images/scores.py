"""How good a network for images is, by name, your own scores too: one number, of which less is better, and others."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fastdarts.errors import NotFinite
from fastdarts.ranks import counts, rank, total
from fastdarts.registry import Registry, check_call, find_of_task

ScoreFunction = Callable[[Tensor, Tensor], Tensor]
"""From outputs [N, K] and targets [N, K] to a number for each image, [N] or [N, ...]; less is better."""


class Score(ABC):
    """A number by which networks are judged, of all images together.

    Attributes:
        title: what it is called; "valid" or "test" stands before it.
        unit: what follows its number.
        keeps: whether ``counted`` gives numbers that are kept for all images. Else they are summed.
    """

    title: str
    unit: str = ""
    keeps: bool = False

    @abstractmethod
    def counted(self, outputs: Tensor, target: Tensor) -> Tensor:
        """What is summed or kept of a batch, float64 [n], from outputs and targets."""

    @abstractmethod
    def result(self, seen: Tensor, images: int) -> dict[str, float]:
        """The number ``error``, of which less is better, and others, from the sums or from what was kept."""


class MeanScore(Score):
    """The mean of a number for each image."""

    def __init__(self, function: ScoreFunction, title: str, unit: str = ""):
        self.function, self.title, self.unit = function, title, unit

    def counted(self, outputs: Tensor, target: Tensor) -> Tensor:
        found = self.function(outputs, target).detach().double()
        return found.reshape(len(target), -1).mean(1).sum().reshape(1)

    def result(self, seen: Tensor, images: int) -> dict[str, float]:
        return {"error": seen.item() / images}


class RootMeanSquare(MeanScore):
    """The root of the mean squared error of all numbers."""

    def __init__(self) -> None:
        super().__init__(lambda outputs, target: (outputs - target).square(), "root mean squared error")

    def result(self, seen: Tensor, images: int) -> dict[str, float]:
        return {"error": math.sqrt(seen.item() / images)}


class Unexplained(Score):
    r"""The share of the variance that is not explained, in percent, the mean over the targets.

    .. math:: 100\,(1 - R^2), \qquad 1 - R^2 = \sum_i (y_i - \hat y_i)^2 / \sum_i (y_i - \bar y)^2

    A target that is the same for all images has :math:`R^2 = 0`, or 1 if it is met exactly.
    """

    title, unit = "unexplained variance", " %"

    def counted(self, outputs: Tensor, target: Tensor) -> Tensor:
        outputs, target = outputs.detach().double(), target.double()
        return torch.cat([target.sum(0), target.square().sum(0), (target - outputs).square().sum(0)])

    def result(self, seen: Tensor, images: int) -> dict[str, float]:
        sums, squares, wrong = seen.view(3, -1)
        spread = squares - sums.square() / images
        flat = spread <= 1e-12 * squares
        share = torch.where(flat, (wrong > 0).double(), wrong / torch.where(flat, 1.0, spread)).mean().item()
        return {"error": 100 * share, "r2": 1 - share}


class AveragePrecision(Score):
    r"""100 % less the mean average precision: the mean over the labels that some image has.

    With the images in the order of their output, the largest first, :math:`AP = \sum_n (R_n - R_{n-1}) P_n`, of recall
    and precision among the first n. Equal outputs count as one step.
    """

    title, unit, keeps = "mean average precision error", " %", True

    def counted(self, outputs: Tensor, target: Tensor) -> Tensor:
        return torch.stack([outputs.detach().double(), target.double()], -1).flatten()

    def result(self, seen: Tensor, images: int) -> dict[str, float]:
        outputs, target = seen.view(images, -1, 2).unbind(-1)
        found = [average_precision(outputs[:, k], target[:, k]) for k in range(outputs.shape[1]) if target[:, k].any()]
        precision = sum(found) / len(found) if found else 0.0
        return {"error": 100 * (1 - precision), "map": 100 * precision}


def average_precision(outputs: Tensor, target: Tensor) -> float:
    """The average precision of one label, from outputs [N] and targets [N] of which one at least is 1."""
    order = outputs.argsort(descending=True, stable=True)
    outputs, target = outputs[order], target[order]
    last = torch.ones(len(outputs), dtype=torch.bool)
    last[:-1] = outputs[1:] != outputs[:-1]
    right = target.cumsum(0)[last]
    precision = right / (torch.arange(1, len(outputs) + 1)[last])
    return (torch.diff(right, prepend=right.new_zeros(1)) * precision).sum().item() / right[-1].item()


class F1(Score):
    r"""100 % less the mean F1 of the labels, where outputs above 0 say yes.

    :math:`F_1 = 2 TP / (2 TP + FP + FN)`; labels that no image has and nobody said do not count.
    """

    title, unit = "F1 error", " %"

    def counted(self, outputs: Tensor, target: Tensor) -> Tensor:
        said, is_so = (outputs.detach() > 0).double(), target.double()
        return torch.cat([(said * is_so).sum(0), said.sum(0), is_so.sum(0)])

    def result(self, seen: Tensor, images: int) -> dict[str, float]:
        right, said, is_so = seen.view(3, -1)
        known = said + is_so > 0
        share = (2 * right[known] / (said + is_so)[known]).mean().item() if known.any() else 0.0
        return {"error": 100 * (1 - share), "f1": 100 * share}


class InUnits(Score):
    """A score that sees what a network says in the unit of the targets, by ``answers``."""

    def __init__(self, score: Score, answers: Callable[[Tensor], Tensor]):
        self._score, self._answers = score, answers
        self.title, self.unit, self.keeps = score.title, score.unit, score.keeps

    def counted(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self._score.counted(self._answers(outputs.detach()), target)

    def result(self, seen: Tensor, images: int) -> dict[str, float]:
        return self._score.result(seen, images)


SCORES: dict[str, Score] = {}
"""By task and name, such as regression/mae."""
_SCORES = Registry("metric", SCORES, lambda name, thing: None)


def add_score(name: str, task: str, score: Score) -> None:
    """Make ``score`` the metric ``name`` of a task."""
    _SCORES.check_name(name, f"metric {name!r} of task {task}")
    _SCORES.add(f"{task}/{name}", score)


def register_metric(name: str, *, task: str, title: str, unit: str = "") -> Callable[[ScoreFunction], ScoreFunction]:
    """Make the mean of a function ``(outputs, target) -> numbers`` over all images the metric ``name`` of a task.

    Args:
        name: What ``--metric`` calls it.
        task: images, regression or multilabel. Numbers of regression are in their own unit here.
        title: What people read, such as "relative error".
        unit: What follows the number, such as " %".

    Returns:
        The decorator. Its function gives [N], or [N, ...] of which each image's mean counts; less is better.

    Raises:
        FastdartsError: The name is taken, or the function does not take two arguments.

    >>> @register_metric("relative", task="regression", title="relative error")
    ... def relative(outputs, target):
    ...     return (outputs - target).abs() / target.abs()
    """

    def decorate(function: ScoreFunction) -> ScoreFunction:
        check_call(f"metric {name!r} of task {task}", function, ("outputs", "target"), "Tensor [N]")
        add_score(name, task, MeanScore(function, title, unit))
        return function

    return decorate


def find_score(name: str, task: str) -> Score:
    """The metric of this name; raises :class:`FastdartsError` naming those that ``task`` has."""
    return find_of_task(_SCORES, "--metric", name, task)


add_score("mae", "regression", MeanScore(lambda outputs, target: (outputs - target).abs(), "mean absolute error"))
add_score("rmse", "regression", RootMeanSquare())
add_score("r2", "regression", Unexplained())
add_score("map", "multilabel", AveragePrecision())
add_score("f1", "multilabel", F1())


@dataclass
class ScoreMeter:
    """The mean loss, and what a score has counted, of the images seen; ``score`` is that of a class derived from it."""

    loss: float = 0.0
    count: int = 0
    seen: list[float] = field(default_factory=list)

    score: ClassVar[Score]

    @property
    def mean(self) -> float:
        """The mean loss so far."""
        return self.loss / self.count

    def update(self, loss: float, outputs: Tensor, target: Tensor) -> None:
        """Count a batch: the mean loss of all ranks, and outputs and targets of this one."""
        self.add(loss, self.score.counted(outputs, target).tolist(), len(target))

    def add(self, loss: float, counted: Sequence[float], images: int) -> None:
        """The same for a batch of so many images, given what the score has counted."""
        if self.score.keeps:
            (images,) = map(int, total(images))
            self.seen += _of_all_ranks(counted)
        else:
            *counted, images = total(*counted, images)
            self.seen = [a + b for a, b in zip(self.seen or [0.0] * len(counted), counted, strict=True)]
        self.loss += loss * images
        self.count += int(images)

    def summary(self, prefix: str, at: str = "") -> dict[str, float]:
        """``{prefix}_loss``, ``{prefix}_error`` and the other numbers of the score."""
        found = self.score.result(torch.tensor(self.seen, dtype=torch.float64), self.count)
        if not math.isfinite(found["error"]):
            raise NotFinite(self.score.title, found["error"], prefix, at)
        return {f"{prefix}_{name}": value for name, value in ({"loss": self.mean} | found).items()}


def _of_all_ranks(numbers: Sequence[float]) -> list[float]:
    """Those of all ranks, in their order."""
    sizes = counts(len(numbers))
    begin = sum(sizes[: rank()])
    return total(*[0.0] * begin, *numbers, *[0.0] * (sum(sizes) - begin - len(numbers)))


def meter_of(score: Score) -> type[ScoreMeter]:
    """A meter that counts by ``score``."""
    return type("ScoreMeter", (ScoreMeter,), {"score": score})
