"""What the kernels of mixed_op share: tiles [BLOCK_P, BLOCK_C] of pixels × channels of channels-last maps.

Pixels are numbered through the batch, (n · height + y) · width + x, in int32; offsets are int64. Values are taken to
float32 as they are loaded.
"""

import triton
import triton.language as tl

# of a stage, a first or second half of a convolution, in the table of stages
KERNEL, DILATION, SHIFT, DEPTHWISE, POINTWISE, RAW, ROW, EDGE, FIRST, COUNT, READS, FIELDS = map(
    tl.constexpr, range(12)
)


@triton.jit
def pick(tensors, i):
    """The pointer tensors[i] for an i known at run time: the same kernel serves any number of them."""
    pointer = tensors[0]
    for k in tl.static_range(1, len(tensors)):
        if i == k:
            pointer = tensors[k]
    return pointer


@triton.jit
def wide(i):
    """i in int64, be it a tensor or a constant (Triton makes a constant of an argument that is 1)."""
    return tl.zeros([], tl.int64) + i


@triton.jit
def inverse(var, row, c, channels, M, EPS: tl.constexpr, TRAINING: tl.constexpr):
    """1/√(σ² + eps) of a row for channels c; var is the unbiased estimate where TRAINING."""
    b_var = tl.load(var + row * channels + c, mask=c < channels, other=1.0).to(tl.float32)
    if TRAINING:
        b_var = b_var * ((M - 1) / M)
    return 1 / tl.sqrt(b_var + EPS)


@triton.jit
def entry(table, row, c, channels):
    """Row of a table [R, channels] for channels c."""
    return tl.load(table + row * channels + c, mask=c < channels, other=0.0).to(tl.float32)


@triton.jit
def window(x, n, y, x_, c, height, width, channels, ok):
    """Values of a map at (n, y, x_), and where they are inside; 0 outside."""
    inside = (ok & (y >= 0) & (y < height) & (x_ >= 0) & (x_ < width))[:, None] & (c < channels)[None, :]
    o = ((n * height + y) * width + x_).to(tl.int64)[:, None] * channels + c[None, :]
    return tl.load(x + o, mask=inside, other=0.0).to(tl.float32), inside


@triton.jit
def displacement(tap, kernel, dilation, shift):
    """(down, right) from the pixel that a window is about to its tap."""
    return (tap // kernel - kernel // 2) * dilation + shift, (tap % kernel - kernel // 2) * dilation + shift


@triton.jit
def tap_weights(p_w, tap, kernel, c, channels):
    """The depthwise weights of a tap; 1 where there is no depthwise convolution (kernel 1)."""
    b_w = tl.full([c.shape[0]], 1.0, tl.float32)
    if kernel > 1:
        b_w = tl.load(p_w + c * kernel * kernel + tap, mask=c < channels, other=0.0).to(tl.float32)
    return b_w


@triton.jit
def pools(x, n, y, x_, c, height, width, channels, ok, STRIDE: tl.constexpr):
    """Maximum and average of the 3×3 window about (y, x_) · STRIDE, and which of its nine pixels the maximum is."""
    best = tl.full([n.shape[0], c.shape[0]], float("-inf"), tl.float32)
    which = tl.zeros([n.shape[0], c.shape[0]], tl.int32)
    total = tl.zeros([n.shape[0], c.shape[0]], tl.float32)
    count = tl.zeros([n.shape[0], c.shape[0]], tl.float32)
    for tap in range(9):  # a loop: unrolled, it takes all registers
        b_x, inside = window(x, n, y * STRIDE + tap // 3 - 1, x_ * STRIDE + tap % 3 - 1, c, height, width, channels, ok)
        better = inside & ((b_x > best) | (b_x != b_x) | (count == 0))  # the first of equals, and a NaN, as in PyTorch
        best = tl.where(better, b_x, best)
        which = tl.where(better, tap, which)
        total += b_x
        count += inside.to(tl.float32)
    return best, total / tl.maximum(count, 1.0), which
