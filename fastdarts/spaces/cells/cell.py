"""The cell of the supernet: mixed operations on its edges.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, sections 2.1-2.2; names, constructors and
``state_dict`` keys are those of the public DARTS code, so its scripts and checkpoints keep working. Partial channels
and edge weights: Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search", ICLR
2020, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief, is_dense
from fastdarts.nn.candidates import Primitives, default_primitives, whole
from fastdarts.nn.fusion.call import Place, fuses, mix, run, select
from fastdarts.nn.fusion.plan import recall, wide
from fastdarts.nn.fusion.recognise import say_called
from fastdarts.nn.mixed_op import MixedOp, check_map, row_of
from fastdarts.nn.operations import FactorizedReduce, ReLUConvBN, drop_path
from fastdarts.spaces.cells.candidates import by_kind, checked_edge, edge_primitives
from fastdarts.spaces.cells.planned import (
    alike,
    all_leaving,
    chain_of,
    computed_of,
    computing,
    inherits_forward,
    leaving,
)
from fastdarts.spaces.topology import DARTS_CELL, Topology


class Cell(nn.Module):
    """A cell of the supernet: ``node_i = Σ_{j<i} MixedOp_{j,i}(node_j)``, of which the last nodes are concatenated.

    ``steps`` nodes give ``E = Σ_{i<steps} (i + 2)`` edges, in the order of their targets and then of their sources. The
    edges from the two inputs of a reduction cell have stride 2, all others have stride 1. Where there is a kernel, all
    edges that leave a state are one op, which adds to the nodes they lead to.

    Candidates of weight 0 are left out as in :class:`MixedOp`.

    Args:
        steps: Intermediate nodes.
        multiplier: How many states, the last ones, are concatenated.
        C_prev_prev: Channels of the output of the cell before the previous one.
        C_prev: Channels of the output of the previous cell.
        C: Channels of each node.
        reduction: Whether the cell halves height and width.
        reduction_prev: Whether the previous cell does.
        primitives: Candidates of every edge, or a dict of those of both kinds of cells, see :class:`Network`.
        memory: See :class:`MixedOp`.
        partial: See :class:`MixedOp`.
        mixed_op: A subclass of :class:`MixedOp`, or a function ``(C, stride, primitives, **options)`` that gives one.
            It makes the edges.

    Raises:
        FastdartsError: An argument is out of its range.

    Source: Liu et al. 2019 (DARTS), section 2.1.

    Examples:
        >>> import torch
        >>> from fastdarts import Cell
        >>> cell, x = Cell(4, 4, 16, 16, 8, False, False), torch.randn(2, 16, 8, 8)
        >>> cell(x, x, torch.zeros(14, 8).softmax(-1)).shape
        torch.Size([2, 32, 8, 8])
    """

    memory = "store"  # of modules that were pickled without

    def __init__(
        self,
        steps: int,
        multiplier: int,
        C_prev_prev: int,
        C_prev: int,
        C: int,
        reduction: bool,
        reduction_prev: bool,
        primitives: Primitives | Mapping[str, Primitives] | None = None,
        *,
        memory: str = "store",
        partial: int = 1,
        mixed_op: Callable[..., MixedOp] = MixedOp,
    ):
        super().__init__()
        primitives = default_primitives() if primitives is None else primitives
        steps, multiplier, C_prev_prev, C_prev, C = whole(
            steps=steps, multiplier=multiplier, C_prev_prev=C_prev_prev, C_prev=C_prev, C=C
        )
        if min(steps, C_prev_prev, C_prev, C) < 1 or not 1 <= multiplier <= steps + 2:
            raise FastdartsError(
                f"a Cell got steps={steps}, multiplier={multiplier}, C_prev_prev={C_prev_prev}, C_prev={C_prev}, "
                f"C={C}: expected all of them at least 1 and multiplier at most steps + 2"
            )
        self.reduction = reduction
        self.channels = C
        self.memory = memory
        if reduction_prev:
            self.preprocess0 = FactorizedReduce(C_prev_prev, C, affine=False)
        else:
            self.preprocess0 = ReLUConvBN(C_prev_prev, C, 1, 1, 0, affine=False)
        self.preprocess1 = ReLUConvBN(C_prev, C, 1, 1, 0, affine=False)
        self._steps = steps
        self._multiplier = multiplier
        if isinstance(primitives, Mapping):
            primitives = by_kind(primitives)[self.kind]
        # a class of the user's need not take what is not asked of it
        options = {"memory": memory} if memory != "store" else {}
        options |= {"partial": partial} if partial != 1 else {}
        self._ops = nn.ModuleList()
        for edge, offered in zip(self.topology.edges, edge_primitives(primitives, steps), strict=True):
            stride = 2 if reduction and edge.reduces else 1
            self._ops.append(checked_edge(mixed_op, C, stride, offered, options))

    def forward(
        self,
        s0: Tensor,
        s1: Tensor,
        weights: Tensor | Sequence[Any],
        weights2: Tensor | float | None = None,
        drop_prob: float = 0.0,
    ) -> Tensor:
        """Compute the cell.

        Args:
            s0: The output of the cell before the previous one.
            s1: The output of the previous cell.
            weights: [E, K], the mixing weights, a tensor or a list of rows.
            weights2: [E], the weights of the edges under edge normalisation (PC-DARTS, section 3.3), else None. A
                number is taken as ``drop_prob``, as in the code of RobustDARTS.
            drop_prob: In training, the probability with which the output of an edge is dropped, for each sample (Zela
                et al. 2020, "Understanding and Robustifying DARTS").

        Returns:
            [N, multiplier * C, H', W'].

        Raises:
            FastdartsError: A shape does not fit, or ``drop_prob`` is no probability.
        """
        if isinstance(weights2, Real):
            weights2, drop_prob = None, weights2
        if weights2 is not None and (not is_dense(weights2) or weights2.shape != (len(self._ops),)):
            found = f"has shape {tuple(weights2.shape)}" if is_dense(weights2) else f"is {brief(weights2)}"
            raise FastdartsError(
                f"weights2 {found}: expected ({len(self._ops)},), one weight for each edge, None, or a number, which "
                "is drop_prob"
            )
        if isinstance(drop_prob, Tensor) and drop_prob.numel() == 1:
            drop_prob = drop_prob.item()
        if not isinstance(drop_prob, Real) or not 0 <= drop_prob < 1:
            raise FastdartsError(f"drop_prob is {brief(drop_prob)}: expected a probability from 0 to below 1")
        check_map("s0", s0), check_map("s1", s1)
        weights = self._table(weights, s1)
        drops = drop_prob and self.training
        chain = chain_of(self, s0, s1, weights) if fuses(s0) and fuses(s1) and self._is_plain() and not drops else None
        if chain is not None:
            out = chain([s0, s1], *_mixing(chain.partial, s1, all_leaving(self.topology), weights, weights2))
            if out is not None:
                return out.contiguous() if s1.is_contiguous() else out
        states = [run(self.preprocess0, s0), run(self.preprocess1, s1)]
        nodes: list[Tensor | None] = [None] * self._steps
        return self.finish(states, nodes, 0, s1, weights, weights2, drop_prob)

    @classmethod
    def _is_plain(cls) -> bool:
        """Whether a subclass leaves the parts of a pass as they are here."""
        return all(getattr(cls, name) is getattr(Cell, name) for name in ("finish", "pass_on", "topology"))

    def _table(self, weights: Tensor | Sequence[Any], x: Tensor) -> Tensor:
        """The mixing weights of all edges as one tensor [E, K]."""
        expected = len(self._ops), len(self._ops[0]._ops)
        if not is_dense(weights):
            if not isinstance(weights, Sequence) or isinstance(weights, str | bytes):
                raise FastdartsError(
                    f"weights is {brief(weights)}: expected a tensor or a list of rows, one for each edge"
                )
            rows = [row_of(row, x) for row in weights]
            if [row.shape for row in rows] != [(expected[1],)] * expected[0]:
                sizes = sorted({row.numel() for row in rows})
                raise FastdartsError(
                    f"got {len(rows)} rows of {sizes} mixing weights: expected {expected[0]} of {expected[1]}; "
                    "candidates of your own are given as primitives="
                )
            weights = torch.stack(rows)
        if weights.shape != expected:
            raise FastdartsError(
                f"weights has shape {tuple(weights.shape)}: expected {expected}, a row for each edge and a column for "
                "each of its candidates; candidates of your own are given as primitives="
            )
        if weights.device != x.device:
            raise FastdartsError(f"weights is on {weights.device} but the states on {x.device}: move one of them")
        return weights

    def finish(
        self,
        states: list[Tensor],
        nodes: list[Tensor | None],
        source: int,
        s1: Tensor,
        weights: Tensor,
        weights2: Tensor | None,
        drop_prob: float = 0.0,
    ) -> Tensor:
        """The output, from where all that leaves the states before ``source`` has reached ``nodes``."""
        self.pass_on(states, nodes, range(source, self._steps + 1), weights, weights2, drop_prob)
        out = torch.cat(states[-self._multiplier :], dim=1)
        return out.contiguous() if s1.is_contiguous() else out

    def pass_on(
        self,
        states: list[Tensor],
        nodes: list[Tensor | None],
        sources: range,
        weights: Tensor,
        weights2: Tensor | None,
        drop_prob: float = 0.0,
    ) -> None:
        """Add what leaves these states to ``nodes``, the sums so far; nodes that are complete join ``states``. Nothing
        leaves the last one."""
        drop_prob, cell = drop_prob if self.training else 0.0, self.topology
        for j in sources:
            targets, rows = leaving(cell, j)
            base = [nodes[i] for i in targets] if j else []
            outs = leave(self._ops, states[j], rows, weights, weights2, base, self.memory, drop_prob)
            for i, out in zip(targets, outs, strict=True):
                nodes[i] = out
            states += nodes[j - 1 : j] if j else []

    def enter(
        self,
        node: int,
        states: list[Tensor],
        sources: range,
        total: Tensor | None,
        weights: Tensor,
        weights2: Tensor | None,
    ) -> Tensor:
        """The sum of ``node`` after these states, ``total`` before them: :meth:`pass_on` to one node, without drop
        path."""
        for j in sources:
            row = self.topology.row(self.topology.targets[node], j)
            (total,) = leave(self._ops, states[j], [row], weights, weights2, [total] if j else [], self.memory)
        return total

    @property
    def topology(self) -> Topology:
        """The states and edges of the cell."""
        return DARTS_CELL.of(self._steps)

    @property
    def kind(self) -> str:
        """normal or reduce."""
        return "reduce" if self.reduction else "normal"

    def discrete(self, s0: Tensor, s1: Tensor, chosen: Sequence[int | None], weights2: Tensor | None = None) -> Tensor:
        """The cell where each edge runs its ``chosen`` candidate only, with weight 1 or that of the edge, what bypasses
        it as ever; an edge of None is left out."""
        states = [run(self.preprocess0, s0), run(self.preprocess1, s1)]
        edges = iter(zip(self._ops, chosen, [1] * len(chosen) if weights2 is None else weights2, strict=True))
        for _ in range(self._steps):
            triples = zip(tuple(states), edges, strict=False)
            states.append(sum(w * edge.only(state, k) for state, (edge, k, w) in triples if k is not None))
        return torch.cat(states[-self._multiplier :], dim=1)


def leave(
    ops: Sequence[nn.Module],
    x: Tensor,
    rows: Sequence[int],
    weights: Tensor,
    weights2: Tensor | None,
    base: Sequence[Tensor],
    memory: str,
    drop_prob: float = 0.0,
) -> list[Tensor]:
    """The edges of these rows at x, added to `base` (none or one per edge): as one op if all are plain and alike.

    ops: the mixed operations of all edges of a cell; weights: their mixing weights [E, K]; weights2: [E] or None;
    drop_prob: with which each edge is dropped, per sample.
    """
    if drop_prob:
        outs = [drop_path(out, drop_prob) for out in leave(ops, x, rows, weights, weights2, [], memory)]
        return [b + out for b, out in zip(base, outs, strict=True)] if base else outs
    K, fusing = weights.shape[-1], fuses(x)
    computed = computed_of(ops, weights, rows)
    key = tuple(rows), bool(base), x.shape[1], K, memory, ops.training, computed
    fused = recall(ops, key, x) if fusing and len(weights) == len(ops) else None
    if fused is not None:
        if fused.partial > 1:
            ops[rows[0]]._part(x)
        gains, bypass = _mixing(fused.partial, x, rows, weights, weights2)
        return fused(x, gains.to(wide(x)).flatten(), base, bypass)
    some = [e for e, row in enumerate(rows) if computed[e] != () or ops[row].k > 1]
    if base and len(some) < len(rows):
        own = [rows[e] for e in some], weights, weights2, [base[e] for e in some]
        outs = leave(ops, x, *own, memory) if some else []
        return [outs[some.index(e)] if e in some else b for e, b in enumerate(base)]
    edges = [ops[row] for row in rows]
    first = edges[0]
    if fusing and alike(edges, K) and weights.shape == (len(ops), K):
        first._part(x)
        table = [(edge.candidates(own), row * K) for edge, own, row in zip(edges, computed, rows, strict=True)]
        gains, bypass = _mixing(first.k, x, rows, weights, weights2)
        place = Place(ops, key, lambda: computing(edges, computed))
        return mix(table, x, gains, first.stride, base, memory, first.k, bypass, place)
    if fusing:
        for edge in edges:
            if type(edge) is not MixedOp and not inherits_forward(type(edge)):
                say_called(edge, "leave forward, candidates and _part of MixedOp as they are")
    outs = [edge(x, weights[row]) for edge, row in zip(edges, rows, strict=True)]
    if weights2 is not None:
        outs = [weights2[row] * out for out, row in zip(outs, rows, strict=True)]
    return [b + out for b, out in zip(base, outs, strict=True)] if base else outs


def _mixing(
    partial: int, x: Tensor, rows: Sequence[int], weights: Tensor, weights2: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The weights of all candidates of a cell, and of what bypasses those of the edges of these rows."""
    bypass = None
    if partial > 1:
        bypass = weights.new_ones(len(rows)) if weights2 is None else select(weights2, rows, x)
    return weights if weights2 is None else weights * weights2[:, None], bypass
