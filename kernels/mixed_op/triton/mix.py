"""The epilogue of mixed_op: moments of the pools, the weighted sums of all edges, and the sums of their backward."""

import triton
import triton.language as tl

from fastdarts.kernels.interleave.triton import position
from fastdarts.kernels.mixed_op.triton.noise import dropout_factors, standard_normal
from fastdarts.kernels.mixed_op.triton.stages import add_moments, no_moments, store_moments
from fastdarts.kernels.mixed_op.triton.tiles import entry, inverse, pick, pools, wide, window

# of a final row, in the table of finals
KIND, ROW, RAW, FIELDS = map(tl.constexpr, range(4))
CONV, SKIP, MAX, AVG, NOISE, DROPPED = map(tl.constexpr, range(6))


@triton.jit
def pool_moments_kernel(
    x, partial, pooled, height, width, channels, out_height, out_width, P, step, rows, MAX: tl.constexpr,
    STRIDE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Moments of both pools, for every row of `pooled` = (row, kind, edge), into partial [R, 3, chunks, channels]."""
    i_chunk, chunks = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin = i_chunk * step
    end = tl.minimum(begin + step, P)
    max_about, max_shift, max_second = no_moments(BLOCK_C)
    avg_about, avg_shift, avg_second = no_moments(BLOCK_C)
    for i_p in range(begin, end, BLOCK_P):
        p = i_p + tl.arange(0, BLOCK_P)
        n, y, x_ = position(p, out_height, out_width)
        b_max, b_avg, _which = pools(x, n, y, x_, c, height, width, channels, p < end, STRIDE)
        mask = (p < end)[:, None] & (c < channels)[None, :]
        done, left = i_p - begin, end - i_p
        max_about, max_shift, max_second = add_moments(
            max_about, max_shift, max_second, b_max, mask, done, BLOCK_P, left
        )
        avg_about, avg_shift, avg_second = add_moments(
            avg_about, avg_shift, avg_second, b_avg, mask, done, BLOCK_P, left
        )
    for i in range(rows):
        row, is_max = tl.load(pooled + 3 * i), tl.load(pooled + 3 * i + 1) == MAX
        about, shift = tl.where(is_max, max_about, avg_about), tl.where(is_max, max_shift, avg_shift)
        second = tl.where(is_max, max_second, avg_second)
        store_moments(about, shift, second, partial, row, i_chunk, chunks, c, c < channels, channels)


@triton.jit
def final(z, seeds, i, finals, b_max, b_avg, b_x, o_z, mask, DRAWS: tl.constexpr):
    """Raw values of the final row i."""
    kind = tl.load(finals + i * FIELDS + KIND)
    b_z = b_x
    if kind == CONV:
        b_z = tl.load(pick(z, tl.load(finals + i * FIELDS + RAW)) + o_z, mask=mask, other=0.0).to(tl.float32)
    if kind == MAX:
        b_z = b_max
    if kind == AVG:
        b_z = b_avg
    if DRAWS:  # at compile time, what follows at run time
        if kind == NOISE:
            b_z = standard_normal(seeds, tl.load(finals + i * FIELDS + RAW), o_z)
        if kind == DROPPED:
            b_z = b_x * dropout_factors(seeds, tl.load(finals + i * FIELDS + RAW), o_z)
    return b_z, kind


@triton.jit
def state_values(
    x, n, y, x_, c, height, width, channels, ok,
    STRIDE: tl.constexpr, POOLS: tl.constexpr, SKIPS: tl.constexpr,
):  # fmt: skip
    """(maximum, average, state itself) at output pixels; zeros for what no row needs."""
    b_x = tl.zeros([n.shape[0], c.shape[0]], tl.float32)
    b_max, b_avg = b_x, b_x
    if POOLS:
        b_max, b_avg, _ = pools(x, n, y, x_, c, height, width, channels, ok, STRIDE)
    if SKIPS:
        b_x, _ = window(x, n, y, x_, c, height, width, channels, ok)
    return b_max, b_avg, b_x


@triton.jit
def mix_kernel(
    x, z, base, out, gain, offset, mean, var, seeds, finals, starts,
    height, width, channels, out_height, out_width, outputs, P,
    STRIDE: tl.constexpr, POOLS: tl.constexpr, SKIPS: tl.constexpr, DRAWS: tl.constexpr,
    BASES: tl.constexpr, HAS_OFFSET: tl.constexpr, TRAINING: tl.constexpr, EPS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out_e = base_e + Σ over its rows of (gain (z − μ) / √(σ² + eps) + offset), one tile of all edges; the first ones
    have a base."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    n, y, x_ = position(p, out_height, out_width)
    mask = (p < P)[:, None] & (c < outputs)[None, :]
    o_z = p.to(tl.int64)[:, None] * outputs + c[None, :]
    b_max, b_avg, b_x = state_values(x, n, y, x_, c, height, width, channels, p < P, STRIDE, POOLS, SKIPS)
    for e in tl.static_range(len(out)):
        acc = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        if e < BASES:
            acc = tl.load(base[e] + o_z, mask=mask, other=0.0).to(tl.float32)
        for i in range(tl.load(starts + e), tl.load(starts + e + 1)):
            b_z, kind = final(z, seeds, i, finals, b_max, b_avg, b_x, o_z, mask, DRAWS)
            row = tl.load(finals + i * FIELDS + ROW)
            scale = entry(gain, row, c, outputs)
            if (kind != SKIP) & (kind < NOISE):
                scale *= inverse(var, row, c, outputs, P, EPS, TRAINING)
                b_z -= entry(mean, row, c, outputs)[None, :]
            acc += scale[None, :] * b_z
            if HAS_OFFSET:
                acc += entry(offset, row, c, outputs)[None, :]
        tl.store(out[e] + o_z, acc.to(out[e].dtype.element_ty), mask=mask)


@triton.jit
def gradient_sums_kernel(
    x, z, grad, mean, seeds, partial, finals, starts,
    height, width, channels, out_height, out_width, outputs, P, step,
    STRIDE: tl.constexpr, DRAWS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """partial [R, 2, chunks, outputs]: Σ g and Σ g (z − μ) of every final row, per chunk of `step` pixels."""
    i_chunk = tl.program_id(0)
    chunks = tl.num_programs(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin = i_chunk * step
    end = tl.minimum(begin + step, P)
    for e in tl.static_range(len(grad)):
        for i in range(tl.load(starts + e), tl.load(starts + e + 1)):  # g is read again for every row, out of L2
            row, kind = tl.load(finals + i * FIELDS + ROW), tl.load(finals + i * FIELDS + KIND)
            b_mean = entry(mean, row, c, outputs)
            first = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
            second = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
            for i_p in range(begin, end, BLOCK_P):
                p = i_p + tl.arange(0, BLOCK_P)
                n, y, x_ = position(p, out_height, out_width)
                mask = (p < end)[:, None] & (c < outputs)[None, :]
                o_z = p.to(tl.int64)[:, None] * outputs + c[None, :]
                b_z = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
                if kind == CONV:
                    p_z = pick(z, tl.load(finals + i * FIELDS + RAW))
                    b_z = tl.load(p_z + o_z, mask=mask, other=0.0).to(tl.float32)
                elif (kind == SKIP) | (kind == DROPPED):
                    b_z, _inside = window(x, n, y, x_, c, height, width, channels, p < end)
                    if DRAWS:  # noqa: SIM102 (one at compile time, one at run time)
                        if kind == DROPPED:
                            b_z *= dropout_factors(seeds, tl.load(finals + i * FIELDS + RAW), o_z)
                elif kind != NOISE:
                    b_max, b_avg, _which = pools(x, n, y, x_, c, height, width, channels, p < end, STRIDE)
                    b_z = tl.where(kind == MAX, b_max, b_avg)
                elif DRAWS:
                    b_z = standard_normal(seeds, tl.load(finals + i * FIELDS + RAW), o_z)
                b_g = tl.load(grad[e] + o_z, mask=mask, other=0.0).to(tl.float32)
                first += b_g
                second += tl.where(mask, b_g * (b_z - b_mean[None, :]), 0.0)
            p_partial = partial + wide((row * 2 * chunks) + i_chunk) * outputs + c
            tl.store(p_partial, tl.sum(first, 0), mask=c < outputs)
            tl.store(p_partial + wide(chunks) * outputs, tl.sum(second, 0), mask=c < outputs)


@triton.jit
def row_totals(
    partial, row, plain, var, dgain, doffset, c, outputs, P, chunks,
    TRAINING: tl.constexpr, EPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dgain = Σ g ẑ and doffset = Σ g of a row from partial [R, 2, chunks, outputs]; ẑ = z where `plain`."""
    first = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    second = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    p_row = partial + wide(row * 2 * chunks) * outputs + c[None, :]
    for i_t in range(0, chunks, BLOCK_T):
        t = i_t + tl.arange(0, BLOCK_T)
        m_t = (t < chunks)[:, None] & (c < outputs)[None, :]
        o_t = t.to(tl.int64)[:, None] * outputs
        first += tl.load(p_row + o_t, mask=m_t, other=0.0)
        second += tl.load(p_row + wide(chunks) * outputs + o_t, mask=m_t, other=0.0)
    slope = tl.sum(second, 0)
    if not plain:
        slope *= inverse(var, row, c, outputs, P, EPS, TRAINING)
    tl.store(dgain + row * outputs + c, slope, mask=c < outputs)
    tl.store(doffset + row * outputs + c, tl.sum(first, 0), mask=c < outputs)


@triton.jit
def gradient_totals_kernel(
    partial, rows, plain, var, dgain, doffset, outputs, P, chunks,
    TRAINING: tl.constexpr, EPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dgain and doffset of the rows in `rows`."""
    i = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row_totals(
        partial, tl.load(rows + i), tl.load(plain + i) > 0, var, dgain, doffset, c, outputs, P, chunks,
        TRAINING, EPS, BLOCK_T, BLOCK_C,
    )  # fmt: skip
