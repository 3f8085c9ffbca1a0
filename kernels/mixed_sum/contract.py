"""mixed_sum: the output of one edge, the weighted sum of its normalised candidates.

With z_k the raw output of candidate k, μ_k and σ²_k its batch statistics per channel (or the running ones),
M = N·H·W, r_k = 1/√(σ²_k + eps) and ẑ_k = (z_k − μ_k) r_k (μ = 0, r = 1 where a branch is not normalised):

    out = Σ_k w_k ẑ_k

    A = Σ g     B_k = Σ g ẑ_k     per channel, one pass over g and z
    dL/dw_k = Σ_c B_k             dL/dz_k = w_k r_k (g − A/M − ẑ_k B_k/M)     (batch statistics)
                                  dL/dz_k = w_k r_k g                         (running statistics, or none)

Affine-free batch normalisation: Ioffe and Szegedy 2015, section 3; the mixed operation: Liu et al. 2019
(DARTS), equation 2.

Shapes: z_k and out [N, C, H, W], weights [K], mean and var [B, C] with one row per normalised branch. `var`
is the unbiased estimate, as running statistics want it. Statistics and weights are in the accumulation dtype:
float64 for float64, else float32.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.kernels.registry import define, select

AXES = (0, 2, 3)


def _forward(
    z: Sequence[Tensor],
    weights: Tensor,
    normalize: Sequence[bool],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    training = running_mean is None
    if training:
        mean = weights.new_zeros(sum(normalize), z[0].shape[1])
        var = torch.ones_like(mean)
    else:
        mean, var = running_mean.clone(), running_var.clone()
    rows = zip(mean, var, strict=True)
    out = None
    for z_k, w_k, normalized in zip(z, weights, normalize, strict=True):
        z_k = z_k.to(weights.dtype)
        if normalized:  # momentum 1 leaves the statistics of this very batch in the two rows
            z_k = F.batch_norm(z_k, *next(rows), training=training, momentum=1.0, eps=eps)
        out = z_k * w_k if out is None else out.add_(z_k * w_k)
    return out.to(z[0].dtype), mean, var


def _forward_fake(z, weights, normalize, running_mean, running_var, eps):
    mean = weights.new_empty(sum(normalize), z[0].shape[1])
    return torch.empty_like(z[0]), mean, torch.empty_like(mean)


def _backward(
    grad: Tensor,
    z: Sequence[Tensor],
    weights: Tensor,
    normalize: Sequence[bool],
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    eps: float,
    need_z: Sequence[bool],
    need_weights: bool,
) -> tuple[list[Tensor], Tensor]:
    """Gradients of the wanted branches only; differentiable in grad, z and weights if mean and var are None.

    Statistics given as tensors are constants to a second differentiation: silently wrong in training.
    """
    count = grad.numel() // grad.shape[1]
    wide = grad.to(weights.dtype)
    centred = wide - wide.mean(AXES, keepdim=True)
    grad_z, grad_weights, row = [], [], 0
    for z_k, w_k, normalized, need in zip(z, weights, normalize, need_z, strict=True):
        zhat, dz = z_k.to(weights.dtype), wide * w_k if need else None
        if normalized:
            if mean is None:
                var_k, mean_k = torch.var_mean(zhat, AXES, correction=0, keepdim=True)
            else:
                mean_k, var_k = mean[row].view(1, -1, 1, 1), var[row].view(1, -1, 1, 1)
                var_k = var_k * ((count - 1) / count) if training else var_k
            row += 1
            r_k = torch.rsqrt(var_k + eps)
            zhat = (zhat - mean_k) * r_k
        if need_weights:
            grad_weights.append((wide * zhat).sum())
        if need and normalized and training:
            dz = (w_k * r_k) * torch.addcmul(centred, zhat, (wide * zhat).mean(AXES, keepdim=True), value=-1)
        elif need and normalized:
            dz = dz * r_k
        if need:
            grad_z.append(dz.to(z_k.dtype))
    return grad_z, torch.stack(grad_weights) if need_weights else weights.new_empty(0)


def _backward_fake(grad, z, weights, normalize, mean, var, training, eps, need_z, need_weights):
    grad_z = [torch.empty_like(z_k) for z_k, need in zip(z, need_z, strict=True) if need]
    return grad_z, weights.new_empty(len(z) if need_weights else 0)


forward_op = define(
    "mixed_sum(Tensor[] z, Tensor weights, bool[] normalize, Tensor? running_mean, Tensor? running_var,"
    " float eps) -> (Tensor out, Tensor mean, Tensor var)",
    _forward,
    _forward_fake,
    triton=".mixed_sum.triton:forward",
)
backward_op = define(
    "mixed_sum_backward(Tensor grad, Tensor[] z, Tensor weights, bool[] normalize, Tensor mean, Tensor var,"
    " bool training, float eps, bool[] need_z, bool need_weights) -> (Tensor[] grad_z, Tensor grad_weights)",
    _backward,
    _backward_fake,
    triton=".mixed_sum.triton:backward",
)


class _MixedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, impl, normalize, eps, running_mean, running_var, weights, *z):
        device, dtype = z[0].device.type, z[0].dtype
        run = select(forward_op, impl, device, dtype)
        out, mean, var = run(z, weights, normalize, running_mean, running_var, eps)
        ctx.run = select(backward_op, impl, device, dtype)
        ctx.normalize, ctx.eps, ctx.training = normalize, eps, running_mean is None
        ctx.save_for_backward(weights, mean, var, *z)
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        return out, mean, var

    @staticmethod
    def backward(ctx, grad, *_):
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        weights, mean, var, *z = ctx.saved_tensors
        _, _, _, _, _, need_weights, *need_z = ctx.needs_input_grad
        run = ctx.run
        if torch.is_grad_enabled():  # create_graph=True: a kernel would be a constant to the second differentiation
            run = backward_op.reference
            if ctx.training:
                mean = var = None
        grad = grad.contiguous(memory_format=memory_format(z[0]))
        grad_z, grad_weights = run(
            grad, z, weights, ctx.normalize, mean, var, ctx.training, ctx.eps, need_z, need_weights
        )
        wanted = iter(grad_z)
        return (
            *(None,) * 5,
            grad_weights if need_weights else None,
            *(next(wanted) if need else None for need in need_z),
        )


def memory_format(tensor: Tensor) -> torch.memory_format:
    """The format the kernels see in `tensor`: channels-last if it is that and not contiguous as well."""
    if tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def mixed_sum(
    z: Sequence[Tensor],
    weights: Tensor,
    normalize: Sequence[bool],
    running: tuple[Tensor, Tensor] | None,
    eps: float,
    impl: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The differentiable op; fastdarts.functional has validated and brought z to one dtype and format."""
    return _MixedSum.apply(impl, normalize, eps, *(running or (None, None)), weights, *z)
