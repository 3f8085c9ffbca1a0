"""Passes through a supernet that differ in one edge, with what they have in common computed once (DARTS-PT).

Sums are added up in the order of a plain pass, so that the results are those of plain passes bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.nn.fusion.call import run
from fastdarts.nn.fusion.recognise import may_draw, settled
from fastdarts.nn.random_state import same_random_numbers
from fastdarts.nn.supernet import Change, Supernet
from fastdarts.spaces.topology import Edge


class Begun:
    """A :class:`fastdarts.spaces.cells.cell.Cell` in the middle of a pass: its first states have been passed on.

    ``states``: those that are known; ``trail[j]``: the sums of all nodes before state j was passed on.
    """

    def __init__(self, cell: nn.Module, states: list[Tensor]):
        self.cell, self.states = cell, states
        self.trail: list[list[Tensor | None]] = [[None] * cell._steps]

    def advance(self, count: int, weights: Tensor, weights2: Tensor | None, drop_prob: float = 0.0) -> None:
        """Go on until ``count`` states have been passed on."""
        for source in range(len(self.trail) - 1, count):
            nodes = [*self.trail[-1]]
            self.cell.pass_on(self.states, nodes, range(source, source + 1), weights, weights2, drop_prob)
            self.trail.append(nodes)

    def finish(
        self,
        s1: Tensor,
        edge: Edge | None,
        weights: Tensor,
        weights2: Tensor | None,
        drop_prob: float = 0.0,
    ) -> Tensor:
        """The output of the cell if the ``edge`` had these weights from the beginning; all else stays begun. No later
        state than its target may be among the states."""
        states, nodes, done = [*self.states], [*self.trail[-1]], len(self.trail) - 1
        if edge is not None and edge.source < done:
            node, source = self.cell.topology.targets.index(edge.target), edge.source
            sources = range(source, min(done, edge.target))
            nodes[node] = self.cell.enter(node, states, sources, self.trail[source][node], weights, weights2)
            states[edge.target :] = nodes[node : node + 1] if done >= edge.target else []
        return self.cell.finish(states, nodes, done, s1, weights, weights2, drop_prob)


@torch.no_grad()
@settled()
def masked(network: Supernet, input: Tensor, kind: str, changes: Sequence[Change]) -> list[Tensor]:
    """Logits of a :class:`fastdarts.spaces.cells.supernet.Network` with each of ``changes`` alone, in all cells of
    ``kind``.

    Computed once are:

    - everything before the first cell of ``kind``;
    - in this cell, the nodes before the node that the changed edge leads into, and the sum of that node up to the edge;
    - in the next cell, what leaves its first state, except the changed edge.

    Random numbers must be drawn in the order of a plain pass. So less is computed once where a candidate may draw, and
    with drop path. In the first cell it is what leaves the states before the source of the changed edge. In the next
    cell it is nothing.
    """
    weights = dict(zip(network.primitives, network.noiseless_weights(), strict=True))
    edges = dict(zip(network.primitives, network.edge_weights(), strict=True))
    drop_prob, cells = network.drop_path_prob, network.cells
    first = next((place for place, cell in enumerate(cells) if cell.kind == kind), len(cells))
    if first == len(cells):
        return [network(input)] * len(changes)
    s0, s1 = network._begin(input)
    for cell in cells[:first]:
        s0, s1 = s1, cell(s0, s1, weights[cell.kind], edges[cell.kind], drop_prob)
    cell, after = cells[first], cells[first + 1 :]
    begun = Begun(cell, [run(cell.preprocess0, s0), run(cell.preprocess1, s1)])
    # One cell of each kind, as the others have the same candidates: walking through all takes longer than a small cell.
    samples = (ops[0] for ops in network.mixed_ops().values() if ops)
    noisy = any(may_draw(op) for ops in samples for mixed in ops for op in mixed._ops)
    quiet, then = not drop_prob and not noisy, None
    if quiet and after:
        then = Begun(after[0], [run(after[0].preprocess0, s1)])
        then.advance(1, weights[after[0].kind], edges[after[0].kind])
    ends = cell.topology.edges
    known = [edge.target if quiet else edge.source for edge in ends]  # states that are passed on once
    logits: list[Tensor | None] = [None] * len(changes)
    for number in sorted(range(len(changes)), key=lambda number: known[changes[number][0]]):
        row, changed = changes[number]
        begun.advance(known[row], weights[kind], edges[kind], drop_prob)
        mine = weights | {kind: weights[kind].clone()}
        mine[kind][row] = changed
        with network.running(kind, row, changed), same_random_numbers(input.device):
            t0, t1 = s1, begun.finish(s1, ends[row], mine[kind], edges[kind], drop_prob)
            for place, later in enumerate(after):
                own = mine[later.kind], edges[later.kind]
                if place == 0 and then is not None:
                    then.states[1:] = [run(later.preprocess1, t1)]
                    t0, t1 = t1, then.finish(t1, ends[row] if later.kind == kind else None, *own)
                else:
                    t0, t1 = t1, later(t0, t1, *own, drop_prob)
            logits[number] = network.classifier(network.global_pooling(t1).flatten(1))
    return logits
