"""The arguments of the recurrent cell, validated, and its call."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts import kernels
from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import FLOATING, as_list, got, is_dense
from fastdarts.functional.mixed_op import check_eps


class Recurrent(NamedTuple):
    """Result of `recurrent`: all outputs, the last of which is the next hidden state, and the statistics to fold into
    the running ones."""

    out: Tensor
    mean: Tensor
    var: Tensor


def recurrent(
    inputs: Tensor,
    hidden: Tensor,
    weights: Sequence[Tensor],
    mixing: Tensor,
    *,
    mask: Tensor | None = None,
    eps: float = 1e-5,
    impl: str | None = None,
) -> Recurrent:
    """Compute the recurrent cell of the supernet over a sequence, in one op: nodes, activations and BatchNorms.

    [c | n] are the halves of a row, and h is the hidden state.

    - State 0 is ``BN(h + σ(c) (tanh n − h))`` with ``[c | n] = x_t + (mask h) W_0``.
    - Node i is ``BN(Σ_{j<i} P s_j + σ(c) (Σ_f p_f f(n) − P s_j))`` with ``[c | n] = (mask s_j) W_i`` and
      ``P = Σ_f p_f``. The f are tanh, ReLU, σ and the identity.
    - The output, and the next h, is the mean of the nodes.

    Gradients flow to inputs, hidden, weights and mixing, twice if asked (create_graph=True). The statistics get none.

    Args:
        inputs: x [T, B, 2H], floating point, what the tokens give to state 0.
        hidden: [B, H], h before the first time step.
        weights: W_0, W_1 … W_N, each [H, 2H].
        mixing: p [N (N + 1) / 2, 4], with row i (i − 1) / 2 + j for node i and state j. It is float32, or float64 for
            float64 inputs.
        mask: [B, H], multiplies what the products take; None drops nothing.
        eps: Added to the variances.
        impl: "native", "triton" or "reference" insists on an implementation. None takes the fastest that can run.

    Returns:
        ``out``, ``mean`` and ``var``. out is [T, B, H], and its last row is the next hidden state. mean and var
            [T, N + 1, H] are the statistics of the batch, var unbiased, in the dtype of mixing.

    Raises:
        FastdartsError: Arguments do not fit together.
        RuntimeError: ``impl`` cannot run.

    Source: Liu et al. 2019 (DARTS), section 3.1.2 and its public code.

    Examples:
        >>> import torch
        >>> from fastdarts.functional import recurrent
        >>> T, B, H = 5, 2, 4
        >>> weights = [torch.randn(H, 2 * H) for _ in range(3)]  # of state 0 and two nodes
        >>> mixing = torch.full((3, 4), 0.2)
        >>> recurrent(torch.randn(T, B, 2 * H), torch.zeros(B, H), weights, mixing).out.shape
        torch.Size([5, 2, 4])
    """
    if impl not in (None, *kernels.IMPLEMENTATIONS):
        raise FastdartsError(f"impl is {impl!r}: choose one of {', '.join(kernels.IMPLEMENTATIONS)} or None.")
    check_eps(eps)
    if not is_dense(hidden) or hidden.dim() != 2 or hidden.dtype not in FLOATING or not hidden.numel():
        found = f"{[*hidden.shape]} in {hidden.dtype}" if is_dense(hidden) else got(hidden)
        raise FastdartsError(f"hidden must be a non-empty, floating point tensor [B, H], got {found}.")
    batch, width = hidden.shape
    if batch == 1:
        raise FastdartsError("Batch statistics need two streams or more, got one: use a larger batch.")
    weights = as_list("weights", weights)
    if len(weights) < 2:
        raise FastdartsError(f"weights must be W_0 of state 0 and one for each node, got {len(weights)} of them.")
    nodes = len(weights) - 1
    if not is_dense(inputs) or inputs.dim() != 3 or not len(inputs):
        raise FastdartsError(
            f"inputs must be a tensor [T, {batch}, {2 * width}] of one time step or more, got {got(inputs)}."
        )
    _check(hidden, "inputs", inputs, (len(inputs), batch, 2 * width), hidden.dtype)
    for i, weight in enumerate(weights):
        _check(hidden, f"weight {i}", weight, (width, 2 * width), hidden.dtype)
    wide = torch.float64 if hidden.dtype is torch.float64 else torch.float32
    _check(hidden, "mixing", mixing, (nodes * (nodes + 1) // 2, 4), wide)
    if mask is not None:
        _check(hidden, "mask", mask, (batch, width), hidden.dtype)
        if mask.requires_grad:
            raise FastdartsError("mask requires a gradient, which recurrent does not compute: detach it.")
        mask = mask.contiguous()
    weights = [weight.contiguous() for weight in weights]
    return Recurrent(
        *kernels.recurrent(inputs.contiguous(), hidden.contiguous(), weights, mask, mixing.contiguous(), eps, impl)
    )


def _check(hidden: Tensor, name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if not is_dense(tensor):
        raise FastdartsError(f"{name} must be a tensor, got {got(tensor)}.")
    if tensor.shape != shape:
        raise FastdartsError(f"{name} must be {[*shape]}, as hidden is {[*hidden.shape]}, got {[*tensor.shape]}.")
    if tensor.dtype is not dtype or tensor.device != hidden.device:
        raise FastdartsError(
            f"{name} is {tensor.dtype} on {tensor.device}, expected {dtype} on {hidden.device}: convert it."
        )
