"""interleave: channels that bypass a mixed operation, put back between those that it has computed (partial channels).

Of the C = K·C' channels of x only the first C' enter the mixed operations of the edges, which give m_e. All others go
past them, through a 2×2 maximum where the edges stride, and a shuffle spreads both over the output. With y = x, at
stride 2 the maxima of 2×2 pixels of x, and for i = 0 … C'−1, j = 1 … K−1 (maps are indexed by channel):

    out_e[iK] = base_e[iK] + m_e[i]     out_e[iK + j] = base_e[iK + j] + β_e y[jC' + i]

    dm_e[i] = g_e[iK]     dL/dy[jC' + i] = Σ_e β_e g_e[iK + j]     dL/dβ_e = Σ g_e[iK + j] y[jC' + i]

g_e is the gradient of out_e. dx is zero in the first C' channels: their gradient comes from the mixed operations.
A maximum goes to the first pixel that has it, and a NaN is one.

Xu et al. 2020 (PC-DARTS), section 3.2 and the channel shuffle of its public code; β is its edge normalisation, 3.3.

Shapes: x [N, C, H, W], m_e [N, C', H', W'], base_e and out_e [N, C, H', W'] with H' = H/stride, all channels-last;
beta [E], in float32 where x is of half precision. H and W are even at stride 2.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.kernels.registry import define, rounded

LAST = torch.channels_last
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _forward(x: Tensor, m: Sequence[Tensor], base: Sequence[Tensor], beta: Tensor, stride: int) -> list[Tensor]:
    n, channels, *size = m[0].shape
    y = x[:, channels:]
    y = F.max_pool2d(y, 2) if stride == 2 else y
    out = []
    for e, m_e in enumerate(m):
        both = torch.cat([m_e, (beta[e] * y).to(x.dtype)], 1).view(n, -1, channels, *size)
        both = both.transpose(1, 2).reshape(n, -1, *size)
        out.append((base[e] + both if base else both).contiguous(memory_format=LAST))
    return out


def _forward_fake(x, m, base, beta, stride):
    n, channels, height, width = x.shape
    size = (n, channels, height // stride, width // stride)
    return [x.new_empty(size).to(memory_format=LAST) for _ in m]


def _backward(
    grad: Sequence[Tensor], x: Tensor, beta: Tensor, partial: int, stride: int, need_x: bool, need_beta: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Differentiable in grad, x and beta; what is not wanted is empty."""
    n, channels, *size = grad[0].shape
    parts = [g.reshape(n, -1, partial, *size).transpose(1, 2) for g in grad]  # [N, K, C', H', W']
    y = x[:, channels // partial :]
    if stride == 2:
        y, index = F.max_pool2d(y, 2, return_indices=True)
    past = [part[:, 1:].flatten(1, 2) for part in parts]
    wide = y.to(beta.dtype)
    dbeta = [(p * wide).sum(dtype=torch.float64).to(beta.dtype) for p in past] if need_beta else []
    dx = x.new_empty(0)
    if need_x:
        dy = sum(beta[e] * p.to(beta.dtype) for e, p in enumerate(past)).to(x.dtype)
        if stride == 2:
            dy = dy.new_zeros(x[:, : dy.shape[1]].flatten(2).shape).scatter(2, index.flatten(2), dy.flatten(2))
        head = dy.new_zeros(n, channels // partial, *x.shape[2:])
        dx = torch.cat([head, dy.view(n, -1, *x.shape[2:])], 1).contiguous(memory_format=LAST)
    dm = [part[:, 0].contiguous(memory_format=LAST) for part in parts]
    return dm, dx, torch.stack(dbeta) if need_beta else beta.new_empty(0)


def _backward_fake(grad, x, beta, partial, stride, need_x, need_beta):
    n, channels, *size = grad[0].shape
    return (
        [x.new_empty(n, channels // partial, *size).to(memory_format=LAST) for _ in grad],
        x.new_empty(x.shape).to(memory_format=LAST) if need_x else x.new_empty(0),
        beta.new_empty(len(grad) if need_beta else 0),
    )


forward_op = define(
    "interleave(Tensor x, Tensor[] m, Tensor[] base, Tensor beta, int stride) -> Tensor[] out",
    _forward,
    _forward_fake,
    triton=".interleave.triton:forward",
    gpu_dtypes=TRITON_DTYPES,
    narrow=lambda dtype, *out: rounded([*out], dtype),
)
backward_op = define(
    "interleave_backward(Tensor[] grad, Tensor x, Tensor beta, int partial, int stride, bool need_x, bool need_beta)"
    " -> (Tensor[] dm, Tensor dx, Tensor dbeta)",
    _backward,
    _backward_fake,
    triton=".interleave.triton:backward",
    gpu_dtypes=TRITON_DTYPES,
    narrow=lambda dtype, dm, dx, dbeta: (rounded(dm, dtype), dx.to(dtype), dbeta),
)
