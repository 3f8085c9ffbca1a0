"""likelihood: the cross entropy of a linear classifier, without logits, their logarithms and gradients of all samples.

With l = x Wᵀ + b [M, V], P its softmax by rows and Y one where v = y_m, else zero:

    loss = mean_m (log Σ_v exp l_mv − l_{m,y_m})
    dx = (g/M) (P − Y) W     dW = (g/M) (P − Y)ᵀ x     db = (g/M) Σ_m (P − Y)_m

P − Y is computed in place of l, ROWS of x at a time while they are in cache, and is all that is kept for backward: a
third of what log_softmax and its gradient take. Without gradients not even that. It is bound by its three products,
which are torch's, on every device: there is nothing to gain by a kernel of its own.

Shapes: x [M, H], weight [V, H], bias [V], target [M] in 0 … V−1; the loss has no dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional import needs_grad
from fastdarts.functional.arguments import FLOATING, got, is_dense

ROWS = 256


class _Likelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx, keep, x, weight, bias, target):
        kept = x.new_empty(len(x) if keep else min(ROWS, len(x)), len(weight))
        logits, turned, total = x.new_empty(min(ROWS, len(x)), len(weight)), weight.t(), 0
        for start in range(0, len(x), ROWS):
            part, chosen = x[start : start + ROWS], target[start : start + ROWS, None]
            p = kept[start if keep else 0 :][: len(part)]
            torch.log_softmax(torch.addmm(bias, part, turned, out=logits[: len(part)]), 1, out=p)
            at_target = p.gather(1, chosen)
            total = total - at_target.sum(dtype=torch.float64)
            if keep:
                p.exp_().scatter_(1, chosen, at_target.expm1())
        ctx.save_for_backward(x, weight, bias, target, kept if keep else None)
        return (total / len(x)).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, weight, bias, target, p = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = (
            need and needs_grad(ctx, last, 1) for need, last in zip(ctx.needs_input_grad[1:], (4, 3, 2, 1), strict=True)
        )
        if torch.is_grad_enabled():  # create_graph=True: P is a constant to the second differentiation
            with torch.enable_grad():
                # views stop the first differentiation here: x may come from weight, as where the embedding shares it
                x, weight, bias = (t.view_as(t) for t in (x, weight, bias))
                loss = F.cross_entropy(F.linear(x, weight, bias), target)
                needs = [t for t, need in ((x, need_x), (weight, need_weight), (bias, need_bias)) if need]
                found = iter(torch.autograd.grad(loss, needs, grad, create_graph=True))
            return None, *(next(found) if need else None for need in (need_x, need_weight, need_bias)), None
        share = grad / len(x)
        dx = (p @ weight).mul_(share) if need_x else None
        dweight = (p.t() @ x).mul_(share) if need_weight else None
        dbias = p.sum(0).mul_(share) if need_bias else None
        return None, dx, dweight, dbias, None


def likelihood(x: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    """The mean of log Σ_v exp(l_v) − l_target with l = x weightᵀ + bias: the negative log likelihood, in nats.

    The numbers of cross_entropy(linear(x, weight, bias), target) up to rounding, with a third of the memory; twice
    differentiable.

    x: [M, H], floating point; weight: [V, H]; bias: [V]; target: int64 [M], each from 0 to V − 1

    Raises FastdartsError for arguments that do not fit together; as in PyTorch, IndexError or RuntimeError for a target
    that is no word.
    """
    for name, t, dimensions in (("x", x, 2), ("weight", weight, 2), ("bias", bias, 1), ("target", target, 1)):
        if not is_dense(t) or t.dim() != dimensions or not t.numel():
            raise FastdartsError(f"{name} must be a non-empty tensor of {dimensions} dimensions, got {got(t)}.")
    expected = {"weight": (len(weight), x.shape[1]), "bias": (len(weight),), "target": (len(x),)}
    for name, t in (("weight", weight), ("bias", bias), ("target", target)):
        if t.shape != expected[name]:
            raise FastdartsError(f"{name} must be {[*expected[name]]}, as x is {[*x.shape]}, got {[*t.shape]}.")
    if x.dtype not in FLOATING or not x.dtype is weight.dtype is bias.dtype or target.dtype is not torch.int64:
        dtypes = ", ".join(str(t.dtype) for t in (x, weight, bias, target))
        raise FastdartsError(f"x, weight and bias must be of one floating point dtype, target int64, got {dtypes}.")
    if len({t.device for t in (x, weight, bias, target)}) > 1:
        devices = ", ".join(str(t.device) for t in (x, weight, bias, target))
        raise FastdartsError(f"x, weight, bias and target must be on one device, got {devices}.")
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias))
    return _Likelihood.apply(keep, x.contiguous(), weight, bias, target)
