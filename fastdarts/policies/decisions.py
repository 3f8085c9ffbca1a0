"""Greedy decisions of SGAS (Li et al. 2020, "SGAS: Sequential Greedy Architecture Search", CVPR, section 3.2).

Edge after edge is decided during the search, and runs its operation alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.policies.base import Row, Search, Selection
from fastdarts.spaces import Architecture, CellSpace, Table
from fastdarts.spaces.cells.genotype import Genotype

ROUNDING = 1e-12
"""Differences below this are rounding errors of sums in double precision: without it they would be scaled up to 1."""


class Scores(NamedTuple):
    """How ripe each edge is for a decision, [E] each: the product and, scaled to 0 to 1, what it is made of."""

    total: Tensor
    parts: dict[str, Tensor]


def importance(strengths: Tensor, names: Table) -> Tensor:
    r"""What `none` leaves to the operations of each edge, [E]: :math:`\sum_{k \ne none} P_k`."""
    return (strengths * _operations(names)).sum(1)


def shares(strengths: Tensor, names: Table) -> Tensor:
    r"""The operations' shares of an edge, 0 for `none`, [E, K]: :math:`q_k = P_k / \sum_{j \ne none} P_j`."""
    return strengths * _operations(names) / importance(strengths, names)[:, None]


def certainty(strengths: Tensor, names: Table) -> Tensor:
    r"""How far the operations of each edge are from being alike, [E]: :math:`1 - H(q) / \ln n` for n operations."""
    q = shares(strengths, names)
    return 1 + torch.xlogy(q, q).sum(1) / _operations(names).sum(1).log()


def strongest(strengths: Tensor, names: Table) -> Tensor:
    """The strongest candidate of each edge other than `none`, [E]; ties keep the lower index."""
    return strengths.masked_fill(_operations(names) == 0, -math.inf).argmax(1)


def stability(strengths: Tensor, names: Table, history: Sequence[Tensor]) -> Tensor:
    r"""How much of its shares each edge had before, [E]: :math:`\sum_k \min(q_k, q'_k)`, averaged over the earlier
    strengths in ``history``; 0 if there are none."""
    if not history:
        return strengths.new_zeros(len(strengths))
    q = shares(strengths, names)
    return torch.stack([torch.minimum(q, shares(before, names)).sum(1) for before in history]).mean(0)


def scores(strengths: Tensor, names: Table, history: Sequence[Tensor] | None = None) -> Scores:
    """Criterion 1: importance times certainty, each scaled to 0 to 1 over all edges; with a ``history``, criterion 2:
    times stability.

    strengths: [E, K], double precision. names: the candidates of each edge, one of them `none`.
    """
    parts = {"importance": importance(strengths, names), "certainty": certainty(strengths, names)}
    if history is not None:
        parts["stability"] = stability(strengths, names, history)
    parts = {name: _scaled(values) for name, values in parts.items()}
    return Scores(torch.stack([*parts.values()]).prod(0), parts)


def _scaled(values: Tensor) -> Tensor:
    span = values.max() - values.min()
    return (values - values.min()) / span if span > ROUNDING else torch.zeros_like(values)


def _operations(names: Table) -> Tensor:
    """1 for an operation, 0 for `none`, [E, K]."""
    return torch.tensor([[float(name != "none") for name in row] for row in names], dtype=torch.float64)


class GreedyDecisions(Selection):
    """Decides one edge of each kind of cell after every so many epochs: that of the highest score takes its strongest
    operation other than `none`. Once a node has its edges, those that are left into it are pruned.

    The scores see the alphas of decided and pruned edges as they were at the decision. What the L2 of Adam does to them
    later does not count: the public code gives them no gradient, and so no L2.

    Args:
        first: the epoch after which the first decision is made.
        every: epochs from one decision to the next.
        history: epochs whose strengths the stability compares with; 0 for criterion 1, without stability.
        growth: images by which a decision makes the batches larger.
    """

    def __init__(self, first: int, every: int, history: int, growth: int):
        self.first, self.every, self.length, self.growth = first, every, history, growth
        self.seen = 0  # epochs whose end was looked at
        self.alphas: list[Tensor] = []  # at the last look, of decided rows at their decision
        self.history: list[list[Tensor]] = []  # strengths by kind, the latest last
        self.decisions: list[Row] = []

    def state_dict(self) -> dict[str, Any]:
        return {
            "seen": self.seen,
            "alphas": self.alphas,
            "history": self.history,
            "decisions": self.decisions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.alphas = state["seen"], list(state["alphas"])
        self.history, self.decisions = list(state["history"]), list(state["decisions"])

    def events(self) -> Row:
        """Every decision."""
        return {"decisions": self.decisions}

    def batch_size(self, published: int) -> int:
        """Images per step: a decision frees memory, which larger batches use (section 4.1)."""
        return published + self.growth * len({event["epoch"] for event in self.decisions})

    def derive(self, space: CellSpace, nodes: int, strengths: Sequence[Tensor]) -> Genotype:
        """What the strengths alone would make: of each node the most important edges with their strongest operations.

        strengths: [E, K] for each kind of cell. Ties keep the lower index.
        """
        undecided = [torch.full_like(table, -1.0) for table in strengths]
        return self._genotype(space, nodes, strengths, undecided)

    def architecture(self, search: Search) -> Architecture:
        """The decided edges; what a node lacks, its most important edges that are open."""
        model, space = search.model, search.space
        genotype = self._genotype(space, search.nodes, model.mixing_weights(), model.fixed)
        return Architecture(space, genotype)

    def _genotype(self, space: CellSpace, nodes: int, strengths: Sequence[Tensor], fixed: Sequence[Tensor]) -> Genotype:
        """``fixed`` as :attr:`fastdarts.nn.supernet.Supernet.fixed` gives it."""
        cell, chosen = space.topology(nodes), {}
        for (kind, names), weights, table in zip(space.primitives(nodes).items(), strengths, fixed, strict=True):
            weights = weights.detach().cpu().double()
            worth, best = importance(weights, names).tolist(), strongest(weights, names).tolist()
            decided = (table == 1).any(1).tolist()
            chosen[kind] = {
                row: names[row][best[row]]
                for target in cell.targets
                for row in sorted(cell.into(target), key=lambda row: (not decided[row], -worth[row]))[: cell.kept]
            }
        return space.keeping(chosen, nodes)

    def between(self, search: Search) -> None:
        """Look at the strengths at the end of the last epoch, and decide if it is time."""
        if self.seen == search.epoch:  # after a kill within the epoch
            return
        self.seen = search.epoch
        model, last, offered = search.model, search.epoch - 1, search.space.primitives(search.nodes)
        now, fixed = [alpha.detach().cpu().double() for alpha in model.alpha_tables()], model.fixed
        before = self.alphas or now
        self.alphas = [
            torch.where((table < 0).any(1, keepdim=True), new, old)
            for table, new, old in zip(fixed, now, before, strict=True)
        ]
        strengths = [model.relaxation.strength(alpha) for alpha in self.alphas]
        if last >= self.first and (last - self.first) % self.every == 0:
            for place, (kind, names) in enumerate(offered.items()):
                past = [tables[place] for tables in self.history]
                self._decide(search, kind, names, strengths[place], past, fixed[place])
            model.fix(fixed)
        if self.length:
            self.history = [*self.history, strengths][-self.length :]

    def _decide(
        self, search: Search, kind: str, names: Table, strengths: Tensor, history: list[Tensor], fixed: Tensor
    ) -> None:
        """Make the decision about a cell that is due, if edges are open, in its table ``fixed``."""
        still_open = (fixed < 0).any(1)
        if not still_open.any():
            return
        found = scores(strengths, names, history if self.length else None)
        row = found.total.masked_fill(~still_open, -math.inf).argmax().item()
        k = strongest(strengths, names)[row].item()
        fixed[row] = F.one_hot(torch.tensor(k), len(names[row]))
        cell = search.space.topology(search.nodes)
        edge = cell.edges[row]
        into = [*cell.into(edge.target)]
        full = sum((fixed[other] == 1).any().item() for other in into) == min(cell.kept, len(into))
        pruned = [other for other in into if full and (fixed[other] < 0).any()]
        fixed[pruned] = 0.0
        parts = {name: values[row].item() for name, values in found.parts.items()}
        event = {"epoch": search.epoch - 1, "cell": kind, "edge": row, "keeps": [names[row][k]], "prunes": pruned}
        self.decisions.append(event | {"scores": {"product": found.total[row].item()} | parts})
        search.say(f"{search.space.kinds[kind]}, {cell.arrow(edge.source, edge.target)}: keeps {names[row][k]}")
