"""Backward of the stages of mixed_op: dL/dz is formed on load and never stored, partial weight gradients per chunk.

t = dL/d(depthwise output), the only map that a stage stores here: its 3×3 to 7×7 neighbours are read by other programs.
"""

import triton
import triton.language as tl

from fastdarts.kernels.interleave.triton import position
from fastdarts.kernels.mixed_op.triton.mix import row_totals
from fastdarts.kernels.mixed_op.triton.noise import dropout_factors
from fastdarts.kernels.mixed_op.triton.stages import product, read, source
from fastdarts.kernels.mixed_op.triton.tiles import (
    COUNT,
    DEPTHWISE,
    DILATION,
    EDGE,
    FIELDS,
    FIRST,
    KERNEL,
    POINTWISE,
    RAW,
    ROW,
    SHIFT,
    displacement,
    entry,
    inverse,
    pick,
    pools,
    tap_weights,
    wide,
    window,
)

TAPS = tl.constexpr(49)


@triton.jit
def raw_gradient(
    b_g, b_z, gain, mean, var, dgain, doffset, row, c, channels, M, mask, TRAINING: tl.constexpr, EPS: tl.constexpr
):
    """dL/dz = gain ρ (g − doffset/M − ẑ dgain/M), or gain ρ g by running statistics; 0 where not `mask`."""
    b_r = inverse(var, row, c, channels, M, EPS, TRAINING)
    b_dz = b_g
    if TRAINING:
        b_a = entry(doffset, row, c, channels) / M
        b_b = b_r * entry(dgain, row, c, channels) / M
        b_dz = b_g - b_a[None, :] - (b_z - entry(mean, row, c, channels)[None, :]) * b_b[None, :]
    return tl.where(mask, (entry(gain, row, c, channels) * b_r)[None, :] * b_dz, 0.0)


@triton.jit
def stage_raw_gradient(
    stage, grad, z, gain, mean, var, dgain, doffset, p, o, outputs, P, ok, TRAINING: tl.constexpr, EPS: tl.constexpr
):
    """dL/dz of a stage at pixels p and its outputs o."""
    c = tl.load(stage + FIRST) + o
    mask = ok[:, None] & (o < tl.load(stage + COUNT))[None, :]
    o_z = p.to(tl.int64)[:, None] * outputs + c[None, :]
    b_g = tl.load(pick(grad, tl.load(stage + EDGE)) + o_z, mask=mask, other=0.0).to(tl.float32)
    b_z = tl.load(pick(z, tl.load(stage + RAW)) + o_z, mask=mask, other=0.0).to(tl.float32)
    row = tl.load(stage + ROW)
    return raw_gradient(b_g, b_z, gain, mean, var, dgain, doffset, row, c, outputs, P, mask, TRAINING, EPS)


@triton.jit
def stages_gradients_kernel(
    x, weights, z, grad, gain, offset, mean, var, sums, dgain, doffset, t, taps, products, table,
    height, width, channels, out_height, out_width, outputs, P, step,
    STRIDE: tl.constexpr, EPS: tl.constexpr, TRAINING: tl.constexpr, HAS_OFFSET: tl.constexpr,
    TOTALS: tl.constexpr, WEIGHTS: tl.constexpr, PRECISION: tl.constexpr, DOT: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """t of one stage, one chunk of pixels and BLOCK_C inputs, and the chunk's part of the weight gradients:
    taps [stages, chunks, TAPS, channels] and products [stages, chunks, outputs, channels]."""
    i_chunk, chunks, i_s = tl.program_id(0), tl.num_programs(0), tl.program_id(2)
    stage = table + i_s * FIELDS
    kernel, dilation, shift = tl.load(stage + KERNEL), tl.load(stage + DILATION), tl.load(stage + SHIFT)
    count = tl.load(stage + COUNT)
    if TOTALS:  # 64 parts of `sums` are added sooner than by a launch of its own; all programs write the same bits
        for i_o in range(0, outputs, 16):
            o = i_o + tl.arange(0, 16)
            row_totals(
                sums, tl.load(stage + ROW), False, var, dgain, doffset, o, outputs, P, chunks, TRAINING, EPS, 64, 16
            )
        tl.debug_barrier()
    p_w, p_taps_w = pick(weights, tl.load(stage + POINTWISE)), pick(weights, tl.load(stage + DEPTHWISE))
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    p_x, h, w, stride, b_mean, b_scale, b_offset = source(
        x, z, gain, offset, mean, var, stage, c, height, width, out_height, out_width, channels, P,
        STRIDE, EPS, TRAINING, HAS_OFFSET,
    )  # fmt: skip
    begin = i_chunk * step
    end = tl.minimum(begin + step, P)
    p_taps = taps + wide(i_s * chunks + i_chunk) * TAPS * channels + c
    p_products = products + wide(i_s * chunks + i_chunk) * outputs * channels
    for i_p in range(begin, end, BLOCK_P):
        p = i_p + tl.arange(0, BLOCK_P)
        n, y, x_ = position(p, out_height, out_width)
        acc = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        for i_o in range(0, count, BLOCK_O):
            o = i_o + tl.arange(0, BLOCK_O)
            b_dz = stage_raw_gradient(
                stage, grad, z, gain, mean, var, dgain, doffset, p, o, outputs, P, p < end, TRAINING, EPS
            )
            m_w = (o < count)[:, None] & (c < channels)[None, :]
            b_w = tl.load(p_w + o[:, None] * channels + c[None, :], mask=m_w, other=0.0)
            acc = product(b_dz, b_w, acc, PRECISION, DOT)
        m_t = (p < end)[:, None] & (c < channels)[None, :]
        p_t = t + (wide(i_s) * P + p)[:, None] * channels + c[None, :]
        tl.store(p_t, acc.to(t.dtype.element_ty), mask=m_t)
        if WEIGHTS:
            # Nobody else has these places of `taps` and `products`: no atomics, the same sums every time.
            later = i_p > begin
            b_d = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
            for tap in range(kernel * kernel):
                down, right = displacement(tap, kernel, dilation, shift)
                i, j = y * stride + down, x_ * stride + right
                b_x = read(p_x, b_mean, b_scale, b_offset, n, i, j, c, h, w, channels, p < end)
                b_d += b_x * tap_weights(p_taps_w, tap, kernel, c, channels)[None, :]
                if kernel > 1:
                    before = tl.load(p_taps + tap * channels, mask=(c < channels) & later, other=0.0)
                    tl.store(p_taps + tap * channels, before + tl.sum(acc * b_x, 0), mask=c < channels)
            b_d = b_d.to(x.dtype.element_ty)  # as the published modules store it
            for i_o in range(0, count, BLOCK_O):  # dz again, out of L1: kept, it would take the registers of the taps
                o = i_o + tl.arange(0, BLOCK_O)
                b_dz = stage_raw_gradient(
                    stage, grad, z, gain, mean, var, dgain, doffset, p, o, outputs, P, p < end, TRAINING, EPS
                )
                m_w = (o < count)[:, None] & (c < channels)[None, :]
                o_w = o[:, None] * channels + c[None, :]
                before = tl.load(p_products + o_w, mask=m_w & later, other=0.0)
                tl.store(p_products + o_w, product(tl.trans(b_dz), b_d, before, PRECISION, DOT), mask=m_w)
            tl.debug_barrier()  # the next tile's loads may be other threads' than these stores


@triton.jit
def weight_totals_kernel(
    depthwise_partial, pointwise_partial, dweights, table, channels, outputs, chunks,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The weight gradients of one stage: partial results added in the order of the chunks."""
    i_s = tl.program_id(1)
    stage = table + i_s * FIELDS
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(stage + COUNT)
    size = count * channels
    acc = tl.zeros([BLOCK], tl.float32)
    for chunk in range(chunks):
        p_chunk = pointwise_partial + wide(i_s * chunks + chunk) * outputs * channels
        acc += tl.load(p_chunk + i, mask=i < size, other=0.0)
    p_dw = pick(dweights, tl.load(stage + POINTWISE))
    tl.store(p_dw + i, acc.to(p_dw.dtype.element_ty), mask=i < size)
    taps = tl.load(stage + KERNEL) * tl.load(stage + KERNEL)
    if taps > 1:
        c, tap = i // taps, i % taps
        acc = tl.zeros([BLOCK], tl.float32)
        for chunk in range(chunks):
            p_chunk = depthwise_partial + wide(i_s * chunks + chunk) * TAPS * channels
            acc += tl.load(p_chunk + tap * channels + c, mask=c < channels, other=0.0)
        p_dw = pick(dweights, tl.load(stage + DEPTHWISE))
        tl.store(p_dw + i, acc.to(p_dw.dtype.element_ty), mask=c < channels)


@triton.jit
def depthwise_data(stage, i_s, weights, t, n, y, x_, c, out_height, out_width, channels, stride, P, ok):
    """dL/d(what a stage reads, after its ReLU) at (n, y, x_) of that map: the outputs whose windows it is in."""
    kernel, dilation, shift = tl.load(stage + KERNEL), tl.load(stage + DILATION), tl.load(stage + SHIFT)
    p_w = pick(weights, tl.load(stage + DEPTHWISE))
    p_t = t + wide(i_s) * P * channels
    out = tl.zeros([n.shape[0], c.shape[0]], tl.float32)
    for tap in range(kernel * kernel):
        down, right = displacement(tap, kernel, dilation, shift)
        i, j = y - down, x_ - right
        meets = ok & (i >= 0) & (j >= 0) & (i % stride == 0) & (j % stride == 0)
        b_t, _ = window(p_t, n, i // stride, j // stride, c, out_height, out_width, channels, meets)
        out += b_t * tap_weights(p_w, tap, kernel, c, channels)[None, :]
    return out


@triton.jit
def middle_gradients_kernel(
    x, weights, z, middle, gain, offset, mean, var, t, partial, table,
    height, width, channels, out_height, out_width, P, step,
    EPS: tl.constexpr, TRAINING: tl.constexpr, HAS_OFFSET: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dL/d(normalised middle) of separable convolution i: middle[i], and its sums, partial [R, 2, chunks, channels]."""
    i_chunk, chunks, i_s = tl.program_id(0), tl.num_programs(0), tl.program_id(2)
    stage = table + i_s * FIELDS
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    p_x, _h, _w, _stride, b_mean, b_scale, b_offset = source(
        x, z, gain, offset, mean, var, stage, c, height, width, out_height, out_width, channels, P,
        1, EPS, TRAINING, HAS_OFFSET,
    )  # fmt: skip
    p_middle = pick(middle, i_s)
    begin = i_chunk * step
    end = tl.minimum(begin + step, P)
    first = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    second = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for i_p in range(begin, end, BLOCK_P):
        p = i_p + tl.arange(0, BLOCK_P)
        n, y, x_ = position(p, out_height, out_width)
        mask = (p < end)[:, None] & (c < channels)[None, :]
        o_z = p.to(tl.int64)[:, None] * channels + c[None, :]
        b_d = tl.load(p_x + o_z, mask=mask, other=0.0).to(tl.float32) - b_mean[None, :]
        b_g = depthwise_data(stage, i_s, weights, t, n, y, x_, c, out_height, out_width, channels, 1, P, p < end)
        b_g = tl.where(mask & ~(b_d * b_scale[None, :] + b_offset[None, :] <= 0), b_g, 0.0)  # NaN passes
        tl.store(p_middle + o_z, b_g.to(p_middle.dtype.element_ty), mask=mask)
        first += b_g
        second += b_g * b_d
    p_partial = partial + ((tl.load(stage + ROW) - 1) * 2 * chunks + i_chunk).to(tl.int64) * channels + c
    tl.store(p_partial, tl.sum(first, 0), mask=c < channels)
    tl.store(p_partial + wide(chunks) * channels, tl.sum(second, 0), mask=c < channels)


@triton.jit
def pool_gradients_kernel(
    x, grad, gain, mean, var, dgain, doffset, dmax, davg, which, pooled,
    height, width, channels, out_height, out_width, P, rows, MAX: tl.constexpr,
    STRIDE: tl.constexpr, EPS: tl.constexpr, TRAINING: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dL/d(maximum), dL/d(sum of the window) and which pixel is the maximum, over all edges."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    n, y, x_ = position(p, out_height, out_width)
    mask = (p < P)[:, None] & (c < channels)[None, :]
    o_z = p.to(tl.int64)[:, None] * channels + c[None, :]
    b_max, b_avg, b_which = pools(x, n, y, x_, c, height, width, channels, p < P, STRIDE)
    b_dmax = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    b_davg = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for i in range(rows):
        row, is_max = tl.load(pooled + 3 * i), tl.load(pooled + 3 * i + 1) == MAX
        b_g = tl.load(pick(grad, tl.load(pooled + 3 * i + 2)) + o_z, mask=mask, other=0.0).to(tl.float32)
        b_z = tl.where(is_max, b_max, b_avg)
        b_dz = raw_gradient(b_g, b_z, gain, mean, var, dgain, doffset, row, c, channels, P, mask, TRAINING, EPS)
        b_dmax += tl.where(is_max, b_dz, 0.0)
        b_davg += tl.where(is_max, 0.0, b_dz)
    i, j = y * STRIDE, x_ * STRIDE
    across = tl.minimum(i + 1, height - 1) - tl.maximum(i - 1, 0) + 1
    along = tl.minimum(j + 1, width - 1) - tl.maximum(j - 1, 0) + 1
    tl.store(dmax + o_z, b_dmax, mask=mask)
    tl.store(davg + o_z, b_davg / (across * along).to(tl.float32)[:, None], mask=mask)
    tl.store(which + o_z, b_which.to(tl.int8), mask=mask)


@triton.jit
def state_gradient_kernel(
    x, weights, grad, gain, t, dmax, davg, which, dx, table, skips, seeds,
    height, width, channels, out_height, out_width, P, pixels, stages, skip_rows,
    STRIDE: tl.constexpr, POOLS: tl.constexpr, DRAWS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dL/dx: through the ReLU of all first stages, the pools and the skip connections."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    n, y, x_ = position(p, height, width)
    ok = p < pixels
    mask = ok[:, None] & (c < channels)[None, :]
    o_x = p.to(tl.int64)[:, None] * channels + c[None, :]
    acc = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for i_s in range(stages):
        stage = table + i_s * FIELDS
        acc += depthwise_data(stage, i_s, weights, t, n, y, x_, c, out_height, out_width, channels, STRIDE, P, ok)
    acc = tl.where(tl.load(x + o_x, mask=mask, other=0.0).to(tl.float32) <= 0, 0.0, acc)  # NaN passes, as in PyTorch
    for i in range(skip_rows):
        b_g = tl.load(pick(grad, tl.load(skips + 3 * i + 1)) + o_x, mask=mask, other=0.0).to(tl.float32)
        if DRAWS:
            seed = tl.load(skips + 3 * i + 2)
            if seed >= 0:
                b_g *= dropout_factors(seeds, seed, o_x)
        acc += entry(gain, tl.load(skips + 3 * i), c, channels)[None, :] * b_g
    if POOLS:
        for tap in range(9):
            row, column = y + 1 - tap // 3, x_ + 1 - tap % 3
            meets = ok & (row >= 0) & (column >= 0) & (row % STRIDE == 0) & (column % STRIDE == 0)
            o_y, o_x_ = row // STRIDE, column // STRIDE
            b_avg, inside = window(davg, n, o_y, o_x_, c, out_height, out_width, channels, meets)
            b_max, inside = window(dmax, n, o_y, o_x_, c, out_height, out_width, channels, meets)
            b_which, inside = window(which, n, o_y, o_x_, c, out_height, out_width, channels, meets)
            acc += b_avg + tl.where(inside & (b_which == tap), b_max, 0.0)
    tl.store(dx + o_x, acc.to(dx.dtype.element_ty), mask=mask)
