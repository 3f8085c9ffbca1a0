"""Cells that a controller draws, and how it learns between epochs what they are worth (ENAS, Pham et al. 2018)."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.nn.statistics import batch_statistics
from fastdarts.policies.base import Monitor, Row, Search
from fastdarts.policies.evaluators import shared_error
from fastdarts.policies.noise import FIRST
from fastdarts.policies.samplers import DrawnPath
from fastdarts.policies.searchers.cell_controller import CellController, Drawn
from fastdarts.spaces import CellSpace
from fastdarts.tasks.images.batches import seed_from

BETAS, EPSILON = (0.0, 0.999), 1e-3
"""Of Adam on the controller, as published."""


def operations_of(space: CellSpace, nodes: int) -> list[str]:
    """The operations that every edge of ``space`` offers, without `none`.

    Raises :class:`FastdartsError` if edges offer different ones: the controller has one softmax for all.
    """
    offered = {names for table in space.primitives(nodes).values() for names in table}
    names, *others = ([name for name in row if name != "none"] for row in sorted(offered))
    if others or not names:
        raise FastdartsError(
            f"--space is {space.name}, whose edges offer different operations, but a controller chooses among the same "
            "ones everywhere: choose a space such as enas or darts"
        )
    return names


class ControlledPath(DrawnPath):
    r"""Every step of the weights trains another cell that the controller draws.

    The controller learns by REINFORCE. The reward of a cell is :math:`R = a + w H` with its accuracy a on one batch and
    the summed entropy H of its decisions, a constant. The baseline follows it,
    :math:`b \leftarrow b + (1 - d)(R - b)`, and begins at 0. The loss is the mean of :math:`-\log p \, (R - b)` over
    the cells of a step. Adam takes the step.

    Args:
        space, nodes: where the cells come from.
        seed: of the search.
        tanh_constant, op_reduce, temperature: see :class:`CellController`.
        rate: learning rate of Adam.
        weight: w.
        decay: d.
    """

    def __init__(
        self,
        space: CellSpace,
        nodes: int,
        seed: int,
        *,
        tanh_constant: float,
        op_reduce: float,
        temperature: float,
        rate: float,
        weight: float,
        decay: float,
    ):
        super().__init__(space, nodes)
        self.names = operations_of(space, nodes)
        # of its own: the same on all ranks, and after a kill
        self.generator = torch.Generator().manual_seed(FIRST + seed)
        squashing = tanh_constant, op_reduce, temperature
        self.controller = CellController(nodes, self.names, space.distinct_sources, *squashing, self.generator)
        self.optimizer = torch.optim.Adam(self.controller.parameters(), rate, BETAS, EPSILON)
        self.weight, self.decay = weight, decay
        self.baseline, self.steps = 0.0, 0
        self._before: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The controller, its optimizer, the baseline, and the generator; in :meth:`repeatable`, as before it."""
        if self._before is not None:
            return self._before
        return {
            "controller": self.controller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "baseline": self.baseline,
            "steps": self.steps,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.controller.load_state_dict(state["controller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.baseline, self.steps = state["baseline"], state["steps"]
        self.generator.set_state(state["generator"])

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """Inside, what is saved is the state from before: whatever a signal ends here begins anew."""
        self._before = copy.deepcopy(self.state_dict())
        try:
            yield
        finally:
            self._before = None

    def draw(self, generator: torch.Generator) -> Any:
        return self.genotype(self.controller.sample(1, generator).choices[0])

    def genotype(self, choices: Tensor) -> Any:
        """That of the controller's decisions [D]: of each node its two sources, then the operation on each."""
        values, pairs = iter(choices.tolist()), {}
        for kind in self.space.kinds:
            pairs[kind] = []
            for _ in range(self.nodes):
                sources, ops = [next(values), next(values)], [next(values), next(values)]
                edges = [(self.names[op], source) for op, source in zip(ops, sources, strict=True)]
                pairs[kind] += sorted(edges, key=lambda edge: edge[1]) if self.space.distinct_sources else edges
        return self.space.assembled(pairs)

    def learn(self, choices: Tensor, accuracies: Sequence[float]) -> list[float]:
        """One step by cells [B, D] of these accuracies, from 0 to 1; returns their rewards."""
        loss, rewards = self.loss(self.controller(choices), accuracies)
        self.optimizer.zero_grad()
        loss.backward()
        self.steps += 1
        # The published optimizer adds epsilon before it corrects the second moment, that of PyTorch afterwards.
        self.optimizer.param_groups[0]["eps"] = EPSILON / math.sqrt(1 - BETAS[1] ** self.steps)
        self.optimizer.step()
        return rewards

    def loss(self, drawn: Drawn, accuracies: Sequence[float]) -> tuple[Tensor, list[float]]:
        """The loss of REINFORCE, and the rewards; moves the baseline by each reward before that counts."""
        rewards, advantages = [], []
        for accuracy, entropy in zip(accuracies, drawn.entropies.sum(1).tolist(), strict=True):
            rewards.append(accuracy + self.weight * entropy)
            self.baseline += (1 - self.decay) * (rewards[-1] - self.baseline)
            advantages.append(rewards[-1] - self.baseline)
        return -(drawn.logs.sum(1) * drawn.logs.new_tensor(advantages)).mean(), rewards


class ControllerSteps(Monitor):
    """After every epoch the controller takes ``steps`` steps, each by ``batch`` cells with the weights of the supernet.

    Every cell is judged on another validation batch. BatchNorms use the statistics of the batch.

    Rows say ``policy_reward``, the mean of the rewards, and ``policy_entropy``, that of the summed entropies of a cell.
    ``policy_baseline`` is the baseline in the end.
    """

    def __init__(self, path: ControlledPath, steps: int, batch: int):
        super().__init__()
        self.path, self.steps, self.batch = path, steps, batch

    def measure(self, search: Search) -> Row:
        path, count = self.path, self.steps * self.batch
        generator = torch.Generator().manual_seed(seed_from(search.seed, "controller", search.epoch))
        batches = search.interruptible(islice(search.valid.endless(search.epoch * count), count))
        rewards, entropies = [], []
        search.progress("training the controller", count)
        with path.repeatable(), search.autocast(), batch_statistics(search.model):
            for _ in range(self.steps):
                drawn = path.controller.sample(self.batch, generator)
                accuracies = []
                for choice in drawn.choices:
                    cell = functools.partial(path.of, search.model, genotype=path.genotype(choice))
                    accuracies.append(1 - shared_error(cell, [next(batches)], search.device) / 100)
                    search.advance()
                rewards += path.learn(drawn.choices, accuracies)
                entropies += drawn.entropies.sum(1).tolist()
        means = {"policy_reward": sum(rewards) / count, "policy_entropy": sum(entropies) / count}
        return means | {"policy_baseline": path.baseline}
