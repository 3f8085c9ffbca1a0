"""One edge of the supernet: the mixed operation."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional import MEMORY
from fastdarts.functional.arguments import FLOATING, brief, got, is_dense
from fastdarts.functional.autocast import autocast_dtype
from fastdarts.nn.candidates import Primitive, build_candidate, default_primitives, name_of, whole
from fastdarts.nn.fusion.call import Place, fuses, is_none, mix, mix_modules, not_zero, run, seen, select, shuffle_in
from fastdarts.nn.fusion.plan import recall, wide
from fastdarts.nn.fusion.recognise import fused_on
from fastdarts.nn.operations import Zero


def row_of(weights: Any, x: Tensor) -> Tensor:
    """Mixing weights of an edge as a tensor of floating point: a list, of tensors too, or an integer one-hot."""
    try:
        if isinstance(weights, Sequence) and any(isinstance(w, Tensor) for w in weights):
            weights = torch.stack([torch.as_tensor(w, device=x.device) for w in weights])
        elif not isinstance(weights, Tensor):
            weights = torch.as_tensor(weights, device=x.device)
    except (TypeError, ValueError, RuntimeError):
        weights = None
    if not is_dense(weights) or weights.is_complex():
        raise FastdartsError("got mixing weights that are no row of real numbers: expected a tensor or a list of them")
    return weights if weights.is_floating_point() else weights.to(x.dtype)


def check_map(name: str, x: Any) -> None:
    """Raise :class:`FastdartsError` unless ``x`` is a dense floating point tensor [N, C, H, W]."""
    if not is_dense(x) or x.dim() != 4 or x.dtype not in FLOATING:
        found = f"{got(x)} in {x.dtype}" if isinstance(x, Tensor) else got(x)
        raise FastdartsError(f"{name} is {found}: expected a dense floating point tensor [N, C, H, W]")


@functools.cache
def _none(stride: int) -> Zero:
    """What stands for candidates that are not computed; to build it takes 5 us, once per candidate and pass."""
    return Zero(stride)


class MixedOp(nn.Module):
    r"""One edge of the supernet: ``out = Σ_k w_k o_k(x)``, the candidates o_k weighted by w.

    Where there is a kernel, the known candidates, their BatchNorms, the weighting and the sum are one op
    (:func:`fastdarts.functional.mixed_op`). Elsewhere, and for candidates of your own, the modules run. If they end in
    a BatchNorm, one op normalises and adds their raw outputs (:func:`fastdarts.functional.mixed_sum`). Both ops are
    exact in value and gradient. Any other candidate takes part with its plain output.

    ``none`` is not computed, because it contributes zero. The public code multiplies x by zero, which turns an infinite
    x into NaN; here it does not.

    Args:
        C: Channels of input and output.
        stride: 1 or 2.
        primitives: Candidates in the order of the weights: names in ``OPS``, modules, or builders
            ``(C, stride, affine) -> module``. The default is ``fastdarts.PRIMITIVES``. If the calling module has
            another list ``PRIMITIVES``, that one has to be passed. The attribute ``primitives`` holds their names.
        memory: "store" keeps the raw outputs of the convolutions for backward, "recompute" computes them again.
        partial: Divisor k of C. The candidates take the first C/k channels. The others bypass them, at stride 2 through
            a maximum over 2x2 pixels. Then all channels are shuffled. The public code of PC-DARTS has k = 4.

    Attributes:
        active: The only candidates that are computed; the weights of the others must be 0. None leaves it to the
            weights.

    A candidate of weight 0 is not computed if the weights are on the CPU and want no gradient: its running statistics
    stay as they are, and its parameters get no ``grad``. On a GPU, which reading the weights would stall, all are
    computed, and parameters get a ``grad`` of zeros.

    Raises:
        FastdartsError: An argument is out of its range, or ``partial`` does not divide C.

    Source: Liu et al. 2019 (DARTS), equation 2; partial channels, Xu et al. 2020 (PC-DARTS), section 3.2.

    Examples:
        >>> import torch
        >>> from fastdarts import MixedOp
        >>> edge = MixedOp(16, 2)
        >>> weights = torch.zeros(8, requires_grad=True).softmax(0)
        >>> edge(torch.randn(4, 16, 32, 32), weights).shape
        torch.Size([4, 16, 16, 16])
    """

    memory = "store"  # of modules that were pickled without
    primitives: tuple[str, ...] = ()
    k = 1
    active: tuple[int, ...] | None = None

    def __init__(
        self,
        C: int,
        stride: int,
        primitives: Sequence[Primitive] | None = None,
        *,
        memory: str = "store",
        partial: int = 1,
    ):
        super().__init__()
        primitives = default_primitives() if primitives is None else primitives
        C, stride, partial = whole(C=C, stride=stride, partial=partial)
        if C < 1 or stride not in (1, 2):
            raise FastdartsError(f"a MixedOp got C={C} and stride={stride}: expected C at least 1 and stride 1 or 2")
        if isinstance(primitives, str | Mapping) or not isinstance(primitives, Sequence) or not primitives:
            raise FastdartsError(
                f"a MixedOp got primitives {brief(primitives)}: expected a list of at least one candidate"
            )
        if type(memory) is not str or memory not in MEMORY:
            raise FastdartsError(f"a MixedOp got memory={brief(memory)}: expected one of {', '.join(MEMORY)}")
        if partial < 1 or C % partial:
            raise FastdartsError(f"a MixedOp got C={C} and partial={partial}: expected partial to divide C")
        self.channels = C
        self.stride = stride
        self.memory = memory
        self.k = partial
        self.primitives = tuple(map(name_of, primitives))
        self._ops = nn.ModuleList(build_candidate(p, C // partial, stride) for p in primitives)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Compute the edge.

        Args:
            x: [N, C, H, W], floating point.
            weights: [K], the mixing weights after the softmax, a tensor or a list.

        Returns:
            [N, C, ceil(H/stride), ceil(W/stride)], in the type of x, or of torch.autocast where it is on.

        Raises:
            FastdartsError: ``weights`` is not [K], x is no dense map, or its channels cannot be divided by ``partial``.
        """
        check_map("x", x)
        if not is_dense(weights) or not weights.is_floating_point():
            weights = row_of(weights, x)
        if weights.shape != (len(self._ops),):
            raise FastdartsError(
                f"weights has shape {tuple(weights.shape)}: expected ({len(self._ops)},), one mixing weight for each "
                f"candidate of the edge ({', '.join(self.primitives)}); candidates of your own are given as primitives="
            )
        if weights.device != x.device:
            raise FastdartsError(f"weights is on {weights.device} but x on {x.device}: move one of them")
        part, row = self._part(x), seen(weights)
        computed = self.computed(row)
        if fuses(x):
            if row is not None and computed is not None and (out := self._at_most_skip(x, row, computed)) is not None:
                return out
            bypass = None if self.k == 1 else weights.new_ones(1)
            key = x.shape[1], self.stride, self.memory, self.k, computed, self.training
            fused = recall(self._ops, key, x)
            if fused is not None:
                (out,) = fused(x, weights.to(wide(x)), (), bypass)
            else:
                ops = self.candidates(computed)
                place = Place(self._ops, key, lambda: [m for op in ops for m in op.modules()])
                (out,) = mix([(ops, 0)], x, weights, self.stride, (), self.memory, self.k, bypass, place)
            return out.contiguous() if x.is_contiguous() else out
        ops = self.candidates(computed)
        rows = [k for k, op in enumerate(ops) if not is_none(op)] or [0]
        some = weights if len(rows) == len(weights) else select(weights, rows, x)
        out = mix_modules([ops[k] for k in rows], part, some, {})
        return out if self.k == 1 else shuffle_in(out, x, self.stride)

    def extend(self, primitive: Primitive) -> None:
        """Add a candidate behind the others; ``weights`` of a pass then have one number more."""
        self._ops.append(build_candidate(primitive, self.channels // self.k, self.stride))

    def _at_most_skip(self, x: Tensor, row: Sequence[float], computed: tuple[int, ...]) -> Tensor | None:
        """The output where that is 0 or x times a number, which needs no other memory format; else None."""
        if self.k > 1 or len(computed) > 1:
            return None
        dtype = autocast_dtype(x) or x.dtype
        ops = [self._ops[k] for k in computed if not is_none(self._ops[k])]
        if not ops:
            return _none(self.stride)(x.to(dtype))
        known = fused_on(*ops, x.shape[1])
        plain = known is not None and known.kind == "skip" and not known.draws
        return x.to(dtype) * row[computed[0]] if plain else None

    def only(self, x: Tensor, k: int) -> Tensor:
        """The output with all weight on candidate ``k``, which alone is called."""
        out = run(self._ops[k], self._part(x))
        return out if self.k == 1 else shuffle_in(out, x, self.stride)

    def _part(self, x: Tensor) -> Tensor:
        """The channels that the candidates take."""
        if self.k == 1:
            return x
        channels, *size = x.shape[1:]
        if channels % self.k or (self.stride == 2 and any(side % 2 for side in size)):
            raise FastdartsError(
                f"got x of shape {tuple(x.shape)}: partial channels need a multiple of {self.k} channels"
                + ", and an even height and width, as the edge has stride 2" * (self.stride == 2)
            )
        return x[:, : channels // self.k]

    def computed(self, row: Sequence[float] | None) -> tuple[int, ...] | None:
        """The only candidates that are computed with these weights, None for all; ``row`` is None where weights do not
        matter."""
        return self.active if self.active is not None or row is None else not_zero(row)

    def candidates(self, computed: tuple[int, ...] | None) -> Sequence[nn.Module]:
        """The modules of all candidates, `none` in place of those that are not ``computed``."""
        if computed is None:
            return self._ops
        none = _none(self.stride)
        return [op if k in computed else none for k, op in enumerate(self._ops)]
