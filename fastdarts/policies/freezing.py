"""Operations whose weights have learned enough are frozen, OLES (Jiang et al. 2023, "Operation-Level Early Stopping for
Robustifying Differentiable NAS", NeurIPS)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastdarts.nn.optim import SGD
from fastdarts.nn.supernet import Supernet
from fastdarts.policies.base import Batch, Row, Search
from fastdarts.policies.hypergradients import Descent, FirstOrder, Gradients, Passes
from fastdarts.policies.selection import Strongest


class Operation(NamedTuple):
    """A candidate of one edge of one cell that has weights, by name."""

    name: str
    module: nn.Module


def operations(model: Supernet) -> Iterator[Operation]:
    """All candidates with weights; a name counts the cells of each kind from 0."""
    for kind, cells in model.mixed_ops().items():
        for number, edges in enumerate(cells):
            for row, edge in enumerate(edges):
                for name, op in zip(edge.primitives, edge._ops, strict=False):
                    if next(op.parameters(), None) is not None:
                        yield Operation(f"{kind} cell {number}, edge {row}, {name}", op)


def likeness(first: Tensor, second: Tensor) -> Tensor:
    """The mean cosine of two gradients of a parameter, along its first dimension, as a scalar; that of 0 is 0."""
    return F.cosine_similarity(first, second, dim=0).mean()


class Freezing(Strongest):
    """Freezes the weights of operations whose gradient on the validation batch is no longer like that of the last
    training batch: where the mean of :func:`likeness` over the parameters and over ``window`` steps is below ``least``.

    Frozen weights stay as they are for good: no gradient, no L2, no momentum. The operation goes on taking part, and so
    does its alpha.
    """

    def __init__(self, window: int, least: float):
        self.window, self.least = window, least
        self.steps = 0  # in the window at work
        self.sums: Tensor | None = None
        self.frozen: list[Row] = []
        self._model: Supernet | None = None
        self._known: list[Operation] = []
        self._optimizer: SGD | None = None
        self._loaded: list[Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        """What is frozen, the sums of the window at work, and the last gradients of the training batches."""
        last = [] if self._optimizer is None else [gradient for _, gradient in self._optimizer.gathered()]
        return {"frozen": self.frozen, "steps": self.steps, "sums": self.sums, "last": self._loaded or last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.frozen, self.steps, self.sums = list(state["frozen"]), state["steps"], state["sums"]
        self._loaded = list(state["last"]) or None

    def events(self) -> Row:
        """Every operation that was frozen."""
        return {"frozen": self.frozen}

    def between(self, search: Search) -> None:
        """Freeze again what was frozen, in a supernet that was just built."""
        self._freeze(search.model, {event["operation"] for event in self.frozen})

    def _freeze(self, model: Supernet, names: set[str]) -> None:
        for operation in self._operations(model):
            if operation.name in names:
                operation.module.requires_grad_(False)

    def _operations(self, model: Supernet) -> list[Operation]:
        if self._model is not model:
            self._model, self._known = model, [*operations(model)]
        return self._known

    def wanted(self, model: Supernet) -> list[Tensor]:
        """The weights whose validation gradient counts."""
        return [p for operation in self._operations(model) for p in operation.module.parameters() if p.requires_grad]

    def compare(self, model: Supernet, weights: list[Tensor], gradients: Gradients, optimizer: SGD) -> None:
        """Note how like the validation ``gradients`` of ``weights`` are to the last training gradients."""
        first, self._optimizer = self._optimizer is None and self._loaded is None, optimizer
        last = {id(p): gradient for p, gradient in optimizer.gathered()}
        if self._loaded is not None:  # the optimizer was built anew
            last = dict(zip(last, self._loaded, strict=True))
            self._loaded = None
        if first:
            return
        found = {id(p): g for p, g in zip(weights, gradients, strict=True) if g is not None}
        values = []
        for operation in self._operations(model):
            own = [p for p in operation.module.parameters() if id(p) in found]
            alike = [likeness(found[id(p)], last[id(p)].to(found[id(p)].device)) for p in own]
            values.append(torch.stack(alike).mean() if alike else weights[0].new_ones(()))
        now = torch.stack(values).double()
        self.sums = now if self.sums is None else self.sums.to(now.device) + now
        self.steps += 1
        if self.steps == self.window:
            means = (self.sums / self.window).tolist()
            gone = {event["operation"] for event in self.frozen}
            new = [
                {"operation": operation.name, "likeness": mean}
                for operation, mean in zip(self._operations(model), means, strict=True)
                if mean < self.least and operation.name not in gone
            ]
            self.frozen += new
            self._freeze(model, {event["operation"] for event in new})
            self.steps, self.sums = 0, None


class Watched(FirstOrder):
    """The first-order gradient of the alphas, from a pass that gives those of the weights to :class:`Freezing` too."""

    why_not_recorded = "weights may be frozen after any step"

    def __init__(self, freezing: Freezing):
        object.__setattr__(self, "freezing", freezing)

    def __call__(self, passes: Passes, train: Batch, valid: Batch, descent: Descent) -> tuple[Tensor, Gradients]:
        weights = self.freezing.wanted(passes.model)
        loss, gradients, of_weights = passes.differentiate(valid, wanted=weights)
        if weights:
            self.freezing.compare(passes.model, weights, of_weights, descent.optimizer)
        return loss, gradients
