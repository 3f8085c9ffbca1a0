"""mixed_sum on the GPU: three launches forward, three backward; the maths stands in contract.py.

Programs read tiles [BLOCK_P, BLOCK_C] of pixels × channels: many channels per tile in channels-last tensors,
one in contiguous ones, so that loads are coalesced in both. Reductions leave one partial result per chunk of
pixels and a second kernel adds these in a fixed order: no atomics, the same result every time. Sums are taken
in the accumulation dtype; moments are taken about the mean of the tensor's first tile and merged by Chan's
formula, hence safe for |mean| >> std. Sets of branches travel as bit masks (bit k: branch k); pixel numbers
are int32, offsets int64.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_CHUNKS = 64  # partial results per channel, a power of two
TILE = 1024  # elements of a tile
ACC_DTYPE = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.constexpr_function
def row_of(k, normalize):
    """The row of branch k in mean and var: how many normalised branches come before it."""
    return (int(normalize) & ((1 << k) - 1)).bit_count()


@triton.jit
def _offsets(p, c, C, S, LAST: tl.constexpr):
    """Offsets [BLOCK_P, BLOCK_C] of pixels p and channels c in a dense [N, C, S] or [N·S, C] tensor."""
    c = c.to(tl.int64)
    if LAST:
        o = p.to(tl.int64)[:, None] * C + c[None, :]
    else:
        o = ((p // S).to(tl.int64) * C * S + p % S)[:, None] + (c * S)[None, :]
    return o


@triton.jit
def _scale(weights, var, c, k: tl.constexpr, row: tl.constexpr, C, P, EPS: tl.constexpr, TRAINING: tl.constexpr):
    """w_k and r_k [BLOCK_C] of a normalised branch."""
    b_var = tl.load(var + row * C + c, mask=c < C, other=1.0)
    if TRAINING:
        b_var = b_var * (P - 1) / P  # stored unbiased
    return tl.load(weights + k), 1 / tl.sqrt(b_var + EPS)


@triton.jit
def moments_kernel(
    z, partial, C, S, P, step,
    NORMALIZE: tl.constexpr,
    LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """partial [B, 3, chunks, C]: a near the mean, mean − a and Σ (z − mean)², per chunk of `step` pixels."""
    i_chunk = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    lanes = tl.arange(0, BLOCK_P)
    start = i_chunk * step
    stop = tl.minimum(start + step, P)
    count = (stop - start).to(ACC)
    for k in tl.static_range(len(z)):
        if (NORMALIZE >> k) & 1:
            m_z = (lanes < P)[:, None] & (c < C)[None, :]
            b_z = tl.load(z[k] + _offsets(lanes, c, C, S, LAST), mask=m_z, other=0.0).to(ACC)
            about = tl.sum(b_z, 0) / tl.minimum(P, BLOCK_P)  # the same in every chunk
            first = tl.zeros([BLOCK_P, BLOCK_C], ACC)
            second = tl.zeros([BLOCK_P, BLOCK_C], ACC)
            for i_p in range(start, stop, BLOCK_P):
                m_z = (i_p + lanes < stop)[:, None] & (c < C)[None, :]
                b_z = tl.load(z[k] + _offsets(i_p + lanes, c, C, S, LAST), mask=m_z, other=0.0).to(ACC)
                d = tl.where(m_z, b_z - about[None, :], 0.0)
                first += d
                second += d * d
            shift = tl.sum(first, 0) / count
            p_about = partial + (row_of(k, NORMALIZE) * 3 * tl.num_programs(0) + i_chunk) * C + c
            p_shift = p_about + tl.num_programs(0) * C
            tl.store(p_about, about, mask=c < C)
            tl.store(p_shift, shift, mask=c < C)
            p_second = p_shift + tl.num_programs(0) * C
            tl.store(p_second, tl.sum(second, 0) - shift * shift * count, mask=c < C)


@triton.jit
def statistics_kernel(
    partial, mean, var, C, P, step, chunks,
    MAX_CHUNKS: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """mean and var (unbiased) [B, C] of one branch and BLOCK_C channels, from the moments of its chunks."""
    row = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    chunk = tl.arange(0, MAX_CHUNKS)
    m_chunk = (chunk < chunks)[:, None] & (c < C)[None, :]
    p_shift = partial + ((row * 3 + 1) * chunks + chunk)[:, None] * C + c[None, :]
    n = tl.where(m_chunk, tl.minimum(step, P - chunk * step).to(ACC)[:, None], 0.0)
    b_shift = tl.load(p_shift, mask=m_chunk, other=0.0)
    b_second = tl.load(p_shift + chunks * C, mask=m_chunk, other=0.0)
    about = tl.load(partial + row * 3 * chunks * C + c, mask=c < C, other=0.0)
    shift = tl.sum(n * b_shift, 0) / P
    d = b_shift - shift[None, :]
    tl.store(mean + row * C + c, about + shift, mask=c < C)
    tl.store(var + row * C + c, tl.sum(b_second + n * d * d, 0) / (P - 1), mask=c < C)


@triton.jit
def weighted_sum_kernel(
    z, weights, mean, var, out, C, S, P,
    NORMALIZE: tl.constexpr, TRAINING: tl.constexpr, EPS: tl.constexpr,
    LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """out = Σ_k w_k r_k (z_k − μ_k), one tile."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_z = (p < P)[:, None] & (c < C)[None, :]
    o_z = _offsets(p, c, C, S, LAST)
    acc = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    for k in tl.static_range(len(z)):
        b_z = tl.load(z[k] + o_z, mask=m_z, other=0.0).to(ACC)
        if (NORMALIZE >> k) & 1:
            b_w, b_r = _scale(weights, var, c, k, row_of(k, NORMALIZE), C, P, EPS, TRAINING)
            b_mean = tl.load(mean + row_of(k, NORMALIZE) * C + c, mask=c < C, other=0.0)
            acc += (b_w * b_r)[None, :] * (b_z - b_mean[None, :])
        else:
            acc += tl.load(weights + k) * b_z
    tl.store(out + o_z, acc.to(out.dtype.element_ty), mask=m_z)


@triton.jit
def gradient_sums_kernel(
    grad, z, mean, partial, C, S, P, step,
    NORMALIZE: tl.constexpr,
    LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """partial [1 + K, chunks, C]: Σ g in row 0, Σ g (z_k − μ_k) in row 1 + k, per chunk of `step` pixels."""
    i_chunk = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    lanes = tl.arange(0, BLOCK_P)
    start = i_chunk * step
    stop = tl.minimum(start + step, P)
    acc = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    for i_p in range(start, stop, BLOCK_P):
        m_z = (i_p + lanes < stop)[:, None] & (c < C)[None, :]
        acc += tl.load(grad + _offsets(i_p + lanes, c, C, S, LAST), mask=m_z, other=0.0).to(ACC)
    tl.store(partial + i_chunk * C + c, tl.sum(acc, 0), mask=c < C)
    for k in tl.static_range(len(z)):  # g is read again for every branch: a chunk of it fits the cache
        b_mean = tl.zeros([BLOCK_C], ACC)
        if (NORMALIZE >> k) & 1:
            b_mean = tl.load(mean + row_of(k, NORMALIZE) * C + c, mask=c < C, other=0.0)
        acc = tl.zeros([BLOCK_P, BLOCK_C], ACC)
        for i_p in range(start, stop, BLOCK_P):
            m_z = (i_p + lanes < stop)[:, None] & (c < C)[None, :]
            o_z = _offsets(i_p + lanes, c, C, S, LAST)
            b_z = tl.load(z[k] + o_z, mask=m_z, other=0.0).to(ACC)
            acc += tl.load(grad + o_z, mask=m_z, other=0.0).to(ACC) * (b_z - b_mean[None, :])
        p_row = partial + ((1 + k) * tl.num_programs(0) + i_chunk) * C
        tl.store(p_row + c, tl.sum(acc, 0), mask=c < C)


@triton.jit
def gradient_totals_kernel(
    partial, weights, var, sums, grad_weights, C, P, chunks,
    K: tl.constexpr, NORMALIZE: tl.constexpr, TRAINING: tl.constexpr, EPS: tl.constexpr,
    MAX_CHUNKS: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """sums [1 + K, C] (A, then B_k / r_k) over the chunks and grad_weights [K]; program i does row i."""
    i_row = tl.program_id(0)
    chunk = tl.arange(0, MAX_CHUNKS)
    for row in tl.static_range(1 + K):
        if i_row == row:
            total = tl.zeros([BLOCK_C], ACC)
            for i_c in range(0, C, BLOCK_C):
                c = i_c + tl.arange(0, BLOCK_C)
                m_chunk = (chunk < chunks)[:, None] & (c < C)[None, :]
                p_chunk = partial + (row * chunks + chunk)[:, None] * C + c[None, :]
                b_sum = tl.sum(tl.load(p_chunk, mask=m_chunk, other=0.0), 0)
                tl.store(sums + row * C + c, b_sum, mask=c < C)
                if row > 0 and ((2 * NORMALIZE) >> row) & 1:
                    _, b_r = _scale(weights, var, c, row - 1, row_of(row - 1, NORMALIZE), C, P, EPS, TRAINING)
                    b_sum *= b_r
                total += b_sum
            if row > 0:
                tl.store(grad_weights + row - 1, tl.sum(total, 0))


@triton.jit
def branch_gradients_kernel(
    grad, z, weights, mean, var, sums, grad_z, C, S, P,
    NORMALIZE: tl.constexpr, NEED: tl.constexpr, TRAINING: tl.constexpr, EPS: tl.constexpr,
    LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dL/dz_k of the branches in NEED, one tile."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_z = (p < P)[:, None] & (c < C)[None, :]
    o_z = _offsets(p, c, C, S, LAST)
    b_g = tl.load(grad + o_z, mask=m_z, other=0.0).to(ACC)
    for k in tl.static_range(len(z)):
        if (NEED >> k) & 1:
            b_dz = b_g * tl.load(weights + k)
            if (NORMALIZE >> k) & 1:
                b_w, b_r = _scale(weights, var, c, k, row_of(k, NORMALIZE), C, P, EPS, TRAINING)
                b_dz = b_g
                if TRAINING:
                    b_mean = tl.load(mean + row_of(k, NORMALIZE) * C + c, mask=c < C, other=0.0)
                    b_a = tl.load(sums + c, mask=c < C, other=0.0) / P
                    slope = b_r * b_r * tl.load(sums + (1 + k) * C + c, mask=c < C, other=0.0) / P
                    b_z = tl.load(z[k] + o_z, mask=m_z, other=0.0).to(ACC)
                    b_dz = (b_g - b_a[None, :]) - slope[None, :] * (b_z - b_mean[None, :])
                b_dz = (b_w * b_r)[None, :] * b_dz
            tl.store(grad_z[k] + o_z, b_dz.to(grad_z[k].dtype.element_ty), mask=m_z)


def _bits(flags: Sequence[bool]) -> int:
    return sum(bool(flag) << k for k, flag in enumerate(flags))


class _Launch:
    """Sizes, tiles and grids shared by the launches on tensors like `t`."""

    def __init__(self, t: Tensor, weights: Tensor):
        n, self.C, h, w = t.shape
        self.S = h * w
        self.P = n * self.S
        if self.P >= 2**30:
            raise ValueError(f"The Triton kernels take fewer than 2^30 values per channel, got {self.P}.")
        last = not t.is_contiguous()
        block_c = min(32, triton.next_power_of_2(self.C)) if last else 1
        self.tile = {
            "LAST": last,
            "BLOCK_P": TILE // block_c,
            "BLOCK_C": block_c,
            "ACC": ACC_DTYPE[weights.dtype],
        }
        self.reduce = {"MAX_CHUNKS": MAX_CHUNKS, "BLOCK_C": 16, "ACC": ACC_DTYPE[weights.dtype]}
        self.step = max(self.tile["BLOCK_P"], triton.cdiv(self.P, MAX_CHUNKS))
        self.chunks = triton.cdiv(self.P, self.step)
        blocks_c = triton.cdiv(self.C, block_c)
        self.chunk_grid = (self.chunks, blocks_c)
        self.tile_grid = (triton.cdiv(self.P, self.tile["BLOCK_P"]), blocks_c)


def forward(
    z: Sequence[Tensor],
    weights: Tensor,
    normalize: Sequence[bool],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launcher of the op `mixed_sum`."""
    at, z, weights, mask = _Launch(z[0], weights), tuple(z), weights.contiguous(), _bits(normalize)
    training = running_mean is None
    with torch.cuda.device_of(z[0]):
        if training:
            rows = sum(normalize)
            mean, var = weights.new_empty(rows, at.C), weights.new_empty(rows, at.C)
            if rows:
                partial = weights.new_empty(rows, 3, at.chunks, at.C)
                moments_kernel[at.chunk_grid](z, partial, at.C, at.S, at.P, at.step, NORMALIZE=mask, **at.tile)
                grid = (rows, triton.cdiv(at.C, at.reduce["BLOCK_C"]))
                statistics_kernel[grid](partial, mean, var, at.C, at.P, at.step, at.chunks, **at.reduce)
        else:
            mean, var = running_mean.clone(), running_var.clone()
        out = torch.empty_like(z[0])
        weighted_sum_kernel[at.tile_grid](
            z,
            weights,
            mean,
            var,
            out,
            at.C,
            at.S,
            at.P,
            NORMALIZE=mask,
            TRAINING=training,
            EPS=eps,
            **at.tile,
        )
    return out, mean, var


def backward(
    grad: Tensor,
    z: Sequence[Tensor],
    weights: Tensor,
    normalize: Sequence[bool],
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    need_z: Sequence[bool],
    need_weights: bool,
) -> tuple[list[Tensor], Tensor]:
    """Launcher of the op `mixed_sum_backward`."""
    at, z, weights, mask = _Launch(grad, weights), tuple(z), weights.contiguous(), _bits(normalize)
    flags = {"NORMALIZE": mask, "TRAINING": training, "EPS": eps}
    grad_weights = weights.new_empty(len(z))
    sums = weights.new_empty(1 + len(z), at.C)
    with torch.cuda.device_of(grad):
        if need_weights or (training and mask):
            partial = weights.new_empty(1 + len(z), at.chunks, at.C)
            gradient_sums_kernel[at.chunk_grid](
                grad, z, mean, partial, at.C, at.S, at.P, at.step, NORMALIZE=mask, **at.tile
            )
            gradient_totals_kernel[(1 + len(z),)](
                partial,
                weights,
                var,
                sums,
                grad_weights,
                at.C,
                at.P,
                at.chunks,
                K=len(z),
                **flags,
                **at.reduce,
            )
        grad_z = [torch.empty_like(z_k) if need else None for z_k, need in zip(z, need_z, strict=True)]
        if any(need_z):
            targets = tuple(grad if dz is None else dz for dz in grad_z)  # grad: a pointer never stored to
            branch_gradients_kernel[at.tile_grid](
                grad,
                z,
                weights,
                mean,
                var,
                sums,
                targets,
                at.C,
                at.S,
                at.P,
                NEED=_bits(need_z),
                **flags,
                **at.tile,
            )
    return [dz for dz in grad_z if dz is not None], grad_weights if need_weights else weights.new_empty(0)
