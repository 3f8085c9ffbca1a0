"""The supernet: mixed operations on edges, edges in cells, cells in the search network.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, sections 2.1-2.2; names, constructors and
``state_dict`` keys are those of the public DARTS code, so its scripts and checkpoints keep working. So are those of
partial channels and edge normalisation: Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient
Architecture Search", ICLR 2020, section 3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief, is_dense
from fastdarts.nn.candidates import Primitive, Primitives, default_primitives, whole
from fastdarts.nn.fusion.call import Place, fuses, mix, run, select
from fastdarts.nn.fusion.chain import one_pass
from fastdarts.nn.fusion.plan import recall, wide
from fastdarts.nn.fusion.recognise import say_called
from fastdarts.nn.mixed_op import MixedOp, check_map, row_of
from fastdarts.nn.operations import (
    FactorizedReduce,
    ReLUConvBN,
    check_images,
    drop_path,
    imagenet_stems,
)
from fastdarts.nn.supernet import Change, Chosen, Supernet, initial_alphas
from fastdarts.spaces.cells.candidates import by_kind, checked_edge, edge_primitives
from fastdarts.spaces.cells.derive import derive_genotype
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.planned import (
    alike,
    all_leaving,
    chain_of,
    computed_of,
    computing,
    inherits_forward,
    leaving,
)
from fastdarts.spaces.cells.variants import masked
from fastdarts.spaces.topology import DARTS_CELL, Topology

STEMS = ("cifar", "imagenet")


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


def _primitives_by_position(init: Callable[..., None]) -> Callable[..., None]:
    """``init``, which also takes primitives in the place of steps, before these, as the public forks have them."""

    @functools.wraps(init)
    def wrapper(self: Network, *args: Any, **options: Any) -> None:
        if len(args) > 4 and isinstance(args[4], Mapping | Sequence):
            if "primitives" in options:
                raise FastdartsError("a Network got primitives by position and by name: expected one of them")
            args, options["primitives"] = args[:4] + args[5:], args[4]
        init(self, *args, **options)

    return wrapper


class Network(Supernet):
    r"""The search network: a stem, ``layers`` cells, pooling and a classifier.

    The cells at layers//3 and 2*layers//3 are reductions: they double the channels and halve height and width. All
    cells of a kind share the alphas ``alphas_normal`` or ``alphas_reduce`` [E, K], for E edges of K candidates. Mixing
    weights are ``softmax(alpha)`` over the candidates.

    Alphas start at 1e-3 * N(0, 1). They are plain tensors: not in ``parameters()`` nor ``state_dict()``. Yet they
    follow ``.to()`` and ``.cuda()``.

    PC-DARTS is ``partial=4, edge_normalisation=True`` (CIFAR) or ``partial=2, edge_normalisation=True,
    stem="imagenet"``. Edge normalisation adds ``betas_normal`` and ``betas_reduce`` [E], which are kept like the
    alphas. The weight of an edge is the softmax of the betas over the edges that enter its node.

    Args:
        C: Channels of the first cells. The stem has ``stem_multiplier * C``.
        num_classes: Outputs.
        layers: Number of cells.
        criterion: Loss ``criterion(logits, target)``.
        steps: Intermediate nodes of a cell.
        multiplier: How many of them, the last ones, are concatenated.
        stem_multiplier: Channels of the stem, in units of C.
        drop_path_prob: Probability of drop path on every edge, see :class:`fastdarts.nn.supernet.Supernet`.
        in_channels: Channels of the images.
        primitives: Candidates of every edge (names in ``OPS``), or one list per edge. A dict of those of both kinds has
            the keys ``primitives_normal`` and ``primitives_reduct``. It may come by position, before ``steps``, as in
            the code of RobustDARTS and SmoothDARTS. The default is that of :class:`MixedOp`.
        primitives_reduce: The same for reduction cells; the default is ``primitives``.
        memory: See :class:`MixedOp`; "checkpoint" keeps only the outputs of the cells.
        partial: See :class:`MixedOp`.
        edge_normalisation: Weight the edges of a node by betas.
        stem: "cifar", or "imagenet", which divides height and width by 8. The first cell then follows a reduction.
        mixed_op: A subclass of :class:`MixedOp`, or a function ``(C, stride, primitives, **options)`` that gives one.
            It makes the edges.

    Raises:
        FastdartsError: An argument is out of its range.

    Source: Liu et al. 2019 (DARTS), section 3.1.1; Xu et al. 2020 (PC-DARTS), section 3.

    Examples:
        >>> import torch
        >>> from fastdarts import Network
        >>> model = Network(4, 10, 3, torch.nn.CrossEntropyLoss())
        >>> model(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> [tuple(alpha.shape) for alpha in model.arch_parameters()]
        [(14, 8), (14, 8)]
        >>> len(model.genotype().normal)  # two edges for each of four nodes
        8
    """

    _partial, _edge_normalisation, _stem = 1, False, "cifar"  # of modules that were pickled without
    _mixed_op: Callable[..., MixedOp] = MixedOp

    @_primitives_by_position
    def __init__(
        self,
        C: int,
        num_classes: int,
        layers: int,
        criterion: nn.Module,
        steps: int = 4,
        multiplier: int = 4,
        stem_multiplier: int = 3,
        drop_path_prob: float = 0.0,
        *,
        in_channels: int = 3,
        primitives: Primitives | Mapping[str, Primitives] | None = None,
        primitives_reduce: Primitives | None = None,
        memory: str = "store",
        partial: int = 1,
        edge_normalisation: bool = False,
        stem: str = "cifar",
        mixed_op: Callable[..., MixedOp] = MixedOp,
    ):
        super().__init__()
        primitives = default_primitives() if primitives is None else primitives
        C, num_classes, layers, steps, multiplier, stem_multiplier, in_channels = whole(
            C=C,
            num_classes=num_classes,
            layers=layers,
            steps=steps,
            multiplier=multiplier,
            stem_multiplier=stem_multiplier,
            in_channels=in_channels,
        )
        if min(C, num_classes, layers, steps, stem_multiplier, in_channels) < 1 or not 1 <= multiplier <= steps:
            raise FastdartsError(
                f"a Network got C={C}, num_classes={num_classes}, layers={layers}, steps={steps}, "
                f"multiplier={multiplier}, stem_multiplier={stem_multiplier}, in_channels={in_channels}: expected all "
                "of them at least 1 and multiplier at most steps"
            )
        if type(stem) is not str or stem not in STEMS:
            raise FastdartsError(f"a Network got stem={brief(stem)}: expected one of {', '.join(STEMS)}")
        self._C = C
        self._num_classes = num_classes
        self._layers = layers
        self._criterion = criterion
        self._steps = steps
        self._multiplier = multiplier
        self._stem_multiplier = stem_multiplier
        self._in_channels = in_channels
        self._memory = memory
        self._partial = partial
        self._edge_normalisation = edge_normalisation
        self._stem = stem
        self._mixed_op = mixed_op
        self.drop_path_prob = drop_path_prob
        if isinstance(primitives, Mapping):
            if primitives_reduce is not None:
                raise FastdartsError(
                    "a Network got primitives_reduce beside a dict of primitives: expected one of them"
                )
            primitives, primitives_reduce = by_kind(primitives).values()
        self.primitives_normal = edge_primitives(primitives, steps)
        self.primitives_reduce = edge_primitives(primitives if primitives_reduce is None else primitives_reduce, steps)

        C_curr = stem_multiplier * C
        if stem == "imagenet":
            self.stem0, self.stem1 = imagenet_stems(in_channels, C_curr)
        else:
            self.stem = nn.Sequential(nn.Conv2d(in_channels, C_curr, 3, padding=1, bias=False), nn.BatchNorm2d(C_curr))
        C_prev_prev, C_prev, C_curr = C_curr, C_curr, C
        self.cells = nn.ModuleList()
        reduction_prev = stem == "imagenet"
        memory = "recompute" if memory == "checkpoint" else memory
        options = {"memory": memory, "partial": partial, "mixed_op": mixed_op}
        for i in range(layers):
            reduction = i in (layers // 3, 2 * layers // 3)
            if reduction:
                C_curr *= 2
            table = self.primitives_reduce if reduction else self.primitives_normal
            sizes = C_prev_prev, C_prev, C_curr
            self.cells.append(Cell(steps, multiplier, *sizes, reduction, reduction_prev, table, **options))
            reduction_prev = reduction
            C_prev_prev, C_prev = C_prev, multiplier * C_curr
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(C_prev, num_classes)
        self._initialize_alphas()

    def _initialize_alphas(self) -> None:
        device = self.classifier.weight.device
        tables = self.primitives_normal, self.primitives_reduce
        self.alphas_normal, self.alphas_reduce = (initial_alphas(len(t), len(t[0]), device) for t in tables)
        self._arch_parameters = [self.alphas_normal, self.alphas_reduce]
        if self._edge_normalisation:
            self.betas_normal, self.betas_reduce = (initial_alphas(len(t), None, device) for t in tables)
            self._arch_parameters += [self.betas_normal, self.betas_reduce]

    @property
    def primitives(self) -> dict[str, tuple[tuple[Primitive, ...], ...]]:
        """The candidates of every edge, by kind of cell."""
        return {"normal": self.primitives_normal, "reduce": self.primitives_reduce}

    def alpha_tables(self) -> tuple[Tensor, Tensor]:
        """The alphas of normal and reduction cells, each [E, K]."""
        self.arch_parameters()  # what was set there becomes the attribute
        return self.alphas_normal, self.alphas_reduce

    def cell_kinds(self) -> list[str]:
        """normal or reduce, cell by cell."""
        return [cell.kind for cell in self.cells]

    def mixed_ops(self) -> dict[str, list[Sequence[MixedOp]]]:
        """The mixed operations of each cell, by kind."""
        return {kind: [cell._ops for cell in self.cells if cell.kind == kind] for kind in self.primitives}

    def edge_weights(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """softmax(beta) over the edges that enter a node: (normal, reduce), each [E]; None without edge
        normalisation."""
        if not self._edge_normalisation:
            return None, None
        cell = DARTS_CELL.of(self._steps)
        sizes = [len(cell.into(target)) for target in cell.targets]
        normal, reduce = (
            torch.cat([F.softmax(node, 0) for node in betas.split(sizes)])
            for betas in (self.betas_normal, self.betas_reduce)
        )
        return normal, reduce

    def _stems(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """The two states that the first cell takes."""
        if self._stem == "imagenet":
            s0 = self.stem0(input)
            return s0, self.stem1(s0)
        s = self.stem(input)
        return s, s

    def forward(self, input: Tensor) -> Tensor:
        """Compute the logits [N, num_classes] of images [N, in_channels, H, W].

        Raises:
            FastdartsError: ``input`` has another shape, or H or W is odd.
        """
        edges = dict(zip(self.primitives, self.edge_weights(), strict=True))
        with one_pass():
            s0, s1 = self._begin(input)
            for cell, weights in zip(self.cells, self.cell_weights(), strict=True):
                s0, s1 = s1, self._pass(cell, s0, s1, weights, edges[cell.kind], self.drop_path_prob)
        return self.classifier(self.global_pooling(s1).flatten(1))

    def discrete(self, input: Tensor, chosen: Chosen) -> Tensor:
        """Logits with the same weights where each edge runs one candidate, with weight 1 or, with edge normalisation,
        that of the edge, or nothing."""
        edges = self.edge_weights()
        s0, s1 = self._begin(input)
        for cell in self.cells:
            s0, s1 = s1, cell.discrete(s0, s1, chosen[cell.kind], edges[cell.reduction])
        return self.classifier(self.global_pooling(s1).flatten(1))

    def masked(self, input: Tensor, kind: str, changes: Sequence[Change]) -> list[Tensor]:
        """See :meth:`fastdarts.nn.supernet.Supernet.masked`; what the changes do not reach is computed once."""
        return masked(self, input, kind, changes)

    def _begin(self, input: Tensor) -> tuple[Tensor, Tensor]:
        check_images(input, self._in_channels)
        s0, s1 = self._stems(input)
        if fuses(s1):  # cells compute in channels-last: neither they nor their edges need copies of their own
            s0, s1 = (s.contiguous(memory_format=torch.channels_last) for s in (s0, s1))
        return s0, s1

    def new(self) -> Network:
        """A freshly initialised network of the same shape on the same device, with copies of the alphas."""
        twin = Network(
            self._C,
            self._num_classes,
            self._layers,
            self._criterion,
            self._steps,
            self._multiplier,
            self._stem_multiplier,
            self.drop_path_prob,
            in_channels=self._in_channels,
            primitives=self.primitives_normal,
            primitives_reduce=self.primitives_reduce,
            memory=self._memory,
            partial=self._partial,
            edge_normalisation=self._edge_normalisation,
            stem=self._stem,
            mixed_op=self._mixed_op,
        ).to(self.classifier.weight)
        if self.auxiliary_weight is not None:
            twin.extend(self._auxiliary, self.auxiliary_weight)
            twin.to(self.classifier.weight)
        for mine, theirs in zip(self.arch_parameters(), twin.arch_parameters(), strict=True):
            theirs.data.copy_(mine.data)
        return twin

    def genotype(self) -> Genotype:
        """Derive the architecture: for each node the two strongest edges, each with its strongest operation.

        The strength of an operation is its mixing weight, times the weight of its edge if edges are normalised.
        ``none`` is not an operation. An edge is as strong as its strongest operation.

        Source: Liu et al. 2019 (DARTS), section 2.4.
        """
        with torch.no_grad():
            normal, reduce = (
                weights if edges is None else weights * edges[:, None]
                for weights, edges in zip(self.mixing_weights(), self.edge_weights(), strict=True)
            )
        return derive_genotype(
            normal, reduce, self.primitives_normal, self.primitives_reduce, self._steps, self._multiplier
        )
