"""The supernet: mixed operations on edges, edges in cells, cells in the search network.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, sections 2.1-2.2; names, constructors and
``state_dict`` keys are those of the public DARTS code, so its scripts and checkpoints keep working.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional import MEMORY
from fastdarts.fusion import fuses, is_none, mix, mix_modules, run, watched
from fastdarts.genotypes import PRIMITIVES, Genotype, derive_genotype
from fastdarts.operations import OPS, FactorizedReduce, ReLUConvBN, check_images, drop_path
from fastdarts.relaxed import Chosen, Relaxed, initial_alphas

Primitive = str | nn.Module | Callable[[int, int, bool], nn.Module]
"""A candidate of an edge: a name in ``OPS``, a module, or a builder ``(C, stride, affine) -> module``."""


def build_candidate(primitive: Primitive, C: int, stride: int) -> nn.Module:
    """The search-time module of one candidate: BatchNorm without affine parameters, and one more after a pool."""
    if isinstance(primitive, nn.Module):
        return primitive
    if isinstance(primitive, str):
        if primitive not in OPS:
            raise FastdartsError(
                f"unknown primitive {primitive!r}: expected one of {', '.join(OPS)}; "
                "add your own with OPS[name] = lambda C, stride, affine: module"
            )
        op = OPS[primitive](C, stride, False)
        return nn.Sequential(op, nn.BatchNorm2d(C, affine=False)) if "pool" in primitive else op
    return primitive(C, stride, False)


class MixedOp(nn.Module):
    r"""One edge of the supernet, :math:`\bar o(x) = \sum_k w_k\, o_k(x)`  (DARTS, eq. 2).

    Where there is a kernel, the known candidates, their BatchNorms, the weighting and the sum are one op
    (:func:`fastdarts.functional.mixed_op`). Elsewhere, and for custom candidates that end in a BatchNorm, one op takes
    their raw outputs (:func:`fastdarts.functional.mixed_sum`). Both are exact in value and gradient. Any other
    candidate takes part with its plain output. ``none`` is not computed: it contributes zero (the public code
    multiplies x by zero, which turns an infinite x into NaN; here it does not).

    Args:
        C: channels of input and output.
        stride: 1 or 2.
        primitives: candidates in the order of the weights: names in ``OPS``, modules, or builders
            ``(C, stride, affine) -> module``.
        memory: "store" keeps the raw outputs of the convolutions for backward, "recompute" computes them again.

    ``forward(x, weights)``: x [N, C, H, W]; weights [K], already softmaxed; returns [N, C, ceil(H/stride),
    ceil(W/stride)]. Raises :class:`FastdartsError` if weights is not [K].
    """

    memory = "store"  # of modules that were pickled without

    def __init__(self, C: int, stride: int, primitives: Sequence[Primitive] = PRIMITIVES, *, memory: str = "store"):
        super().__init__()
        if C < 1 or stride not in (1, 2):
            raise FastdartsError(f"a MixedOp got C={C} and stride={stride}: expected C at least 1 and stride 1 or 2")
        if not primitives or isinstance(primitives, str):
            raise FastdartsError(f"a MixedOp got primitives {primitives!r}: expected a list of at least one candidate")
        if memory not in MEMORY:
            raise FastdartsError(f"a MixedOp got memory={memory!r}: expected one of {', '.join(MEMORY)}")
        self.stride = stride
        self.memory = memory
        self._ops = nn.ModuleList(build_candidate(p, C, stride) for p in primitives)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        if not isinstance(weights, Tensor) or not weights.is_floating_point():
            weights = torch.as_tensor(weights, dtype=x.dtype, device=x.device)  # a list, or an integer one-hot
        if weights.shape != (len(self._ops),):
            raise FastdartsError(
                f"weights has shape {tuple(weights.shape)}: expected ({len(self._ops)},), one mixing weight for each "
                "candidate of the edge"
            )
        if fuses(x):
            (out,) = mix([(self._ops, 0)], x, weights, self.stride, (), self.memory)
            return out.contiguous() if x.is_contiguous() else out
        rows = [k for k, op in enumerate(self._ops) if not is_none(op)]
        if not rows:
            return self._ops[0](x)
        return mix_modules([self._ops[k] for k in rows], x, weights if len(rows) == len(weights) else weights[rows])


class Cell(nn.Module):
    r"""A cell of the supernet: node_i = sum over j < i of MixedOp_{j,i}(node_j), output = concat of the last nodes.

    Source: DARTS, section 2.1. ``steps`` nodes give E = sum_{i<steps} (i + 2) edges; edge row = offset(i) + j,
    strides are 2 exactly on the edges from the two inputs of a reduction cell. ``multiplier`` states are concatenated.
    Where there is a kernel, all edges that leave a state are one op, which adds to the nodes they lead to. ``memory``
    is that of :class:`MixedOp`.

    ``forward(s0, s1, weights, drop_prob)``: the outputs of the two previous cells and the mixing weights [E, K];
    returns [N, multiplier * C, H', W']. In training, the output of every edge is dropped per sample with probability
    ``drop_prob`` (Zela et al. 2020, "Understanding and Robustifying DARTS").
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
        primitives: Sequence[Primitive] | Sequence[Sequence[Primitive]] = PRIMITIVES,
        *,
        memory: str = "store",
    ):
        super().__init__()
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
        edges = iter(edge_primitives(primitives, steps))
        self._ops = nn.ModuleList()
        for i in range(steps):
            for j in range(2 + i):
                self._ops.append(MixedOp(C, 2 if reduction and j < 2 else 1, next(edges), memory=memory))

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, drop_prob: float = 0.0) -> Tensor:
        states = [run(self.preprocess0, s0), run(self.preprocess1, s1)]
        drop_prob = drop_prob if self.training else 0.0
        nodes: list[Tensor | None] = [None] * self._steps
        for j in range(self._steps + 1):  # nothing leaves the last node
            targets = range(max(0, j - 1), self._steps)
            rows = [i * (i + 3) // 2 + j for i in targets]
            base = [nodes[i] for i in targets] if j else []
            outs = self._leave(states[j], rows, weights, [] if drop_prob else base)
            if drop_prob:
                outs = [drop_path(out, drop_prob) for out in outs]
                outs = [b + out for b, out in zip(base, outs, strict=True)] if base else outs
            for i, out in zip(targets, outs, strict=True):
                nodes[i] = out
            states += nodes[j - 1 : j]
        out = torch.cat(states[-self._multiplier :], dim=1)
        return out.contiguous() if s1.is_contiguous() else out

    def discrete(self, s0: Tensor, s1: Tensor, chosen: Sequence[int | None]) -> Tensor:
        """The cell where each edge runs its ``chosen`` candidate only, with weight 1; an edge of None is left out."""
        states = [run(self.preprocess0, s0), run(self.preprocess1, s1)]
        edges = iter(zip(self._ops, chosen, strict=True))
        for _ in range(self._steps):
            pairs = zip(tuple(states), edges, strict=False)
            states.append(sum(run(edge._ops[k], state) for state, (edge, k) in pairs if k is not None))
        return torch.cat(states[-self._multiplier :], dim=1)

    def _leave(self, x: Tensor, rows: Sequence[int], weights: Tensor, base: Sequence[Tensor]) -> list[Tensor]:
        """The edges of these rows at x, added to `base`: as one op if all of them are plain and alike."""
        edges = [self._ops[row] for row in rows]
        K = weights.shape[-1]
        alike = all(
            type(edge) is MixedOp and not watched(edge) and (edge.stride, len(edge._ops)) == (edges[0].stride, K)
            for edge in edges
        )
        if alike and weights.shape == (len(self._ops), K) and fuses(x):
            table = [(edge._ops, row * K) for edge, row in zip(edges, rows, strict=True)]
            return mix(table, x, weights, edges[0].stride, base, self.memory)
        outs = [edge(x, weights[row]) for edge, row in zip(edges, rows, strict=True)]
        return [b + out for b, out in zip(base, outs, strict=True)] if base else outs


def edge_count(steps: int) -> int:
    """Edges of a cell with ``steps`` intermediate nodes: node i has i + 2 of them."""
    return sum(i + 2 for i in range(steps))


def edge_primitives(
    primitives: Sequence[Primitive] | Sequence[Sequence[Primitive]], steps: int
) -> tuple[tuple[Primitive, ...], ...]:
    """The candidates of every edge, from one list for all edges or one list per edge.

    Raises :class:`FastdartsError` if the number of lists is not the number of edges or their lengths differ (alpha is
    a matrix).
    """
    edges = edge_count(steps)
    if not primitives or isinstance(primitives, str):
        raise FastdartsError(f"got primitives {primitives!r}: expected a list of candidates, or one list per edge")
    nested = not isinstance(primitives[0], str) and isinstance(primitives[0], Sequence)
    table = tuple(tuple(p) for p in primitives) if nested else (tuple(primitives),) * edges
    if len(table) != edges:
        raise FastdartsError(
            f"got primitives for {len(table)} edges: a cell of {steps} nodes has {edges}; give one list per edge"
        )
    if len({len(row) for row in table}) != 1 or not table[0]:
        raise FastdartsError(
            f"got edges with {sorted({len(row) for row in table})} candidates: every edge of a cell needs the same "
            "number, at least one, because alpha is a matrix"
        )
    return table


class Network(Relaxed):
    r"""The search network: a stem, ``layers`` cells (reductions at layers//3 and 2*layers//3), pooling, a classifier.

    DARTS, section 3.1.1. ``alphas_normal`` and ``alphas_reduce`` [E, K] start at 1e-3 * N(0, 1), are shared by all
    cells of their kind, and are plain tensors: not in ``parameters()`` nor ``state_dict()``, yet they follow
    ``.to()`` and ``.cuda()``. Mixing weights are ``softmax(alpha)`` over the candidates.

    Args:
        C: channels of the first cells (doubled at each reduction); the stem has ``stem_multiplier * C``.
        num_classes, layers, criterion: outputs, number of cells, loss ``criterion(logits, target)``.
        steps, multiplier: intermediate nodes of a cell, and how many of them are concatenated.
        in_channels: channels of the images.
        primitives: candidates of every edge (names in ``OPS``), or one list per edge.
        primitives_reduce: the same for reduction cells; the default is ``primitives``.
        memory: what is kept for backward, see :class:`MixedOp`.

    ``forward(input)``: [N, in_channels, H, W] with even H and W, returns logits [N, num_classes]. Raises
    :class:`FastdartsError` on other shapes.
    """

    _memory = "store"  # of modules that were pickled without

    def __init__(
        self,
        C: int,
        num_classes: int,
        layers: int,
        criterion: nn.Module,
        steps: int = 4,
        multiplier: int = 4,
        stem_multiplier: int = 3,
        *,
        in_channels: int = 3,
        primitives: Sequence[str] | Sequence[Sequence[str]] = PRIMITIVES,
        primitives_reduce: Sequence[str] | Sequence[Sequence[str]] | None = None,
        memory: str = "store",
    ):
        super().__init__()
        if min(C, num_classes, layers, steps, stem_multiplier, in_channels) < 1 or not 1 <= multiplier <= steps:
            raise FastdartsError(
                f"a Network got C={C}, num_classes={num_classes}, layers={layers}, steps={steps}, "
                f"multiplier={multiplier}, stem_multiplier={stem_multiplier}, in_channels={in_channels}: expected all "
                "of them at least 1 and multiplier at most steps"
            )
        self._C = C
        self._num_classes = num_classes
        self._layers = layers
        self._criterion = criterion
        self._steps = steps
        self._multiplier = multiplier
        self._stem_multiplier = stem_multiplier
        self._in_channels = in_channels
        self._memory = memory
        self.primitives_normal = edge_primitives(primitives, steps)
        self.primitives_reduce = edge_primitives(primitives_reduce or primitives, steps)

        C_curr = stem_multiplier * C
        self.stem = nn.Sequential(nn.Conv2d(in_channels, C_curr, 3, padding=1, bias=False), nn.BatchNorm2d(C_curr))
        C_prev_prev, C_prev, C_curr = C_curr, C_curr, C
        self.cells = nn.ModuleList()
        reduction_prev = False
        for i in range(layers):
            reduction = i in (layers // 3, 2 * layers // 3)
            if reduction:
                C_curr *= 2
            table = self.primitives_reduce if reduction else self.primitives_normal
            sizes = C_prev_prev, C_prev, C_curr
            self.cells.append(Cell(steps, multiplier, *sizes, reduction, reduction_prev, table, memory=memory))
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

    @property
    def primitives(self) -> dict[str, tuple[tuple[Primitive, ...], ...]]:
        """The candidates of every edge, by kind of cell."""
        return {"normal": self.primitives_normal, "reduce": self.primitives_reduce}

    def mixing_weights(self) -> tuple[Tensor, Tensor]:
        """softmax(alpha) over the candidates: (normal, reduce), each [E, K]."""
        return F.softmax(self.alphas_normal, dim=-1), F.softmax(self.alphas_reduce, dim=-1)

    def forward(self, input: Tensor) -> Tensor:
        normal, reduce = self.mixing_weights()
        s0 = s1 = self._begin(input)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, reduce if cell.reduction else normal, self.drop_path_prob)
        return self.classifier(self.global_pooling(s1).flatten(1))

    def discrete(self, input: Tensor, chosen: Chosen) -> Tensor:
        """Logits with the same weights where each edge runs one candidate, with weight 1, or nothing."""
        s0 = s1 = self._begin(input)
        for cell in self.cells:
            s0, s1 = s1, cell.discrete(s0, s1, chosen["reduce" if cell.reduction else "normal"])
        return self.classifier(self.global_pooling(s1).flatten(1))

    def _begin(self, input: Tensor) -> Tensor:
        check_images(input, self._in_channels)
        s = self.stem(input)
        # Cells compute in channels-last: neither they nor their edges need copies of their own.
        return s.contiguous(memory_format=torch.channels_last) if fuses(s) else s

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
            in_channels=self._in_channels,
            primitives=self.primitives_normal,
            primitives_reduce=self.primitives_reduce,
            memory=self._memory,
        ).to(self.classifier.weight)
        for mine, theirs in zip(self.arch_parameters(), twin.arch_parameters(), strict=True):
            theirs.data.copy_(mine.data)
        return twin

    def genotype(self) -> Genotype:
        """The derived architecture: per node the two strongest edges, each with its strongest operation that is not
        ``none``, judged on the mixing weights (DARTS, section 2.4)."""
        with torch.no_grad():
            normal, reduce = self.mixing_weights()
        return derive_genotype(
            normal, reduce, self.primitives_normal, self.primitives_reduce, self._steps, self._multiplier
        )
