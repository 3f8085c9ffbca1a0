"""Selections: how the strengths of the candidates become an architecture."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdarts.policies.base import Row, Search, Selection
from fastdarts.spaces import Architecture, Space, Table
from fastdarts.spaces.topology import Entry, Topology


class Strongest(Selection):
    """The rule of the space. In the spaces of DARTS (Liu et al. 2019, section 2.4) a node keeps its strongest edges,
    each with its strongest operation."""

    def derive(self, space: Space, nodes: int, strengths: Sequence[Tensor]) -> Any:
        """By the rule of the space."""
        return space.strongest(strengths, nodes)

    def architecture(self, search: Search) -> Architecture:
        """What the supernet would become now."""
        return Architecture(search.space, search.model.genotype())


class ByStrength(Selection):
    """A rule that :meth:`derive` makes of the strengths alone."""

    def architecture(self, search: Search) -> Architecture:
        """What the supernet would become now; the weights of normalised edges multiply the strengths."""
        model = search.model
        with torch.no_grad():
            strengths = [
                own if edges is None else own * edges[:, None]
                for own, edges in zip(model.mixing_weights(), model.edge_weights(), strict=True)
            ]
        return Architecture(search.space, self.derive(search.space, search.nodes, strengths))


class Ranking(ByStrength):
    """A rule for spaces whose genotypes list, by kind of cell, entries and the states of the output.

    An entry is (operation, source) or (operation, source, target).
    """

    def derive(self, space: Space, nodes: int, strengths: Sequence[Tensor]) -> Any:
        """The genotype of these strengths, [E, K] per kind of cell."""
        pairs = zip(space.primitives(nodes).items(), strengths, strict=True)
        cells = {
            kind: self.entries(space.topology_of(kind, nodes), _candidates(table, names))
            for (kind, names), table in pairs
        }
        return space.of_entries(cells, nodes)

    @abstractmethod
    def entries(self, cell: Topology, edges: Sequence[Sequence[Candidate]]) -> list[Entry]:
        """The entries of a cell, from the candidates of its edges, those of each edge from strong to weak."""


class StrongestPairs(Ranking):
    """The rule of GDAS (Dong and Yang 2019, and its public code).

    A node keeps its strongest pairs of an edge and an operation, stronger first; several may lie on one edge. `none`
    is no operation here. Ties keep the lower edge, then the lower operation.
    """

    keeps_edges = False

    def entries(self, cell: Topology, edges: Sequence[Sequence[Candidate]]) -> list[Entry]:
        """Pairs (operation, source)."""
        nodes = ((t, [pair for row in cell.into(t) for pair in edges[row]]) for t in cell.targets)
        kept = (sorted(pairs, key=_weakness)[: cell.keeps(target)] for target, pairs in nodes)
        return [(pair.op, cell.edges[pair.row].source) for pairs in kept for pair in pairs]


class Threshold(Ranking):
    """The rules of FairDARTS (Chu et al. 2020, and its public code): candidates that reach the threshold are kept.

    A node without any does not exist. The rule first takes the edges with the strongest candidates, as many per node as
    the space keeps. Each of these edges keeps its strongest candidate if that reaches the threshold.

    With ``per_edge`` every edge keeps those of its two strongest candidates that reach it, the weaker one first.

    The cell needs an output. If no kept candidate is on an input of the cell, the strongest one there is kept too,
    whatever its strength.
    """

    keeps_edges = False

    def __init__(self, threshold: float, *, per_edge: bool = False):
        self._threshold, self._per_edge = threshold, per_edge

    def entries(self, cell: Topology, edges: Sequence[Sequence[Candidate]]) -> list[Entry]:
        """Triples (operation, source, target)."""
        found = self._reaching(cell, edges)
        if not _begins(cell, found):
            found.append(_strongest_first(cell, edges))
        return [(pair.op, cell.edges[pair.row].source, cell.edges[pair.row].target) for pair in found]

    def finish(self, search: Search, row: Row) -> tuple[Architecture, float]:
        """As of any selection; a cell that the threshold would have left empty is said."""
        tables = search.space.primitives(search.nodes).items()
        for (kind, names), table in zip(tables, search.model.mixing_weights(), strict=True):
            cell = search.space.topology_of(kind, search.nodes)
            if not _begins(cell, self._reaching(cell, _candidates(table, names))):
                title = search.space.kinds[kind]
                search.say(f"no candidate on an input of the {title} reaches {self._threshold}: its strongest was kept")
        return super().finish(search, row)

    def _reaching(self, cell: Topology, edges: Sequence[Sequence[Candidate]]) -> list[Candidate]:
        """What is kept for reaching the threshold."""
        if self._per_edge:
            found = [pair for pairs in edges for pair in reversed(pairs[:2])]
        else:
            best = [pairs[0] for pairs in edges]
            nodes = ((t, sorted((best[row] for row in cell.into(t)), key=_weakness)) for t in cell.targets)
            found = [pair for target, pairs in nodes for pair in pairs[: cell.keeps(target)]]
        return [pair for pair in found if pair.strength >= self._threshold]


def _begins(cell: Topology, found: Sequence[Candidate]) -> bool:
    """Whether one of the candidates is on an edge that leaves an input of the cell."""
    return any(cell.edges[pair.row].source < len(cell.inputs) for pair in found)


class Candidate(NamedTuple):
    """An operation other than `none` on an edge, and its strength."""

    row: int
    op: str
    strength: float


def _candidates(strengths: Tensor, names: Table) -> list[list[Candidate]]:
    """Those of each edge, from strong to weak; of equals the lower column comes first."""
    rows = enumerate(zip(strengths.tolist(), names, strict=True))
    edges = ([Candidate(row, *pair) for pair in zip(ops, values, strict=True)] for row, (values, ops) in rows)
    return [sorted((pair for pair in edge if pair.op != "none"), key=_weakness) for edge in edges]


def _weakness(candidate: Candidate) -> float:
    return -candidate.strength


class EveryEdge(ByStrength):
    """The rule of SNAS (Xie et al. 2019): every edge keeps its strongest operation, unless that is `none`.

    A node that is left without any edge does not exist. The cell needs an output: if no edge from an input of the cell
    is left, the strongest operation there is kept. Ties keep the lower index.
    """

    keeps_edges = False

    def derive(self, space: Space, nodes: int, strengths: Sequence[Tensor]) -> Any:
        """The genotype of these strengths, [E, K] per kind of cell."""
        cells = {}
        for (kind, names), table in zip(space.primitives(nodes).items(), strengths, strict=True):
            cell = space.topology_of(kind, nodes)
            edges, best = _candidates(table, names), table.argmax(1).tolist()
            found = [pairs[0] for row, pairs in enumerate(edges) if pairs and names[row][best[row]] != "none"]
            if not _begins(cell, found):
                found.append(_strongest_first(cell, edges))
            cells[kind] = [(pair.op, cell.edges[pair.row].source, cell.edges[pair.row].target) for pair in found]
        return space.of_entries(cells, nodes)


def _strongest_first(cell: Topology, edges: Sequence[Sequence[Candidate]]) -> Candidate:
    """The strongest candidate on an edge that leaves an input of the cell."""
    first = [row for row, edge in enumerate(cell.edges) if edge.source < len(cell.inputs)]
    return min((edges[row][0] for row in first), key=_weakness)


class WeakerFirst(StrongestPairs):
    """The rule of ISTA-NAS (Yang et al. 2020): those pairs, of each node the weaker first."""

    def entries(self, cell: Topology, edges: Sequence[Sequence[Candidate]]) -> list[Entry]:
        """Pairs (operation, source)."""
        pairs = iter(super().entries(cell, edges))
        nodes = ([*itertools.islice(pairs, cell.keeps(target))] for target in cell.targets)
        return [pair for node in nodes for pair in reversed(node)]
