"""interleave on the GPU: one launch forward, two backward; the maths stands in contract.py.

A program works on tiles [BLOCK_P, BLOCK_C] of pixels × channels of the outputs, of all edges. Channel iK + j of an
output is channel i of m where j = 0, else channel jC' + i of x: another order within a pixel, hence the same cache
lines. Parts of the sums for β, one per program, are added in a fixed order: no atomics, the same bits always.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # elements, 4 a thread: twice that takes more registers than two blocks have
MAX_CHUNKS = 512  # parts of a sum, for each block of channels


@triton.jit
def position(p, height, width):
    """(n, y, x) of pixels."""
    return p // (height * width), p // width % height, p % width


@triton.jit
def bypassed(
    x, n, y, x_, c, mask, height, width, channels,
    STRIDE: tl.constexpr,
):  # fmt: skip
    """y at output pixels, which of its four pixels of x it is, and the offset of the first one; zero outside mask."""
    o_x = ((n * height + y * STRIDE) * width + x_ * STRIDE).to(tl.int64)[:, None] * channels + c[None, :]
    best = tl.load(x + o_x, mask=mask, other=0.0).to(tl.float32)
    which = tl.zeros([n.shape[0], c.shape[0]], tl.int32)
    if STRIDE == 2:
        for k in tl.static_range(1, 4):
            o_k = o_x + (k // 2 * width + k % 2).to(tl.int64) * channels
            b_x = tl.load(x + o_k, mask=mask, other=0.0).to(tl.float32)
            better = (b_x > best) | (b_x != b_x)  # the first of equals, and a NaN, as PyTorch does
            best = tl.where(better, b_x, best)
            which = tl.where(better, k, which)
    return best, which, o_x


@triton.jit
def interleave_kernel(
    x, m, base, out, beta, height, width, channels, out_height, out_width, P, own, partial,
    STRIDE: tl.constexpr, HAS_BASE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out_e = base_e + m_e in every K-th channel, base_e + β_e y in the others, one tile of all edges."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    i, j = c // partial, c % partial
    n, y, x_ = position(p, out_height, out_width)
    inside = (p < P)[:, None] & (c < channels)[None, :]
    mixed, past = inside & (j == 0)[None, :], inside & (j > 0)[None, :]
    b_y, _which, _o_x = bypassed(x, n, y, x_, j * own + i, past, height, width, channels, STRIDE)
    o_out = p.to(tl.int64)[:, None] * channels + c[None, :]
    o_m = p.to(tl.int64)[:, None] * own + i[None, :]
    for e in tl.static_range(len(out)):
        acc = tl.load(beta + e).to(tl.float32) * b_y
        acc = tl.where(past, acc, tl.load(m[e] + o_m, mask=mixed, other=0.0).to(tl.float32))
        if HAS_BASE:
            acc += tl.load(base[e] + o_out, mask=inside, other=0.0).to(tl.float32)
        tl.store(out[e] + o_out, acc.to(out[e].dtype.element_ty), mask=inside)


@triton.jit
def interleave_gradients_kernel(
    grad, x, beta, dm, dx, partial_sums, height, width, channels, out_height, out_width, P, step, own, partial,
    STRIDE: tl.constexpr, NEED_X: tl.constexpr, NEED_BETA: tl.constexpr, EDGES: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dm and dx, and partial_sums [edges, programs] of dβ, of a chunk of `step` pixels; EDGES is a power of two."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    i, j = c // partial, c % partial
    at = tl.arange(0, EDGES)
    sums = tl.zeros([EDGES], tl.float32)
    begin = tl.program_id(0) * step
    end = tl.minimum(begin + step, P)
    for i_p in range(begin, end, BLOCK_P):
        p = i_p + tl.arange(0, BLOCK_P)
        n, y, x_ = position(p, out_height, out_width)
        inside = (p < end)[:, None] & (c < channels)[None, :]
        mixed, past = inside & (j == 0)[None, :], inside & (j > 0)[None, :]
        b_y, which, o_x = bypassed(x, n, y, x_, j * own + i, past, height, width, channels, STRIDE)
        o_out = p.to(tl.int64)[:, None] * channels + c[None, :]
        o_m = p.to(tl.int64)[:, None] * own + i[None, :]
        acc = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        for e in tl.static_range(len(grad)):
            b_g = tl.load(grad[e] + o_out, mask=inside, other=0.0)
            tl.store(dm[e] + o_m, b_g, mask=mixed)
            b_g = tl.where(past, b_g.to(tl.float32), 0.0)
            if NEED_X:
                acc += tl.load(beta + e).to(tl.float32) * b_g
            if NEED_BETA:
                sums += tl.where(at == e, tl.sum(b_g * b_y), 0.0)
        if NEED_X:
            for k in tl.static_range(STRIDE * STRIDE):
                o_k = o_x + (k // 2 * width + k % 2).to(tl.int64) * channels
                tl.store(dx + o_k, tl.where(which == k, acc, 0.0).to(dx.dtype.element_ty), mask=inside)
    if NEED_BETA:
        programs = tl.num_programs(0) * tl.num_programs(1)
        program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        tl.store(partial_sums + at * programs + program, sums, mask=at < len(grad))


@triton.jit
def interleave_totals_kernel(
    partial_sums, dbeta, programs,
    BLOCK_T: tl.constexpr,
):  # fmt: skip
    """dβ of one edge."""
    total = tl.zeros([BLOCK_T], tl.float32)
    for i_t in range(0, programs, BLOCK_T):
        t = i_t + tl.arange(0, BLOCK_T)
        total += tl.load(partial_sums + tl.program_id(0) * programs + t, mask=t < programs, other=0.0)
    tl.store(dbeta + tl.program_id(0), tl.sum(total))


def _tile(channels: int) -> dict[str, int]:
    block_c = min(32, triton.next_power_of_2(channels))
    return {"BLOCK_P": TILE // block_c, "BLOCK_C": block_c, "num_warps": 8}


def _sizes(x: Tensor, stride: int) -> tuple[int, ...]:
    """height, width, channels, out_height, out_width, P."""
    n, channels, height, width = x.shape
    if n * height * width >= 2**30:
        raise ValueError(f"The Triton kernels take fewer than 2^30 values per channel, got {n * height * width}.")
    return height, width, channels, height // stride, width // stride, n * (height // stride) * (width // stride)


def forward(x: Tensor, m: Sequence[Tensor], base: Sequence[Tensor], beta: Tensor, stride: int) -> list[Tensor]:
    """Launcher of the op `interleave`."""
    sizes, own, tile = _sizes(x, stride), m[0].shape[1], _tile(x.shape[1])
    shape = (len(x), x.shape[1], *m[0].shape[2:])
    with torch.cuda.device_of(x):
        out = [torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last) for _ in m]
        interleave_kernel[(triton.cdiv(sizes[-1], tile["BLOCK_P"]), triton.cdiv(x.shape[1], tile["BLOCK_C"]))](
            x, tuple(m), tuple(base) or (x,), tuple(out), beta.contiguous(), *sizes, own, x.shape[1] // own,
            STRIDE=stride, HAS_BASE=len(base) > 0, **tile,
        )  # fmt: skip
    return out


def backward(
    grad: Sequence[Tensor], x: Tensor, beta: Tensor, partial: int, stride: int, need_x: bool, need_beta: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Launcher of the op `interleave_backward`."""
    sizes, own, tile = _sizes(x, stride), x.shape[1] // partial, _tile(x.shape[1])
    shape = (len(x), own, *grad[0].shape[2:])
    step = tile["BLOCK_P"] * triton.cdiv(triton.cdiv(sizes[-1], tile["BLOCK_P"]), MAX_CHUNKS)
    grid = (triton.cdiv(sizes[-1], step), triton.cdiv(x.shape[1], tile["BLOCK_C"]))
    with torch.cuda.device_of(x):
        dm = [torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last) for _ in grad]
        dx = torch.empty_like(x) if need_x else x.new_empty(0)
        dbeta = beta.new_empty(len(grad) if need_beta else 0)
        sums = x.new_empty(len(grad), grid[0] * grid[1], dtype=torch.float32) if need_beta else dbeta
        interleave_gradients_kernel[grid](
            tuple(grad), x, beta.contiguous(), tuple(dm), dx, sums, *sizes, step, own, partial,
            STRIDE=stride, NEED_X=need_x, NEED_BETA=need_beta, EDGES=triton.next_power_of_2(len(grad)), **tile,
        )  # fmt: skip
        if need_beta:
            interleave_totals_kernel[(len(grad),)](sums, dbeta, grid[0] * grid[1], BLOCK_T=1024)
    return dm, dx, dbeta
