"""Genotypes from mixing weights, and at random."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.topology import Topology

Primitives = Sequence[Sequence[str]]
"""The primitives of each edge: 2 + 3 + ... + (steps + 1) rows, node after node, sources ascending."""


def derive_cell(weights: Tensor, primitives: Primitives, cell: Topology) -> list[tuple[str, int]]:
    """The pairs (operation, source) of a cell, node after node, by the rule of :func:`derive_genotype`: of each node
    the strongest edges, stronger first.

    Args:
        weights: [E, K], the strengths of the candidates of every edge, real numbers.
        primitives: Their names, one list for each edge.
        cell: The states, and how many edges each node keeps.

    Raises:
        FastdartsError: A shape does not fit, a weight is not finite, or an edge offers nothing but `none`.

    Source: Liu et al. 2019 (DARTS), section 2.4.

    >>> derive_cell(torch.tensor([[0.2, 0.8], [0.9, 0.1]]), [["none", "skip_connect"]] * 2, Topology(1))
    [('skip_connect', 0), ('skip_connect', 1)]
    """
    expected = (len(cell.edges), len(primitives[0]))
    if tuple(weights.shape) != expected or len(primitives) != expected[0]:
        raise FastdartsError(
            f"a cell of {cell.nodes} nodes needs weights of shape {expected} and primitives for {expected[0]}"
            f" edges, got weights of shape {tuple(weights.shape)} and primitives for {len(primitives)}"
        )
    # Rank and primitive of each edge. One that is all `none` is as weak as one of no weight at all, which a projection
    # has taken out: that one comes last.
    best: list[tuple[tuple[float, bool], str]] = []
    for edge, (row, names) in enumerate(zip(weights.detach().cpu().tolist(), primitives, strict=True)):
        candidates = [(weight, name) for weight, name in zip(row, names, strict=True) if name != "none"]
        if not candidates or not all(math.isfinite(weight) for weight in row):
            raise FastdartsError(
                f"edge {edge} needs finite mixing weights and a primitive other than none, got {row} for"
                f" {', '.join(map(str, names))}"
            )
        weight, name = max(candidates, key=lambda candidate: candidate[0])  # the first of equals
        best.append(((-weight, not any(row)), name))
    # sorted() is stable, so equal edges keep their order; the two kept stay in ranking order
    ranked = ((target, sorted(cell.into(target), key=lambda row: best[row][0])) for target in cell.targets)
    strongest = (rows[: cell.keeps(target)] for target, rows in ranked)
    return [(best[row][1], cell.edges[row].source) for rows in strongest for row in rows]


def derive_genotype(
    weights_normal: Tensor,
    weights_reduce: Tensor,
    primitives_normal: Primitives,
    primitives_reduce: Primitives,
    steps: int = 4,
    multiplier: int = 4,
) -> Genotype:
    """The discrete architecture of a supernet's mixing weights (DARTS, section 2.4).

    Each edge is as strong as its largest weight over primitives other than `none`; each node keeps its two
    strongest edges, stronger first, each with its strongest such primitive. Ties keep the lower index; edges of no
    weight at all, as a projection leaves them, come last.

    weights: [edges, K] mixing weights, that is *after* the softmax: a large `none` must weaken its edge.
    primitives: K names per edge.
    Raises FastdartsError for a wrong shape, a non-finite weight or an edge that offers nothing but `none`.
    """
    cell = Topology(steps, multiplier=multiplier)
    return Genotype(
        normal=derive_cell(torch.as_tensor(weights_normal), primitives_normal, cell),
        normal_concat=cell.outputs,
        reduce=derive_cell(torch.as_tensor(weights_reduce), primitives_reduce, cell),
        reduce_concat=cell.outputs,
    )


def sample_genotype(
    generator: torch.Generator,
    primitives_normal: Primitives,
    primitives_reduce: Primitives,
    steps: int = 4,
    multiplier: int = 4,
    *,
    none: bool = False,
) -> Genotype:
    """A uniformly random architecture: per node two distinct sources, per edge a primitive, not `none` unless so asked.

    Draws only from `generator` (on the CPU), the normal cell first. Sources are listed in ascending order.
    """

    cell = Topology(steps, multiplier=multiplier)

    def draw(primitives: Primitives) -> list[tuple[str, int]]:
        pairs = []
        for target in cell.targets:
            for source in sorted(torch.randperm(target, generator=generator)[: cell.kept].tolist()):
                names = [name for name in primitives[cell.row(target, source)] if none or name != "none"]
                pairs.append((names[int(torch.randint(len(names), (), generator=generator))], source))
        return pairs

    return Genotype(draw(primitives_normal), cell.outputs, draw(primitives_reduce), cell.outputs)
