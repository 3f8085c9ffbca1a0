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
from fastdarts.functional import mixed_sum, runs_natively, sep_conv
from fastdarts.genotypes import PRIMITIVES, Genotype, derive_genotype
from fastdarts.operations import OPS, DilConv, FactorizedReduce, Identity, ReLUConvBN, SepConv, Zero, check_images

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


def _split(op: nn.Module) -> tuple[Callable[[Tensor], Tensor], nn.BatchNorm2d] | None:
    """``op`` as (what gives its raw output, its closing BatchNorm), or None if it has to be called as a whole.

    Only exact types are taken apart, and only while nobody watches: a subclass has a forward of its own, and a hook
    expects to be called.
    """
    kind = type(op)
    if kind is FactorizedReduce:
        inner, body, bn = op, op.raw, op.bn
    elif kind in (SepConv, DilConv, ReLUConvBN, nn.Sequential):
        inner = op if kind is nn.Sequential else op.op
        if type(inner) is not nn.Sequential or not len(inner):
            return None
        *body, bn = inner
    else:
        return None
    plain = type(bn) is nn.BatchNorm2d and not bn.affine and bn.momentum is not None
    if not plain or (bn.track_running_stats and bn.num_batches_tracked is None):
        return None
    return None if any(map(_watched, (op, inner, bn))) else (body, bn)


def _takes_any_format(body: Callable[[Tensor], Tensor] | list[nn.Module]) -> bool:
    """Whether `body` is made of modules known to work in channels-last: a custom one may call view()."""
    return callable(body) or all(type(layer).__module__.startswith("torch.nn.modules.") for layer in body)


def _watched(module: nn.Module) -> bool:
    """Whether calling ``module`` does more than its class's forward: it has hooks, or a forward set on the instance."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in module.__dict__


def _run(body: Callable[[Tensor], Tensor] | list[nn.Module], x: Tensor) -> Tensor:
    if callable(body):
        return body(x)
    at = 0
    while at < len(body):
        triple = body[at : at + 3]
        if _is_separable(triple) and _fits(triple, x):
            depthwise, pointwise = triple[1:]
            stride, dilation = depthwise.stride[0], depthwise.dilation[0]
            x = sep_conv(x, depthwise.weight, pointwise.weight, stride=stride, dilation=dilation)
            at += 3
        else:
            x = body[at](x)
            at += 1
    return x


def _is_separable(layers: list[nn.Module]) -> bool:
    """Whether these are the ReLU, depthwise and 1x1 convolution that `sep_conv` computes, and nobody watches them."""
    if [*map(type, layers)] != [nn.ReLU, nn.Conv2d, nn.Conv2d] or any(map(_watched, layers)):
        return False
    relu, depthwise, pointwise = layers
    k, stride, dilation = depthwise.kernel_size[0], depthwise.stride[0], depthwise.dilation[0]
    return (
        not relu.inplace
        and depthwise.bias is None
        and pointwise.bias is None
        and depthwise.groups == depthwise.in_channels == depthwise.out_channels
        and (k in (3, 5, 7) and stride in (1, 2) and dilation in (1, 2))
        and (depthwise.kernel_size, depthwise.stride, depthwise.dilation) == ((k, k), (stride,) * 2, (dilation,) * 2)
        and depthwise.padding == (dilation * (k - 1) // 2,) * 2
        and depthwise.padding_mode == "zeros"
        and (pointwise.kernel_size, pointwise.stride, pointwise.padding) == ((1, 1), (1, 1), (0, 0))
        and pointwise.groups == 1
        and pointwise.in_channels == depthwise.out_channels
    )


def _fits(layers: list[nn.Module], x: Tensor) -> bool:
    """Whether the native kernel takes `x` and these weights; if not, the modules run as they are, errors included."""
    _, depthwise, pointwise = layers
    shaped = x.dim() == 4 and x.shape[1] == depthwise.in_channels and x.numel() > 0
    return shaped and runs_natively(x, depthwise.weight, pointwise.weight)


class MixedOp(nn.Module):
    r"""One edge of the supernet, :math:`\bar o(x) = \sum_k w_k\, o_k(x)`  (DARTS, eq. 2).

    Candidates that end in a BatchNorm hand over their raw outputs; normalisation, weighting and the sum over all
    candidates are one fused operation (:func:`fastdarts.functional.mixed_sum`), exact in value and gradient. A custom
    candidate takes part with its plain output. ``none`` is not computed: it contributes zero (the public code
    multiplies x by zero, which turns an infinite x into NaN; here it does not).

    Args:
        C: channels of input and output.
        stride: 1 or 2.
        primitives: candidates in the order of the weights: names in ``OPS``, modules, or builders
            ``(C, stride, affine) -> module``.

    ``forward(x, weights)``: x [N, C, H, W]; weights [K], already softmaxed; returns [N, C, ceil(H/stride),
    ceil(W/stride)]. Raises :class:`FastdartsError` if weights is not [K].
    """

    def __init__(self, C: int, stride: int, primitives: Sequence[Primitive] = PRIMITIVES):
        super().__init__()
        if C < 1 or stride not in (1, 2):
            raise FastdartsError(f"a MixedOp got C={C} and stride={stride}: expected C at least 1 and stride 1 or 2")
        if not primitives or isinstance(primitives, str):
            raise FastdartsError(f"a MixedOp got primitives {primitives!r}: expected a list of at least one candidate")
        self._ops = nn.ModuleList(build_candidate(p, C, stride) for p in primitives)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        if not isinstance(weights, Tensor) or not weights.is_floating_point():
            weights = torch.as_tensor(weights, dtype=x.dtype, device=x.device)  # a list, or an integer one-hot
        if weights.shape != (len(self._ops),):
            raise FastdartsError(
                f"weights has shape {tuple(weights.shape)}: expected ({len(self._ops)},), one mixing weight for each "
                "candidate of the edge"
            )
        rows, branches, norms = [], [], []
        mode = None
        native = x.dim() == 4 and runs_natively(x)
        last = x.contiguous(memory_format=torch.channels_last) if native else x  # once, not in every candidate
        for k, op in enumerate(self._ops):
            if type(op) is Zero and not _watched(op):
                continue
            rows.append(k)
            parts = _split(op)
            if parts is not None:
                body, bn = parts
                own = (bn.training or bn.running_mean is None, bn.eps, bn.momentum)
                mode = mode or own
                if own == mode:
                    branches.append(_run(body, last if _takes_any_format(body) else x))
                    norms.append(bn)
                    continue
            branches.append(op(x))
            norms.append(None)
        if not rows:
            return self._ops[0](x)
        if len(rows) < len(self._ops):
            in_a_row = rows[-1] - rows[0] + 1 == len(rows)
            weights = weights[rows[0] : rows[-1] + 1] if in_a_row else weights[rows]
        out = _normalise_and_sum(branches, weights, norms)
        return out.contiguous() if native and x.is_contiguous() else out


def _normalise_and_sum(branches: list[Tensor], weights: Tensor, norms: list[nn.BatchNorm2d | None]) -> Tensor:
    """The fused sum, and what the BatchNorm modules would have done to their running statistics."""
    normalize = [bn is not None for bn in norms]
    used = [bn for bn in norms if bn is not None]
    if not used:
        return mixed_sum(branches, weights, normalize).out
    first = used[0]
    if not first.training and first.running_mean is not None:
        running = (torch.stack([bn.running_mean for bn in used]), torch.stack([bn.running_var for bn in used]))
        return mixed_sum(branches, weights, normalize, running=running, eps=first.eps).out
    out, mean, var = mixed_sum(branches, weights, normalize, eps=first.eps)
    tracked = [k for k, bn in enumerate(used) if bn.training and bn.track_running_stats]
    if tracked:
        mean, var = mean.to(first.running_mean.dtype), var.to(first.running_mean.dtype)
        with torch.no_grad():
            # Three calls for all candidates: as many as one BatchNorm module would make.
            torch._foreach_lerp_([used[k].running_mean for k in tracked], [mean[k] for k in tracked], first.momentum)
            torch._foreach_lerp_([used[k].running_var for k in tracked], [var[k] for k in tracked], first.momentum)
            torch._foreach_add_([used[k].num_batches_tracked for k in tracked], 1)
    return out


class Cell(nn.Module):
    r"""A cell of the supernet: node_i = sum over j < i of MixedOp_{j,i}(node_j), output = concat of the last nodes.

    Source: DARTS, section 2.1. ``steps`` nodes give E = sum_{i<steps} (i + 2) edges; edge row = offset(i) + j,
    strides are 2 exactly on the edges from the two inputs of a reduction cell. ``multiplier`` states are concatenated.

    ``forward(s0, s1, weights)``: the outputs of the two previous cells and the mixing weights [E, K]; returns
    [N, multiplier * C, H', W'].
    """

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
    ):
        super().__init__()
        self.reduction = reduction
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
                self._ops.append(MixedOp(C, 2 if reduction and j < 2 else 1, next(edges)))

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        rows = weights.unbind(0)
        offset = 0
        for _ in range(self._steps):
            node = self._ops[offset](states[0], rows[offset])
            for j, state in enumerate(states[1:], start=1):
                node = node + self._ops[offset + j](state, rows[offset + j])
            offset += len(states)
            states.append(node)
        return torch.cat(states[-self._multiplier :], dim=1)


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


class Network(nn.Module):
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

    ``forward(input)``: [N, in_channels, H, W] with even H and W, returns logits [N, num_classes]. Raises
    :class:`FastdartsError` on other shapes.
    """

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
            self.cells.append(Cell(steps, multiplier, C_prev_prev, C_prev, C_curr, reduction, reduction_prev, table))
            reduction_prev = reduction
            C_prev_prev, C_prev = C_prev, multiplier * C_curr
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(C_prev, num_classes)
        self._initialize_alphas()

    def _initialize_alphas(self) -> None:
        def alphas(table):
            # Drawn on the CPU like the public code, so that a seed means the same alphas on every device.
            drawn = 1e-3 * torch.randn(len(table), len(table[0]), device="cpu")
            return drawn.to(self.classifier.weight.device).requires_grad_()

        self.alphas_normal = alphas(self.primitives_normal)
        self.alphas_reduce = alphas(self.primitives_reduce)
        self._arch_parameters = [self.alphas_normal, self.alphas_reduce]

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        alphas = {id(a): a for a in (self.alphas_normal, self.alphas_reduce, *self._arch_parameters)}
        for alpha in alphas.values():
            # In place, so that optimizers built before keep their hold.
            moved = fn(alpha.data)
            if torch._has_compatible_shallow_copy_type(alpha, moved):
                alpha.data = moved
            else:  # to or from the meta device
                torch.utils.swap_tensors(alpha, moved.requires_grad_(alpha.requires_grad))
        return self

    def arch_parameters(self) -> list[Tensor]:
        """The list [alphas_normal, alphas_reduce]; the same object at every call."""
        return self._arch_parameters

    def mixing_weights(self) -> tuple[Tensor, Tensor]:
        """softmax(alpha) over the candidates: (normal, reduce), each [E, K]."""
        return F.softmax(self.alphas_normal, dim=-1), F.softmax(self.alphas_reduce, dim=-1)

    def forward(self, input: Tensor) -> Tensor:
        check_images(input, self._in_channels)
        if runs_natively(input) and self._takes_any_format():
            # The step takes 0.93 of the time (8 cells, C=16, batch 32, one thread): edges need no copies of their own.
            input = input.contiguous(memory_format=torch.channels_last)
        normal, reduce = self.mixing_weights()
        s0 = s1 = self.stem(input)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, reduce if cell.reduction else normal)
        return self.classifier(self.global_pooling(s1).flatten(1))

    def _takes_any_format(self) -> bool:
        """Whether no edge has a custom candidate, which may call view() on what it is given."""
        known = {SepConv, DilConv, FactorizedReduce, Identity, Zero}
        candidates = (op for cell in self.cells for edge in cell._ops for op in getattr(edge, "_ops", ()))
        return all(
            type(op) in known or (type(op) is nn.Sequential and _takes_any_format(list(op))) for op in candidates
        )

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        return self._criterion(self(input), target)

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
