"""What every supernet is: a module whose architecture is a few tensors of alphas beside its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.utils.checkpoint import checkpoint

from fastdarts.errors import FastdartsError
from fastdarts.nn.candidates import Primitive
from fastdarts.nn.exchange import holding
from fastdarts.nn.fusion.chain import computed_alone
from fastdarts.nn.fusion.kinks import active
from fastdarts.nn.fusion.recognise import may_draw
from fastdarts.nn.random_state import goes_back, same_random_numbers
from fastdarts.nn.relaxation import SOFTMAX, Relaxation

Chosen = Mapping[str, Sequence[int | None]]
"""For each kind of cell the candidate that each edge runs, alone and with weight 1; None where the edge is left out."""
Change = tuple[int, Tensor]
"""An edge and the mixing weights [K] that it has instead of its own."""


class Supernet(nn.Module):
    """A supernet: alphas [E, K] per kind of cell, plain tensors that are shared by all cells of their kind.

    They are neither in ``parameters()`` nor in ``state_dict()``, yet follow ``.to()`` and ``.cuda()``. Setting the
    attribute of one, also to a Parameter, replaces it in ``arch_parameters()``. What was set in that list becomes the
    attribute at the next call of ``arch_parameters()``. A subclass has

    ``primitives``: the names of the candidates of each edge, by kind of cell, in the order of the alphas;
    ``genotype()``: the derived architecture;
    ``forward(input)``: the logits of the mixture; ``discrete(input, chosen)``: those of one candidate per edge, with
    the same weights;
    ``cell_kinds()``: the kind of each cell, in the order in which ``forward`` takes :meth:`cell_weights`;
    ``mixed_ops()``: the mixed operations of its edges, a sequence per cell, by kind of cell.

    ``relaxation``: how alphas become mixing weights, softmax by default.

    ``auxiliary``, ``auxiliary_weight``: the candidate that :meth:`extend` has added, and its weight in all passes of
    the mixture, an attribute to set between epochs; None without one.

    ``drop_path_prob``: in training, the probability with which the output of an edge is dropped, per sample; an
    attribute to set between epochs.
    """

    drop_path_prob = 0.0
    relaxation: Relaxation = SOFTMAX
    auxiliary: Primitive | None = None
    auxiliary_weight: float | None = None
    _memory = "store"  # of modules that were pickled without
    primitives: dict[str, tuple[tuple[str, ...], ...]]
    _criterion: nn.Module
    _fixed: Sequence[Tensor] = ()
    _placed: tuple[Sequence[Tensor], Any, Sequence[Tensor]] | None = None
    _cell_weights: Sequence[Tensor] | None = None

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        held = (value for value in vars(self).values() if isinstance(value, Tensor))
        for alpha in {id(a): a for a in (*held, *self._arch_parameters)}.values():
            # In place, so that optimizers built before keep their hold.
            moved = fn(alpha.data)
            if torch._has_compatible_shallow_copy_type(alpha, moved):
                alpha.data = moved
            else:  # to or from the meta device
                torch.utils.swap_tensors(alpha, moved.requires_grad_(alpha.requires_grad))
        return self

    def arch_parameters(self) -> list[Tensor]:
        """The alphas, one [E, K] per kind of cell, and what is learned along with them; always the same object."""
        return self._arch_parameters

    @property
    def _arch_parameters(self) -> list[Tensor]:
        """The list of alphas. A place in it and the attribute that held the same tensor stay one: either may be set."""
        alphas, held = vars(self)["_arch_parameters"], vars(self).get("_held", ())
        if len(held) != len(alphas):  # an item came or went, or the module was pickled without
            self._arch_parameters = alphas
            return alphas
        for place, (name, before) in enumerate(held):
            value = vars(self).get(name, self._parameters.get(name))
            if (value is before and alphas[place] is before) or not isinstance(value, Tensor):
                continue
            if value is before:
                setattr(self, name, alphas[place])
            elif alphas[place] is before or alphas[place] is value:
                alphas[place] = value
            else:
                raise FastdartsError(
                    f"model.{name} and arch_parameters()[{place}] were set to different tensors: expected one of them "
                    "to be set, or both to the same tensor"
                )
            held[place] = name, alphas[place]
        return alphas

    @_arch_parameters.setter
    def _arch_parameters(self, alphas: list[Tensor]) -> None:
        tensors = (*vars(self).items(), *self._parameters.items())
        names = {id(value): name for name, value in tensors if isinstance(value, Tensor)}
        vars(self).update(_arch_parameters=alphas, _held=[(names.get(id(alpha)), alpha) for alpha in alphas])

    def alpha_tables(self) -> Sequence[Tensor]:
        """The alphas [E, K], one table per kind of cell."""
        return self.own_alphas()

    def own_alphas(self) -> list[Tensor]:
        """The same tables as they are learned, for whoever changes them in place."""
        return self.arch_parameters()[: len(self.primitives)]

    def cost_weights(self) -> tuple[Tensor, ...]:
        """The chance of each candidate, [E, K] per kind of cell, by which a step of the alphas counts what it costs."""
        shares = [self.relaxation.shares(alpha, kind) for kind, alpha in enumerate(self.alpha_tables())]
        return self.with_fixed_rows(tuple(shares))

    def mixing_weights(self) -> tuple[Tensor, ...]:
        """How strong each candidate is, [E, K] per kind of cell: softmax(alpha), or what the relaxation says. Rows that
        were fixed are what they were fixed to, and no gradient reaches their alphas."""
        return self.with_fixed_rows(tuple(map(self.relaxation.strength, self.alpha_tables())))

    def noiseless_weights(self) -> tuple[Tensor, ...]:
        """What a pass multiplies by if it does not draw, [E, K] per kind of cell; fixed rows as above."""
        return self.with_fixed_rows(tuple(map(self.relaxation.weights, self.alpha_tables())))

    def _pass_weights(self) -> tuple[Tensor, ...]:
        """What a pass multiplies by, [E, K] per kind of cell; what it does not compute is switched off."""
        if not self.relaxation.draws:
            return self._extended(self.noiseless_weights())
        drawn = self.training or self.relaxation.same_in_eval
        mixings = [
            self.relaxation.mix(alpha, kind) if drawn else self.relaxation.noiseless(alpha)
            for kind, alpha in enumerate(self.alpha_tables())
        ]
        for kind, (weights, alone) in zip(self.primitives, mixings, strict=True):
            cells = self.mixed_ops()[kind]
            rows = [None] * len(weights) if alone is None or not cells else _alone(alone, cells[0])
            if self._fixed:  # what was decided is not drawn any more
                fixed = self._fixed[list(self.primitives).index(kind)].amin(1) >= 0
                rows = [edge.active if own else row for own, edge, row in zip(fixed, cells[0], rows, strict=True)]
            for ops in cells:
                for edge, chosen in zip(ops, rows, strict=True):
                    if edge.active != chosen:
                        edge.active = chosen
        return self._extended(self.with_fixed_rows(tuple(weights for weights, _ in mixings)))

    def _extended(self, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """``weights`` [E, K] with a column for the auxiliary candidate, if there is one."""
        if self.auxiliary_weight is None:
            return weights
        return tuple(F.pad(table, (0, 1), value=self.auxiliary_weight) for table in weights)

    def extend(self, primitive: Primitive, weight: float) -> None:
        """Add an auxiliary candidate to every edge: it takes part in the mixture with ``auxiliary_weight``, has no
        alpha and is never derived."""
        for edge in (edge for cells in self.mixed_ops().values() for edges in cells for edge in edges):
            edge.extend(primitive)
        self.auxiliary_weight, self.auxiliary = weight, primitive

    def with_fixed_rows(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """``weights``, [E, K] per kind of cell, where rows that were fixed are what they were fixed to."""
        if not self._fixed:
            return weights
        pairs = zip(weights, self._fixed_beside(weights), strict=True)
        return tuple(torch.where(table < 0, w, table) for w, table in pairs)

    def _fixed_beside(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """What weights are fixed to, where these are: copied once, as a copy in every pass would make a GPU wait."""
        kind = weights[0].device, weights[0].dtype
        if weights[0].device.type == "cpu":
            return [table.to(w) for table, w in zip(self._fixed, weights, strict=True)]
        if self._placed is None or self._placed[0] is not self._fixed or self._placed[1] != kind:
            tables = [table.to(w) for table, w in zip(self._fixed, weights, strict=True)]
            self._placed = self._fixed, kind, tables
        return self._placed[2]

    def cell_kinds(self) -> list[str]:
        """Of a subclass whose cells can have weights of their own."""
        raise FastdartsError(f"{type(self).__name__} has no cell_kinds(): a supernet whose cells are compared needs it")

    def cell_weights(self) -> Sequence[Tensor]:
        """The mixing weights [E, K] of every cell in turn: those of its kind, the same tensor for all of a kind."""
        if self._cell_weights is not None:
            return self._cell_weights
        weights = dict(zip(self.primitives, self._pass_weights(), strict=True))
        return [weights[kind] for kind in self.cell_kinds()]

    @contextmanager
    def with_cell_weights(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Inside, every cell has mixing weights of its own."""
        self._cell_weights = weights
        try:
            yield
        finally:
            self._cell_weights = None

    @property
    def fixed(self) -> list[Tensor]:
        """What mixing weights are fixed to, [E, K] per kind of cell on the CPU; -1 in rows that follow their alphas."""
        return list(self._fixed) or [torch.full((len(t), len(t[0])), -1.0) for t in self.primitives.values()]

    def fix(self, tables: Sequence[Tensor]) -> None:
        """Fix mixing weights to ``tables``, as :attr:`fixed` gives them; candidates of weight 0 are not computed any
        more."""
        if not self._fixed and all((table < 0).all() for table in tables):
            return
        self._fixed = [table.detach().cpu().clone() for table in tables]
        for kind, table in zip(self.primitives, self._fixed, strict=True):
            for row, weights in enumerate(table):
                self._run_only(kind, row, None if (weights < 0).any() else _not_zero(weights))

    def mixed_ops(self) -> dict[str, list[Sequence[nn.Module]]]:
        """Of a subclass whose weights can be fixed; each has attributes ``active`` and ``_ops``, as
        :class:`fastdarts.nn.mixed_op.MixedOp`."""
        raise FastdartsError(f"{type(self).__name__} has no mixed_ops(): a supernet that is projected must have them")

    @torch.no_grad()
    def masked(self, input: Tensor, kind: str, changes: Sequence[Change]) -> list[Tensor]:
        """Logits of ``input`` with each of ``changes`` alone, in all cells of ``kind``; all draw the same random
        numbers."""
        return [self._with_change(input, kind, change) for change in changes]

    def _with_change(self, input: Tensor, kind: str, change: Change) -> Tensor:
        before, tables = self._fixed, [table.detach().clone() for table in self.noiseless_weights()]
        tables[list(self.primitives).index(kind)][change[0]] = change[1]
        try:
            self._fixed = tables
            with self.running(kind, *change), same_random_numbers(input.device):
                return self(input)
        finally:
            self._fixed = before

    @contextmanager
    def running(self, kind: str, row: int, weights: Tensor) -> Iterator[None]:
        """Inside, the edge ``row`` of all cells of ``kind`` computes the candidates only whose weight is not 0."""
        edge = next((ops[row] for ops in self.mixed_ops()[kind]), None)
        before = edge.active if edge is not None else None
        # What draws does so with weight 0 too: else the edges after it would draw other numbers than before.
        draws = {k for k, op in enumerate(edge._ops) if may_draw(op)} if edge is not None else set()
        draws &= draws if before is None else set(before)
        self._run_only(kind, row, tuple(sorted({*_not_zero(weights), *draws})))
        try:
            yield
        finally:
            self._run_only(kind, row, before)

    def _run_only(self, kind: str, row: int, active: tuple[int, ...] | None) -> None:
        for ops in self.mixed_ops()[kind]:
            ops[row].active = active

    def edge_weights(self) -> tuple[Tensor | None, ...]:
        """Weights of the edges [E] per kind of cell, each softmaxed over the edges that enter a node; None where edges
        have none."""
        return (None,) * len(self.primitives)

    def _pass(self, cell: nn.Module, *inputs: Any) -> Tensor:
        """The output of a cell, kept for backward as ``memory`` says."""
        return recomputed(cell, *inputs) if self._memory == "checkpoint" else cell(*inputs)

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        return self._criterion(self(input), target)


def _alone(places: Tensor | Sequence[tuple[int, ...]], edges: Sequence[nn.Module]) -> Sequence[tuple[int, ...]]:
    """The candidates that each edge computes; in an estimate of memory its largest one."""
    if not isinstance(places, Tensor):
        return places
    if not is_fake(places):
        return [(k,) for k in places.tolist()]
    sizes = [[sum(p.numel() for p in op.parameters()) for op in edge._ops] for edge in edges]
    return [(row.index(max(row)),) for row in sizes]


def _not_zero(weights: Tensor) -> tuple[int, ...]:
    return tuple(weights.nonzero().flatten().tolist())


def recomputed(module: nn.Module, *inputs: Any) -> Tensor:
    """``module(*inputs)``, of which nothing but the inputs is kept for backward: there it is computed again.

    The second time with the parameters of the first, also if the module holds others since, with the same random
    numbers and kinks, and without moving running statistics again.
    """
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    again, kinks, alone = False, active(), computed_alone()
    place = kinks.place if kinks else 0

    def run(*inputs: Any) -> Tensor:
        with alone():
            return compute(*inputs)

    def compute(*inputs: Any) -> Tensor:
        nonlocal again
        if not again:
            again = True
            return module(*inputs)
        values = parameters | {name: b.clone() for name, b in buffers.items()}
        with kinks.again(place) if kinks else nullcontext(), holding(module, values):
            return module(*inputs)

    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=goes_back())


def initial_alphas(edges: int, candidates: int | None, device: torch.device) -> Tensor:
    """1e-3 * N(0, 1), [edges, candidates], or [edges] for None; drawn on the CPU like the public code, so that a seed
    means the same alphas on every device."""
    size = (edges,) if candidates is None else (edges, candidates)
    return (1e-3 * torch.randn(size, device="cpu")).to(device).requires_grad_()
