"""Mixed operations of which one candidate is computed, and binary gates, whose gradients know the others too.

ProxylessNAS (Cai et al. 2019, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", ICLR,
section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastdarts.nn.fusion.call import not_zero, seen
from fastdarts.nn.operations import Zero
from fastdarts.nn.statistics import batch_statistics

Gates = Sequence[tuple[int, ...]]
"""Of each edge the candidates whose binary gates have a gradient."""


class _Gates(torch.autograd.Function):
    """Zero, whose gradient in the mixing weights is that of the binary gates.

    It is added to the output of an edge. So autograd calls it only where somebody asks for the gradient of the alphas,
    and no parameter looks unused.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, out: Tensor, edge: GatedOp, gates: tuple[int, ...]) -> Tensor:
        ctx.edge, ctx.gates, ctx.computed = edge, gates, edge.active
        ctx.save_for_backward(weights, x, out)
        return out.new_zeros(()).expand(out.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, x, out = ctx.saved_tensors
        found = torch.zeros_like(weights)
        for k in ctx.gates:
            op = ctx.edge._ops[k]
            if isinstance(op, Zero):
                continue
            if (k,) != ctx.computed:
                with batch_statistics(op):
                    found[k] = _inner(op(x), gradient)
            else:
                found[k] = _inner(out, gradient)
        return found, None, None, None, None


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of two maps, added up in float32 at least."""
    wide = torch.promote_types(torch.float32, a.dtype)
    return (a.to(wide) * b.to(wide)).sum()


class GatedOp(nn.Module):
    r"""One edge of a chain: ``out = Σ_k w_k o_k(x)``, the candidates o_k weighted by w, each of them a module.

    With binary gates (Cai et al. 2019, equations 3 and 4) one candidate is computed: the ``active`` one, with weight 1.
    The gradient of the weight of candidate k is :math:`b_k = \langle o_k(x), \partial L / \partial out \rangle`, in the
    paper's terms that of its gate. Backward computes the other candidates for it, one after another, without a graph
    and without moving their running statistics. That of a candidate which computes nothing is 0.

    Args:
        ops: The candidates: modules that take [N, C, H, W] and give maps of one shape. ``Zero`` computes nothing.
        primitives: Their names.
        channels, stride: Channels of the output, and the stride.

    Attributes:
        active: As of :class:`fastdarts.nn.mixed_op.MixedOp`.

    Examples:
        >>> import torch
        >>> from fastdarts.nn.gates import GatedOp
        >>> edge = GatedOp([torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(3, 8, 3, padding=1)], ("small", "large"), 8, 1)
        >>> edge.active = (1,)
        >>> weights = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> edge(torch.randn(2, 3, 4, 4), weights, (0, 1)).sum().backward()
        >>> bool((weights.grad != 0).all())
        True
    """

    active: tuple[int, ...] | None = None

    def __init__(self, ops: Sequence[nn.Module], primitives: Sequence[str], channels: int, stride: int):
        super().__init__()
        self.primitives, self.channels, self.stride = tuple(primitives), channels, stride
        self._ops = nn.ModuleList(ops)

    def forward(self, x: Tensor, weights: Tensor, gates: tuple[int, ...] | None = None) -> Tensor:
        """The output of the edge, [N, channels, ceil(H/stride), ceil(W/stride)].

        x: [N, C, H, W]. weights: [K], the mixing weights. gates: the candidates whose binary gates have a gradient;
        None for a mixture, whose weights have the gradients of its sum.
        """
        row = seen(weights)
        computed = self.active if self.active is not None or row is None else not_zero(row)
        computed = range(len(self._ops)) if computed is None else computed
        if gates is not None:
            (chosen,) = computed
            out = self.only(x, chosen)
            return out + _Gates.apply(weights, x.detach(), out.detach(), self, gates)
        outs = [weights[k] * self._ops[k](x) for k in computed if not isinstance(self._ops[k], Zero)]
        return sum(outs[1:], outs[0]) if outs else self._nothing(x)

    def only(self, x: Tensor, k: int) -> Tensor:
        """The output of candidate ``k`` alone, with weight 1."""
        return self._nothing(x) if isinstance(self._ops[k], Zero) else self._ops[k](x)

    def _nothing(self, x: Tensor) -> Tensor:
        height, width = (-(-side // self.stride) for side in x.shape[2:])
        return x.new_zeros(len(x), self.channels, height, width)
