"""The arguments of the loss of a language model, validated, and its call."""

import torch
from torch import Tensor

from fastdarts import kernels
from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import FLOATING, got, is_dense


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
    return kernels.likelihood(x.contiguous(), weight, bias, target)
