"""A cell as a graph: its states, its edges in the order of the alphas, and what a derived cell keeps of them.

States are numbered as in genotypes: the inputs first, then the nodes. An edge leads into each node from every state
before it. This module knows nothing of the spaces, so that what lies below them can import it.
"""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief

Entry = tuple[str, int] | tuple[str, int, int]
"""(operation, source), whose place in the list says where it leads, or (operation, source, target)."""


class Edge(NamedTuple):
    """An edge of a supernet's cell, from state ``source`` into state ``target``.

    ``reduces``: whether its operations have stride 2 in a reduction cell, as those of a cell's inputs have.
    """

    target: int
    source: int
    reduces: bool


class Placed(NamedTuple):
    """An operation of a derived cell, from state ``source`` into state ``target``."""

    op: str
    source: int
    target: int


@dataclass(frozen=True)
class Topology:
    """The states and edges of a cell.

    Attributes:
        nodes: number of states that are computed.
        inputs: names of the states that are given.
        kept: how many edges into a node a derived cell keeps; None keeps all.
        multiplier: how many of the last nodes make the output; None takes all.
        first: the name of the first node; the names of the others count up from it.
        made_of: what state 0 of a recurrent cell is made from.
        output: the name of the output.
        how: how the output is made of its states, "concat" or "mean".
        first_kept: how many edges the first node of a derived cell keeps, if not as many as the others.
    """

    nodes: int
    inputs: tuple[str, ...] = ("c_{k-2}", "c_{k-1}")
    kept: int | None = 2
    multiplier: int | None = None
    first: int = 0
    made_of: tuple[str, ...] = ()
    output: str = "c_{k}"
    how: str = "concat"
    first_kept: int | None = None

    @property
    def states(self) -> int:
        """Inputs and nodes together."""
        return len(self.inputs) + self.nodes

    @property
    def targets(self) -> range:
        """The states that are nodes."""
        return range(len(self.inputs), self.states)

    @property
    def outputs(self) -> range:
        """The states that make the output."""
        return self.targets if self.multiplier is None else self.targets[self.nodes - self.multiplier :]

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges in the order of alpha's rows: node after node, sources ascending."""
        given = len(self.inputs)
        return tuple(Edge(target, source, source < given) for target in self.targets for source in range(target))

    def row(self, target: int, source: int) -> int:
        """The row of alpha that belongs to this edge; raises :class:`FastdartsError` if the cell has no such edge."""
        if target not in self.targets or not 0 <= source < target:
            raise FastdartsError(
                f"a cell of {self.nodes} nodes has no edge from state {source} into state {target}: expected a source "
                f"before one of the nodes, states {self.targets.start} to {self.states - 1}"
            )
        return self._edges_before(target) + source

    def _edges_before(self, state: int) -> int:
        """The number of edges into the nodes before ``state``."""
        given = len(self.inputs)
        return (state * (state - 1) - given * (given - 1)) // 2

    def into(self, target: int) -> range:
        """The rows of the edges that lead into ``target``, sources ascending."""
        first = self.row(target, 0)
        return range(first, first + target)

    def keeps(self, target: int) -> int | None:
        """How many edges into ``target`` a derived cell keeps; None for all. There may be fewer."""
        first = self.first_kept is not None and target == len(self.inputs)
        return self.first_kept if first else self.kept

    def of(self, nodes: int) -> Topology:
        """The same kind of cell with so many nodes; raises :class:`FastdartsError` if that is no number of nodes."""
        if not isinstance(nodes, numbers.Integral) or nodes < 1:
            raise FastdartsError(f"--nodes is {brief(nodes)}: expected a whole number of at least 1")
        return replace(self, nodes=nodes)

    def holding(self, edges: int) -> Topology:
        """The smallest cell of this kind, of one node or more, with at least so many edges."""
        return next(cell for n in itertools.count(1) if (cell := self.of(n))._edges_before(cell.states) >= edges)

    def name(self, state: int) -> str:
        """What a state is called in drawings: in cells of two inputs c_{k-2}, c_{k-1}, 0, 1, ..."""
        given = len(self.inputs)
        return self.inputs[state] if state < given else str(state - given + self.first)

    def arrow(self, source: int, target: int) -> str:
        """The name of an edge: c_{k-2} → 0."""
        return f"{self.name(source)} → {self.name(target)}"

    def place(self, entries: Sequence[Entry]) -> list[Placed]:
        """The operations of a derived cell with the states they lead into; the number of nodes does not matter.

        Pairs lead into the nodes in turn, as many into each as it :meth:`keeps`. Raises :class:`FastdartsError` where
        pairs fill no whole number of nodes or an operation takes a state that is not before its target.
        """
        if all(len(entry) == 2 for entry in entries):
            targets, whole = self._by_position(len(entries))
        else:
            targets, whole = [entry[2] for entry in entries], True
        found = [Placed(entry[0], entry[1], target) for entry, target in zip(entries, targets, strict=True)]
        wrong = [p for p in found if p.target < len(self.inputs) or not 0 <= p.source < p.target]
        if not whole or wrong:
            strange = f"{wrong[0].op} from state {wrong[0].source}" if wrong else f"{len(entries)} edges"
            fan = {
                None: "an edge from every earlier state",
                1: "an edge per node, from an earlier state",
                2: "two edges per node, each from an earlier state",
            }.get(self.kept, f"{self.kept} edges per node, each from an earlier state")
            fan += f", but {self.first_kept} into the first node" * (self.first_kept is not None)
            raise FastdartsError(f"a cell has {fan}, but this one has {strange}")
        return found

    def _by_position(self, count: int) -> tuple[list[int], bool]:
        """The targets of so many pairs, and whether they fill the last node."""
        given = len(self.inputs)
        if self.kept is None:
            edges = self.holding(count).edges
            return [edge.target for edge in edges[:count]], count == len(edges)
        more = 0 if self.first_kept is None else self.first_kept - self.kept  # of the first node
        targets = [given + max(0, position - more) // self.kept for position in range(count)]
        return targets, count > more and (count - more) % self.kept == 0


DARTS_CELL = Topology(4)
RECURRENT_CELL = Topology(
    8, inputs=("0",), kept=1, first=1, made_of=("x_{t}", "h_{t-1}"), output="h_{t}", how="mean"
)  # state 0 is computed too, but from no state of the cell
