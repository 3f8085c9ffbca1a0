"""Stages of ever deeper supernets over ever fewer candidates, P-DARTS (Chen et al. 2019, "Progressive Differentiable
Architecture Search", ICCV, section 3)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdarts.nn.candidates import build_candidate
from fastdarts.nn.operations import DroppingIdentity, Identity
from fastdarts.nn.supernet import Supernet
from fastdarts.policies.base import Row, Search
from fastdarts.policies.bilevel import Stage, Stages
from fastdarts.policies.monitors import Facts
from fastdarts.spaces import CellSpace, Table

DECAY = 0.2  # of the rate per epoch after the warm-up, as in the public code

Kept = list[list[int]]
"""The candidates of every edge, as columns of alpha in the whole space, ascending."""


def survivors(strengths: Tensor, count: int) -> Kept:
    """The columns of the strongest candidates of each edge, so many of them, ascending; of equals the later ones stay.

    strengths: [E, K].
    """
    order = strengths.sort(dim=1, stable=True).indices  # the weakest first, of equals the first
    return order[:, order.shape[1] - count :].sort(dim=1).values.tolist()


def dropout_rate(highest: float, epoch: int, epochs: int, warmup: int) -> float:
    r"""The rate at which skip connections drop elements in ``epoch`` of a stage.

    It is :math:`p (E - 1 - e) / E` in the warm-up. From its end on it is :math:`p \exp(-0.2 (e - w))`: it begins at p
    again.
    """
    if epoch < warmup:
        return highest * (epochs - 1 - epoch) / epochs
    return highest * math.exp(-DECAY * (epoch - warmup))


class Pruning(Stages):
    """Supernets over ever fewer candidates: each has those of every edge that were the strongest of the one before.

    Args:
        space, nodes: the whole space, and the nodes of its cells.
        epochs: of every stage.
        candidates: how many an edge keeps for each stage after the first.
        changes: the settings of each stage that are others than those of the search.
    """

    def __init__(
        self,
        space: CellSpace,
        nodes: int,
        epochs: int,
        candidates: Sequence[int],
        changes: Sequence[Mapping[str, Any]],
    ):
        self.space, self.tables = space, space.primitives(nodes)
        self.epochs, self.candidates, self.changes = epochs, candidates, changes
        self.kept: list[dict[str, Kept]] = []  # of each stage that was begun after the first
        modules = {kind: _modules(table) for kind, table in self.tables.items()}
        self._largest = [{kind: survivors(table, count) for kind, table in modules.items()} for count in candidates]

    def state_dict(self) -> dict[str, Any]:
        """What every stage after the first was begun with."""
        return {"kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = list(state["kept"])

    def all(self) -> list[Stage]:
        """The stages; one that is still to come has the candidates of the most modules, which take the most memory."""
        kept = [None, *self.kept, *self._largest[len(self.kept) :]]
        return [
            Stage(self.epochs, self._over(columns), changes)
            for columns, changes in zip(kept, self.changes, strict=True)
        ]

    def end(self, search: Search, number: int) -> None:
        """Keep the strongest candidates of every edge of each kind of cell."""
        found, count = {}, self.candidates[number]
        for kind, weights in zip(self.tables, search.model.mixing_weights(), strict=True):
            before = self.columns(kind)
            strongest = survivors(weights.detach().cpu(), count)
            found[kind] = [[row[k] for k in kept] for row, kept in zip(before, strongest, strict=True)]
        self.kept.append(found)
        search.say(f"stage {number + 2}: {self.title(number + 1)}, {count} candidates on every edge")

    def title(self, number: int) -> str:
        """The supernet of a stage, in words."""
        return ", ".join(f"{name} {value}" for name, value in self.changes[number].items())

    def columns(self, kind: str) -> Kept:
        """The candidates at work, as columns of the whole space."""
        return self.kept[-1][kind] if self.kept else [[*range(len(names))] for names in self.tables[kind]]

    def _over(self, kept: dict[str, Kept] | None) -> CellSpace:
        """The space with these candidates only."""
        if kept is None:
            return self.space
        tables = {
            kind: tuple(tuple(names[k] for k in columns) for names, columns in zip(table, kept[kind], strict=True))
            for kind, table in self.tables.items()
        }
        return dataclasses.replace(self.space, **tables)


class Progressive(Pruning):
    """Supernets of more and more cells. Each begins anew, on the candidates of every edge that were the strongest of
    the supernet before; weights, alphas and optimizers are fresh.

    Skip connections of stride 1 drop elements with a rate that falls in every stage, see :func:`dropout_rate`.

    Args:
        space, nodes: the whole space, and the nodes of its cells.
        epochs: of every stage. warmup: those of them in which the alphas stay as they are.
        layers: cells of each supernet.
        candidates: how many an edge keeps for each stage after the first.
        dropout: the highest rate of each stage.
    """

    def __init__(
        self,
        space: CellSpace,
        nodes: int,
        epochs: int,
        warmup: int,
        layers: Sequence[int],
        candidates: Sequence[int],
        dropout: Sequence[float],
    ):
        super().__init__(space, nodes, epochs, candidates, [{"layers": count} for count in layers])
        self.warmup, self.layers, self.dropout = warmup, layers, dropout

    def title(self, number: int) -> str:
        """Its cells."""
        return f"{self.layers[number]} cells"

    def start_epoch(self, model: Supernet, epoch: int) -> None:
        """Set the rate of the skip connections."""
        stage, within = divmod(epoch, self.epochs)
        rate = dropout_rate(self.dropout[stage], within, self.epochs, self.warmup)
        for cells in model.mixed_ops().values():
            for edge in (edge for edges in cells for edge in edges):
                for k, op in enumerate(edge._ops):
                    if isinstance(op, DroppingIdentity):
                        op.rate = rate
                    elif isinstance(op, Identity) and rate:
                        edge._ops[k] = DroppingIdentity(rate).train(op.training)


def _modules(table: Table) -> Tensor:
    """How many modules each candidate is made of, [E, K]."""
    with torch.device("meta"):
        counts = {name: len([*build_candidate(name, 2, 1).modules()]) for row in table for name in row}
    return torch.tensor([[counts[name] for name in row] for row in table], device="cpu")


class WholeFacts(Facts):
    """The same facts with tables of the whole space, in which the strength of a dropped candidate is 0."""

    def __init__(self, stages: Pruning):
        super().__init__()
        self.stages = stages

    def measure(self, search: Search) -> Row:
        row = super().measure(search)
        for kind, table in self.stages.tables.items():
            edges = zip(table, self.stages.columns(kind), row[f"weights_{kind}"], strict=True)
            row[f"weights_{kind}"] = [_spread(len(names), columns, weights) for names, columns, weights in edges]
        return row


def _spread(size: int, columns: Sequence[int], weights: Sequence[float]) -> list[float]:
    """``weights`` at these columns of a row of so many, 0 elsewhere."""
    known = dict(zip(columns, weights, strict=True))
    return [known.get(k, 0.0) for k in range(size)]
