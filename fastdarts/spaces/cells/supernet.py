"""The search network: cells of the supernet between a stem and a classifier.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, sections 2.1-2.2; names, constructors and
``state_dict`` keys are those of the public DARTS code, so its scripts and checkpoints keep working. So are those of
partial channels and edge normalisation: Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient
Architecture Search", ICLR 2020, section 3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.nn.candidates import Primitive, Primitives, default_primitives, whole
from fastdarts.nn.fusion.call import fuses
from fastdarts.nn.fusion.chain import one_pass
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import (
    check_images,
    imagenet_stems,
)
from fastdarts.nn.supernet import Change, Chosen, Supernet, initial_alphas
from fastdarts.spaces.cells.candidates import by_kind, edge_primitives
from fastdarts.spaces.cells.cell import Cell, leave
from fastdarts.spaces.cells.derive import derive_genotype
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.variants import masked
from fastdarts.spaces.topology import DARTS_CELL

__all__ = ["STEMS", "Cell", "Network", "leave"]

STEMS = ("cifar", "imagenet")


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
            twin.extend(self.auxiliary, self.auxiliary_weight)
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
