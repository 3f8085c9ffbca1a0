"""How a candidate of an edge is taken apart for the fused kernels, and when it must not be."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.functional import mixed_sum, runs_natively, sep_conv
from fastdarts.operations import DilConv, FactorizedReduce, ReLUConvBN, SepConv


def split(op: nn.Module) -> tuple[Callable[[Tensor], Tensor], nn.BatchNorm2d] | None:
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
    return None if any(map(watched, (op, inner, bn))) else (body, bn)


def takes_any_format(body: Callable[[Tensor], Tensor] | list[nn.Module]) -> bool:
    """Whether `body` is made of modules known to work in channels-last: a custom one may call view()."""
    return callable(body) or all(type(layer).__module__.startswith("torch.nn.modules.") for layer in body)


def watched(module: nn.Module) -> bool:
    """Whether calling ``module`` does more than its class's forward: it has hooks, or a forward set on the instance."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in module.__dict__


def run(body: Callable[[Tensor], Tensor] | list[nn.Module], x: Tensor) -> Tensor:
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
    if [*map(type, layers)] != [nn.ReLU, nn.Conv2d, nn.Conv2d] or any(map(watched, layers)):
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


def normalise_and_sum(branches: list[Tensor], weights: Tensor, norms: list[nn.BatchNorm2d | None]) -> Tensor:
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
