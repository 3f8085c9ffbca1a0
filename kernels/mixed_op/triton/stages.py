"""Stages of mixed_op: ReLU, depthwise k×k and 1×1 convolution in one kernel, the BatchNorm moments in its epilogue.

A second half of a separable convolution normalises what it reads on load. Depthwise outputs live in registers only. All
stages of a state are one launch: which kernel, dilation and weights a program has is data, read from a table.
"""

import triton
import triton.language as tl

from fastdarts.kernels.interleave.triton import position
from fastdarts.kernels.mixed_op.triton.tiles import (
    COUNT,
    DEPTHWISE,
    DILATION,
    FIELDS,
    FIRST,
    KERNEL,
    POINTWISE,
    RAW,
    READS,
    ROW,
    SHIFT,
    displacement,
    entry,
    inverse,
    pick,
    tap_weights,
    wide,
    window,
)


@triton.jit
def source(
    x, z, gain, offset, mean, var, stage, c, height, width, out_height, out_width, channels, M,
    STRIDE: tl.constexpr, EPS: tl.constexpr, TRAINING: tl.constexpr, HAS_OFFSET: tl.constexpr,
):  # fmt: skip
    """What a stage reads: map, its size, stride, and (mean, scale, offset) of the BatchNorm before its ReLU."""
    reads = tl.load(stage + READS)
    p_x, h, w, stride = x, height, width, STRIDE
    b_mean = tl.zeros([c.shape[0]], tl.float32)
    b_scale = tl.full([c.shape[0]], 1.0, tl.float32)
    b_offset = tl.zeros([c.shape[0]], tl.float32)
    if reads >= 0:
        row = tl.load(stage + ROW) - 1  # the middle row
        p_x, h, w, stride = pick(z, reads), out_height, out_width, 1
        b_mean = entry(mean, row, c, channels)
        b_scale = entry(gain, row, c, channels) * inverse(var, row, c, channels, M, EPS, TRAINING)
        if HAS_OFFSET:
            b_offset = entry(offset, row, c, channels)
    return p_x, h, w, stride, b_mean, b_scale, b_offset


@triton.jit
def read(p_x, b_mean, b_scale, b_offset, n, y, x_, c, height, width, channels, ok):
    """max(0, what a stage reads) at (n, y, x_), and 0 outside."""
    b_x, inside = window(p_x, n, y, x_, c, height, width, channels, ok)
    b_x = (b_x - b_mean[None, :]) * b_scale[None, :] + b_offset[None, :]
    return tl.where(inside, tl.where(b_x < 0, 0.0, b_x), 0.0)  # NaN stays NaN


@triton.jit
def depthwise(stage, weights, p_x, b_mean, b_scale, b_offset, n, y, x_, c, height, width, stride, channels, ok):
    """Depthwise output of a stage at output pixels (n, y, x_)."""
    kernel, dilation, shift = tl.load(stage + KERNEL), tl.load(stage + DILATION), tl.load(stage + SHIFT)
    p_w = pick(weights, tl.load(stage + DEPTHWISE))
    out = tl.zeros([n.shape[0], c.shape[0]], tl.float32)
    for tap in range(kernel * kernel):
        down, right = displacement(tap, kernel, dilation, shift)
        i, j = y * stride + down, x_ * stride + right
        b_x = read(p_x, b_mean, b_scale, b_offset, n, i, j, c, height, width, channels, ok)
        out += b_x * tap_weights(p_w, tap, kernel, c, channels)[None, :]
    return out


@triton.jit
def stages_kernel(
    x, weights, z, gain, offset, mean, var, partial, table,
    height, width, channels, out_height, out_width, outputs, P, step,
    STRIDE: tl.constexpr, EPS: tl.constexpr, TRAINING: tl.constexpr, HAS_OFFSET: tl.constexpr,
    MOMENTS: tl.constexpr, PRECISION: tl.constexpr, DOT: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """z of one stage, one chunk of `step` pixels; partial [R, 3, chunks, outputs]: its moments."""
    i_chunk = tl.program_id(0)
    stage = table + tl.program_id(2) * FIELDS
    first, count, row = tl.load(stage + FIRST), tl.load(stage + COUNT), tl.load(stage + ROW)
    p_w, p_z = pick(weights, tl.load(stage + POINTWISE)), pick(z, tl.load(stage + RAW))
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    begin = i_chunk * step
    end = tl.minimum(begin + step, P)
    about, shift, second = no_moments(BLOCK_O)
    for i_p in range(begin, end, BLOCK_P):
        p = i_p + tl.arange(0, BLOCK_P)
        n, y, x_ = position(p, out_height, out_width)
        acc = tl.zeros([BLOCK_P, BLOCK_O], tl.float32)
        for i_c in range(0, channels, BLOCK_C):
            c = i_c + tl.arange(0, BLOCK_C)
            p_x, h, w, stride, b_mean, b_scale, b_offset = source(
                x, z, gain, offset, mean, var, stage, c, height, width, out_height, out_width, channels, P,
                STRIDE, EPS, TRAINING, HAS_OFFSET,
            )  # fmt: skip
            b_d = depthwise(stage, weights, p_x, b_mean, b_scale, b_offset, n, y, x_, c, h, w, stride, channels, p < P)
            m_w = (c < channels)[:, None] & (o < count)[None, :]
            b_w = tl.load(p_w + o[None, :] * channels + c[:, None], mask=m_w, other=0.0)
            acc = product(b_d, b_w, acc, PRECISION, DOT)
        m_z = (p < end)[:, None] & (o < count)[None, :]
        o_z = p.to(tl.int64)[:, None] * outputs + first + o[None, :]
        tl.store(p_z + o_z, acc.to(p_z.dtype.element_ty), mask=m_z)
        if MOMENTS:
            about, shift, second = add_moments(about, shift, second, acc, m_z, i_p - begin, BLOCK_P, end - i_p)
    if MOMENTS:
        chunks = tl.num_programs(0)
        store_moments(about, shift, second, partial, row, i_chunk, chunks, first + o, o < count, outputs)


@triton.jit
def product(a, b, acc, PRECISION: tl.constexpr, DOT: tl.constexpr):
    """acc + a · b in the precision of the weights b, to which a is rounded as the published modules store it."""
    return tl.dot(a.to(b.dtype).to(DOT), b.to(DOT), acc, input_precision=PRECISION)


@triton.jit
def no_moments(BLOCK_C: tl.constexpr):
    """Moments of nothing: (a number near the mean, what is missing to the mean, Σ (value − mean)²). Means of chunks
    differ by little, and in one number each that would be lost."""
    zeros = tl.zeros([BLOCK_C], tl.float32)
    return zeros, zeros, zeros


@triton.jit
def add_moments(about, shift, second, values, mask, before, BLOCK_P: tl.constexpr, left):
    """Moments of `before` pixels and a tile of the next min(BLOCK_P, left) (Chan, Golub and LeVeque 1979)."""
    count = tl.minimum(BLOCK_P, left).to(tl.float32)
    about = tl.where(before > 0, about, tl.sum(tl.where(mask, values, 0.0), 0) / count)
    d = tl.where(mask, values - about[None, :], 0.0)
    own = tl.sum(d, 0) / count
    d = tl.where(mask, d - own[None, :], 0.0)
    apart, part = own - shift, count / (before + count)
    return about, shift + apart * part, second + tl.sum(d * d, 0) + apart * apart * part * before


@triton.jit
def store_moments(about, shift, second, partial, row, i_chunk, chunks, c, ok, channels):
    """Moments of a chunk into partial [R, 3, chunks, channels]."""
    p_partial = partial + wide(row * 3 * chunks + i_chunk) * channels + c
    plane = wide(chunks) * channels
    tl.store(p_partial, about, mask=ok)
    tl.store(p_partial + plane, shift, mask=ok)
    tl.store(p_partial + 2 * plane, second, mask=ok)


@triton.jit
def chunk_means(p_row, about, i_t, chunks, plane, c, channels, P, step, BLOCK_T: tl.constexpr):
    """Means of BLOCK_T chunks less `about`, their counts, their places in a plane of partial, and which there are."""
    t = i_t + tl.arange(0, BLOCK_T)
    m_t = (t < chunks)[:, None] & (c < channels)[None, :]
    o_t = t.to(tl.int64)[:, None] * channels
    b_about = tl.load(p_row + o_t, mask=m_t, other=0.0)
    b_shift = tl.load(p_row + plane + o_t, mask=m_t, other=0.0)
    return b_about - about[None, :] + b_shift, tl.minimum(step, P - t * step).to(tl.float32), o_t, m_t


@triton.jit
def statistics_kernel(
    partial, mean, var, rows, channels, P, step, chunks, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """mean and var (unbiased) of the rows in `rows` from the moments of their chunks, in order; 0 and 1 for ~row."""
    row = tl.load(rows + tl.program_id(0))
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    second = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    about = tl.zeros([BLOCK_C], tl.float32)
    plain = row < 0
    row = tl.where(plain, ~row, row)
    if not plain:
        plane = wide(chunks) * channels
        p_row = partial + row * 3 * plane + c[None, :]
        about = tl.load(partial + row * 3 * plane + c, mask=c < channels, other=0.0)
        for i_t in range(0, chunks, BLOCK_T):
            d, count, o_t, m_t = chunk_means(p_row, about, i_t, chunks, plane, c, channels, P, step, BLOCK_T)
            total += tl.where(m_t, d * count[:, None], 0.0)
        shift = tl.sum(total, 0) / P
        for i_t in range(0, chunks, BLOCK_T):
            d, count, o_t, m_t = chunk_means(p_row, about, i_t, chunks, plane, c, channels, P, step, BLOCK_T)
            d -= shift[None, :]
            b_second = tl.load(p_row + 2 * plane + o_t, mask=m_t, other=0.0)
            second += tl.where(m_t, b_second + count[:, None] * d * d, 0.0)
    b_var = tl.where(plain, 1.0, tl.sum(second, 0) / (P - 1))
    tl.store(mean + row * channels + c, about + tl.sum(total, 0) / P, mask=c < channels)
    tl.store(var + row * channels + c, b_var, mask=c < channels)
