"""A pass through a cell, planned: all its calls in one chain, if every candidate is known.

Whatever leaves a state is one call, in a cell of the supernet and in that of a genotype.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.functional import Pool
from fastdarts.nn.fusion.call import is_none, parts_of, seen
from fastdarts.nn.fusion.chain import FusedChain, NoChain, Planned
from fastdarts.nn.fusion.plan import Fused, keep, recall
from fastdarts.nn.fusion.recognise import fused_on, plain_pool, watched
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import Identity
from fastdarts.spaces.topology import Topology


def chain_of(cell: nn.Module, s0: Tensor, s1: Tensor, weights: Tensor) -> FusedChain | None:
    """The calls of a :class:`fastdarts.spaces.cells.cell.Cell` on s1 and s0; None if some are not known."""
    if torch.compiler.is_compiling():
        return None
    computed = computed_of(cell._ops, weights, range(len(cell._ops)))
    if any(own is not None and _nothing(edge, own) for edge, own in zip(cell._ops, computed, strict=True)):
        return None  # known without a plan, which would be a new one in every step that draws its candidates
    key: Hashable = ("chain", s0.shape[1], s1.shape[1], cell.memory, cell.training, computed)
    chain = recall(cell, key, s1)
    if chain is None:
        calls = _calls(cell, computed, s0.shape[1], s1.shape[1])
        concat = range(4 + cell._steps - cell._multiplier, 4 + cell._steps)
        chain = FusedChain(calls, 2, concat) if FusedChain.takes(calls) else NoChain()
        before = [*cell.preprocess0.modules(), *cell.preprocess1.modules(), cell._ops]
        keep(cell, key, s1, chain, before + computing(cell._ops, computed))
    return chain if isinstance(chain, FusedChain) else None


def computed_of(edges: Sequence[nn.Module], weights: Tensor, rows: Sequence[int]) -> tuple[tuple[int, ...] | None, ...]:
    """Of the edges of these rows the only candidates that are computed with these weights [E, K], None for all."""
    table, edges = seen(weights), [*edges]  # a ModuleList takes a microsecond to find one of its own
    return tuple(edges[row].computed(None if table is None else table[row]) for row in rows)


def _nothing(edge: nn.Module, computed: tuple[int, ...]) -> bool:
    """Whether an edge that computes these candidates only gives 0."""
    return all(is_none(edge._ops[k]) for k in computed)


def computing(edges: Sequence[nn.Module], computed: Sequence[tuple[int, ...] | None]) -> list[nn.Module]:
    """The modules that these edges compute with."""
    ops = [op for edge, own in zip(edges, computed, strict=True) for op in edge.candidates(own)]
    return [*edges, *(edge._ops for edge in edges), *(m for op in ops for m in op.modules())]


def _calls(cell: nn.Module, computed: Sequence[tuple[int, ...] | None], *widths: int) -> list[Planned]:
    """The states are s0, s1, those of the cell's inputs, and its nodes. Nothing if a call is not known."""
    calls, channels = _entering(cell, *widths), cell.channels
    if not calls:
        return []
    for source in range(cell._steps + 1):
        targets, rows = leaving(cell.topology, source)
        edges = [cell._ops[row] for row in rows]
        count = len(edges[0]._ops)
        if not alike(edges, count):
            return []
        stride, partial = edges[0].stride, edges[0].k
        table = [(edge.candidates(computed[row]), row * count) for edge, row in zip(edges, rows, strict=True)]
        parts, unknown = parts_of(table, channels // partial, stride)
        if unknown:
            return []
        fused = Fused(parts, channels, stride, cell.memory, partial)
        calls.append(Planned(fused, 2 + source, [4 + node for node in targets], True))
    return calls


def _entering(cell: nn.Module, *widths: int) -> list[Planned]:
    """What makes states 2 and 3 of states 0 and 1, the outputs of the two cells before. Nothing if it is not known."""
    calls = []
    for number, (module, width) in enumerate(zip((cell.preprocess0, cell.preprocess1), widths, strict=True)):
        part = fused_on(module, width)
        if part is None or part.kind == "skip" or part.norms[-1].num_features != cell.channels:
            return []
        calls.append(Planned(Fused([(0, 0, part)], width, part.stride, "store", 1), number, [2 + number], False))
    return calls


def discrete_chain(cell: nn.Module, s0: Tensor, s1: Tensor, drops: bool) -> FusedChain | None:
    """The calls of a :class:`fastdarts.spaces.cells.network.Cell` on s0 and s1, with drop path or without; None if some
    are not known."""
    if torch.compiler.is_compiling():
        return None
    key: Hashable = ("chain", s0.shape[1], s1.shape[1], cell.training, drops)
    chain = recall(cell, key, s1)
    if chain is None:
        steps, masks = _discrete_steps(cell, drops, s0.shape[1], s1.shape[1])
        concat = [2 + place for place in cell._concat]
        chain = FusedChain(steps, 2, concat, masks) if steps and FusedChain.takes(steps) else NoChain()
        modules = [cell.preprocess0, cell.preprocess1, *cell._ops]
        keep(cell, key, s1, chain, [cell._ops, *(m for module in modules for m in module.modules())])
    return chain if isinstance(chain, FusedChain) else None


class _Leaving(NamedTuple):
    """An operation of a derived cell, the state that it leads to, and the number of the mask that drops it."""

    op: nn.Module
    target: int
    mask: int | None


def _discrete_steps(cell: nn.Module, drops: bool, *widths: int) -> tuple[list[Planned | Pool], int]:
    """As of a cell of the supernet, and how many masks drop path draws. Nothing if an operation is not known, or if
    nothing reads an input of the cell: its layers then get no gradient."""
    steps: list[Planned | Pool] = [*_entering(cell, *widths)]
    leaving: dict[int, list[_Leaving]] = {}
    masks = 0
    for target, edges in enumerate(cell._nodes, len(widths)):
        for number, source in edges:
            op = cell._ops[number]
            dropped = drops and not isinstance(op, Identity)
            leaving.setdefault(source, []).append(_Leaving(op, target, masks if dropped else None))
            masks += dropped
    made: set[int] = set()
    if not steps or not {0, 1} <= {*leaving, *cell._concat}:
        return [], 0
    for source in sorted(leaving):
        own = [edge for edge in leaving[source] if plain_pool(edge.op) is None]
        if own:
            step = _discrete_call(cell.channels, source, own, made)
            if step is None:
                return [], 0
            steps.append(step)
        pools: dict[tuple[str, int], list[_Leaving]] = {}
        for edge in leaving[source]:
            if (pool := plain_pool(edge.op)) is not None:
                pools.setdefault(pool, []).append(edge)
        for pool, edges in pools.items():
            steps.append(Pool(*pool, 2 + source, tuple(2 + e.target for e in edges), tuple(e.mask for e in edges)))
        made |= {edge.target for edge in leaving[source]}
    return steps, masks


def _discrete_call(channels: int, source: int, leaving: Sequence[_Leaving], made: set[int]) -> Planned | None:
    """What leaves a state. Edges to states that are ``made`` add to these and come first; what is dropped has an edge
    of its own and comes last. None if it is not known."""
    kept: dict[int, list[nn.Module]] = {}
    for op, target, mask in leaving:
        if mask is None:
            kept.setdefault(target, []).append(op)
    targets = sorted(kept, key=lambda target: target not in made)
    alone = [edge for edge in leaving if edge.mask is not None]
    edges = [kept[target] for target in targets] + [[edge.op] for edge in alone]
    if any(fused_on(edge.op, channels) is None for edge in leaving):
        return None
    first = fused_on(edges[0][0], channels)
    parts, unknown = parts_of([(ops, 0) for ops in edges], channels, first.stride)
    if unknown:
        return None
    fused = Fused(parts, channels, first.stride, "store", 1)
    targets += [edge.target for edge in alone]
    return Planned(fused, 2 + source, [2 + target for target in targets], False, [edge.mask for edge in alone])


@functools.cache
def all_leaving(cell: Topology) -> tuple[int, ...]:
    """The rows of all edges, by the states that they leave."""
    return tuple(row for source in range(cell.nodes + 1) for row in leaving(cell, source)[1])


@functools.cache
def leaving(cell: Topology, source: int) -> tuple[range, tuple[int, ...]]:
    """The nodes that edges from this state lead into, and the rows of these."""
    targets = range(max(0, source - 1), cell.nodes)
    return targets, tuple(cell.row(cell.targets[i], source) for i in targets)


def alike(edges: Sequence[nn.Module], count: int) -> bool:
    """Whether these edges compute what MixedOp does, on so many candidates, with one stride, and nobody watches."""
    first = edges[0]
    return all(
        (type(edge) is MixedOp or inherits_forward(type(edge)))
        and not watched(edge)
        and (edge.stride, edge.k, len(edge._ops)) == (first.stride, first.k, count)
        for edge in edges
    )


@functools.cache
def inherits_forward(kind: type[MixedOp]) -> bool:
    """Whether a subclass computes what MixedOp does: then edges of it are fused like these."""
    names = ("forward", "candidates", "_part", "__call__")
    return all(getattr(kind, name, None) is getattr(MixedOp, name) for name in names)
