"""mixed_op: the candidates of all edges that leave one state, their normalisation, weighting and sums, in one op.

Every candidate has one row of the tables `gain` and `offset`, a separable convolution two: its middle BatchNorm, then
its final one. With z_r the raw output of row r, μ_r and σ²_r its batch statistics per channel (or the running ones),
M = N·H'·W', ρ_r = 1/√(σ²_r + eps) and ẑ_r = (z_r − μ_r) ρ_r (ẑ = z for both skips and noise, which nothing
normalises):

    out_e = base_e + Σ over the final rows r of edge e of (gain_r ẑ_r + offset_r)     (base: of the first edges)
    the second half of a separable convolution reads max(0, gain_m ẑ_m + offset_m), m its middle row

    doffset_r = Σ g     dgain_r = Σ g ẑ_r     per channel, g the gradient of out_e (of what the second half reads)
    dL/dz_r = gain_r ρ_r (g − doffset_r/M − ẑ_r dgain_r/M)     (batch statistics; else gain_r ρ_r g)

and on through the convolutions, pools and ReLUs to x. gain is the mixing weight times the BatchNorm's weight, offset
the mixing weight times its bias: mixed operation, Liu et al. 2019 (DARTS), equation 2 and section 3.1.1; batch
normalisation, Ioffe and Szegedy 2015, section 3.

`candidates` holds four integers per candidate, sorted by edge: edge, kind, kernel, dilation. The kinds:

    0 skip               x itself (stride 1)                                      no weights, kernel = dilation = 0
    1 max_pool           3×3, padding 1                                           no weights
    2 avg_pool           3×3, padding 1, padding not counted                      no weights
    3 factorized_reduce  1×1 of max(0, x) at even pixels, 1×1 at odd ones         [C'/2, C, 1, 1] twice
    4 dil_conv           ReLU, depthwise k×k, 1×1                                 [C, 1, k, k], [C', C, 1, 1]
    5 sep_conv           the same and BatchNorm, twice; the first half strides    the same, twice
    6 relu_conv          ReLU, 1×1 (stride 1)                                     [C', C, 1, 1]
    7 noise              standard normal, of nothing but seed and place           no weights, kernel = dilation = 0
    8 dropped_skip       x times a factor of nothing but seed, limit and place    no weights, kernel = dilation = 0

Shapes: x [N, C, H, W], base_e and out_e [N, C', H', W'] with H' = ⌈H/stride⌉, all channels-last; gain, offset, mean
and var [R, C'], in float32 where x is of half precision. `var` is the unbiased estimate, as running statistics want it.
Stored for backward if `store`: z, the raw outputs of rows that end in a convolution; pools, ReLUs, depthwise outputs,
noise and factors are always computed again. `seeds`, int64, has in the order of the candidates the seed of every noise,
and seed and limit of every dropped_skip (noise.py).

With `bypass` only the first C' of the K·C' channels of x come here; the op interleave takes the others past.

With `images` > 0, x is this process's part of a batch of so many images; other processes of the group have the rest
(kernels/process_group.py). Then μ_r, σ²_r and the two sums in dL/dz_r are those of the whole batch, M = images·H'·W'.
doffset and dgain are what this part adds.

`exact`: products of float32 are not rounded to TF32; of half precision, and on the CPU, it changes nothing.

`note` writes down the kinks: what the ReLUs and the max pool decided. Another call that gets them as `kinks` repeats
these decisions, so that its function is smooth. They are uint8 tensors, empty where there is nothing to decide:

- of the state, [N, H, W, ⌈C/8⌉]: one bit per channel of a pixel (bit i of byte j: channel 8j + i);
- of every maximum, [N, H', W', C]: its place 0 to 8 in the window;
- of the middle of every sep_conv, [N, H', W', ⌈C'/8⌉]: bits as above.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.kernels import process_group
from fastdarts.kernels.mixed_op.kinks import NO_KINKS, Decisions
from fastdarts.kernels.mixed_op.noise import dropout_factors, standard_normal
from fastdarts.kernels.mixed_op.ranks import register
from fastdarts.kernels.registry import define, rounded

LAST = torch.channels_last
KINDS = (
    "skip", "max_pool", "avg_pool", "factorized_reduce", "dil_conv", "sep_conv", "relu_conv", "noise", "dropped_skip",
)  # fmt: skip
SKIP, MAX_POOL, AVG_POOL, FACTORIZED_REDUCE, DIL_CONV, SEP_CONV, RELU_CONV, NOISE, DROPPED_SKIP = range(len(KINDS))
WEIGHTS = (0, 0, 0, 2, 2, 4, 1, 0, 0)  # of one candidate, by kind
SEEDS = (0, 0, 0, 0, 0, 0, 0, 1, 2)  # the same of numbers in seeds
PLAIN = {SKIP, NOISE, DROPPED_SKIP}  # nothing normalises them

KERNELS, STRIDES, DILATIONS = (3, 5, 7), (1, 2), (1, 2)
GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # sums and statistics in float32


def _raw(
    kind: int,
    x: Tensor,
    weights: Sequence[Tensor],
    kernel: int,
    dilation: int,
    stride: int,
    decisions: Decisions,
    place: int,
) -> Tensor:
    """What a row normalises."""
    if kind == MAX_POOL:
        return decisions.max_pool(x, stride)
    if kind == AVG_POOL:
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    r = decisions.relu(x, place)
    if kind == FACTORIZED_REDUCE:
        height, width = x.shape[2:]
        odd = F.pad(r[:, :, 1:, 1:], (0, width % 2, 0, height % 2))
        # no stride in the convolution: with fewer than 8 channels PyTorch 2.14 then writes past its end on AVX2
        halves = zip((r, odd), weights, strict=True)
        return torch.cat([F.conv2d(half[:, :, ::2, ::2], w) for half, w in halves], 1)
    *depthwise, pointwise = weights
    for w in depthwise:
        r = F.conv2d(r, w, None, stride, dilation * (kernel - 1) // 2, dilation, groups=x.shape[1])
    return F.conv2d(r, pointwise)


def _forward(
    x: Tensor,
    base: Sequence[Tensor],
    gain: Tensor,
    offset: Tensor | None,
    weights: Sequence[Tensor],
    seeds: Tensor | None,
    candidates: Sequence[int],
    edges: int,
    stride: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    images: int,
    store: bool,
    kinks: Sequence[Tensor] = (),
    note: bool = False,
    exact: bool = True,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, list[Tensor]]:
    training, decisions, seconds = running_mean is None, Decisions(kinks, note), 0
    out, z, means, variances, weights = [*base, *[None] * (edges - len(base))], [], [], [], iter(weights)
    drawn = iter(() if seeds is None else seeds.unbind())
    size = (len(x), *((side - 1) // stride + 1 for side in x.shape[2:]), gain.shape[1])
    for at in range(0, len(candidates), 4):
        edge, kind, kernel, dilation = candidates[at : at + 4]
        own, y, step = [next(weights) for _ in range(WEIGHTS[kind])], x, stride
        halves = (own[:2], own[2:]) if kind == SEP_CONV else (own,)
        seconds += kind == SEP_CONV
        for half in halves:
            row, mean, var = len(means), gain.new_zeros(gain.shape[1]), gain.new_ones(gain.shape[1])
            if kind == NOISE:
                y = standard_normal(next(drawn), size, gain.dtype).permute(0, 3, 1, 2)
            elif kind == DROPPED_SKIP:
                y = y * dropout_factors(next(drawn), next(drawn), size, gain.dtype).permute(0, 3, 1, 2)
            elif kind != SKIP:
                place = 0 if half is halves[0] else 1 + seconds
                y = _raw(kind, y, half, kernel, dilation, step, decisions, place)
                if own and store:
                    z.append(y.contiguous(memory_format=LAST))
                if not training:
                    mean, var = running_mean[row], running_var[row]
                step = 1
                if images:
                    y, mean, var = process_group.normalise(y.to(gain.dtype), images, eps)
                else:
                    # momentum 1 leaves the statistics of this very batch in mean and var; PyTorch's sums over
                    # channels-last maps round ten times worse than over contiguous ones
                    y = F.batch_norm(y.contiguous(), mean, var, training=training, momentum=1.0, eps=eps)
            y = y * gain[row].view(-1, 1, 1)
            y = y if offset is None else y + offset[row].view(-1, 1, 1)
            y = y.to(x.dtype) if half is not halves[-1] else y  # what a convolution reads
            means.append(mean)
            variances.append(var)
        out[edge] = y if out[edge] is None else out[edge] + y
    out = [y.to(x.dtype).contiguous(memory_format=LAST) for y in out]
    return (
        out,
        z,
        torch.stack(means),
        torch.stack(variances),
        decisions.noted(2 + candidates[1::4].count(SEP_CONV), x.device),
    )


def _forward_fake(
    x, base, gain, offset, weights, seeds, candidates, edges, stride, running_mean, running_var, eps, images, store,
    kinks=(), note=False, exact=True,
):  # fmt: skip
    height, width = ((size - 1) // stride + 1 for size in x.shape[2:])

    def empty() -> Tensor:
        return x.new_empty(x.shape[0], gain.shape[1], height, width).to(memory_format=LAST)

    kinds = candidates[1::4]
    stored = sum((kind == SEP_CONV) + (WEIGHTS[kind] > 0) for kind in kinds) if store else 0
    sizes = kink_sizes(x, gain.shape[1], candidates, stride) if note else []
    return (
        [empty() for _ in range(edges)],
        [empty() for _ in range(stored)],
        gain.new_empty(gain.shape),
        gain.new_empty(gain.shape),
        [x.new_empty(size, dtype=torch.uint8) for size in sizes],
    )


def kink_sizes(x: Tensor, outputs: int, candidates: Sequence[int], stride: int) -> list[tuple[int, ...]]:
    """The shapes of the kinks of a call, in their order."""
    kinds, (n, channels, *sides) = candidates[1::4], x.shape
    out = (n, *((side - 1) // stride + 1 for side in sides))
    state = (n, *sides, -(-channels // 8)) if any(WEIGHTS[kind] for kind in kinds) else (0,)
    places = (*out, channels) if MAX_POOL in kinds else (0,)
    return [state, places, *[(*out, -(-outputs // 8))] * kinds.count(SEP_CONV)]


def _backward(
    grad: Sequence[Tensor],
    x: Tensor,
    gain: Tensor,
    offset: Tensor | None,
    weights: Sequence[Tensor],
    seeds: Tensor | None,
    candidates: Sequence[int],
    stride: int,
    z: Sequence[Tensor],
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    images: int,
    need_x: bool,
    need_weights: bool,
    kinks: Sequence[Tensor] = (),
    exact: bool = True,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Differentiates the reference of forward, which computes everything again; what is not wanted is empty.

    With create_graph the gradients are differentiable in grad, x, gain, offset and weights.
    """

    def leaf(tensor: Tensor, need: bool) -> Tensor:
        # a view stops the first differentiation here, and the second goes on through it
        return tensor.view_as(tensor) if create_graph and tensor.requires_grad else tensor.detach().requires_grad_(need)

    with torch.enable_grad():
        x, gain = leaf(x, need_x), leaf(gain, True)
        offset = None if offset is None else leaf(offset, True)
        weights = [leaf(w, need_weights) for w in weights]
        options = stride, *((None, None) if training else (mean, var)), eps, images, False, kinks
        out, *_ = _forward(x, [], gain, offset, weights, seeds, candidates, len(grad), *options)
        wrt = [gain] + [offset] * (offset is not None) + [x] * need_x + weights * need_weights
        gradients = iter(torch.autograd.grad(out, wrt, grad, create_graph=create_graph, materialize_grads=True))
        dgain = next(gradients)
        doffset = gain.new_empty(0) if offset is None else next(gradients)
        dx = next(gradients).contiguous(memory_format=LAST) if need_x else x.new_empty(0)
    return dx, dgain, doffset, [g.contiguous() for g in gradients]


def _backward_fake(
    grad, x, gain, offset, weights, seeds, candidates, stride, z, mean, var, training, eps, images, need_x,
    need_weights, kinks=(), exact=True,
):  # fmt: skip
    return (
        x.new_empty(x.shape).to(memory_format=LAST) if need_x else x.new_empty(0),
        gain.new_empty(gain.shape),
        gain.new_empty(0 if offset is None else offset.shape),
        [w.new_empty(w.shape) for w in weights] if need_weights else [],
    )


forward_op = define(
    "mixed_op(Tensor x, Tensor[] base, Tensor gain, Tensor? offset, Tensor[] weights, Tensor? seeds, int[] candidates,"
    " int edges, int stride, Tensor? running_mean, Tensor? running_var, float eps, int images, bool store,"
    " Tensor[] kinks, bool note, bool exact) -> (Tensor[] out, Tensor[] z, Tensor mean, Tensor var, Tensor[] noted)",
    _forward,
    _forward_fake,
    gpu=("cuda", "triton"),
    triton=".mixed_op.triton.launchers:forward",
    gpu_dtypes=GPU_DTYPES,
    narrow=lambda dtype, out, z, *others: (rounded(out, dtype), rounded(z, dtype), *others),
    halves=(torch.bfloat16,),
)
backward_op = define(
    "mixed_op_backward(Tensor[] grad, Tensor x, Tensor gain, Tensor? offset, Tensor[] weights, Tensor? seeds,"
    " int[] candidates, int stride, Tensor[] z, Tensor mean, Tensor var, bool training, float eps, int images,"
    " bool need_x, bool need_weights, Tensor[] kinks, bool exact)"
    " -> (Tensor dx, Tensor dgain, Tensor doffset, Tensor[] dweights)",
    _backward,
    _backward_fake,
    gpu=("cuda", "triton"),
    triton=".mixed_op.triton.launchers:backward",
    gpu_dtypes=GPU_DTYPES,
    narrow=lambda dtype, dx, dgain, doffset, dweights: (dx.to(dtype), dgain, doffset, rounded(dweights, dtype)),
    halves=(torch.bfloat16,),
)
MIXED_OP_IMPLEMENTATIONS = forward_op.implementations
register()


def is_exact(dtype: torch.dtype) -> bool:
    """Whether products of float32 are to be exact: what PyTorch's convolutions do on a GPU."""
    return dtype is not torch.float32 or torch.backends.cudnn.conv.fp32_precision != "tf32"


is_exact._dynamo_marked_constant = True  # as torch.compiler.assume_constant_result does, which imports the compiler


def working_memory(func: object, args: Sequence) -> tuple[list[int], int]:
    """Bytes that the kernels take beside inputs and results if the call ``func(*args)`` is one of theirs: in blocks
    while it runs, and what they keep for the next call.

    Maps of the output's size, forward: raw outputs that are not stored. Backward: those made again, and one for every
    second half of a separable convolution. On a GPU also one of the input's size for every depthwise output, and two
    and a quarter in float32 for pooling. Weight gradients are summed in parts: on the CPU, one in float64 for each
    chunk of samples; on a GPU, one in float32 for each chunk of pixels.
    """
    backward = func is backward_op.dispatch
    if not backward and func is not forward_op.dispatch:
        return [], 0
    if backward:
        _, x, gain, _, weights, _, candidates, stride, z, *_, need_x, need_weights = args[:16]
        again = not z
    else:
        x, _, gain, _, weights, _, candidates, _, stride, *_, store = args[:14]
        again, need_x, need_weights = not store, False, False
    kinds = candidates[1::4]
    second = kinds.count(SEP_CONV)
    stages = sum(WEIGHTS[kind] > 0 for kind in kinds) + second
    pixels = len(x) * ((x.shape[2] - 1) // stride + 1) * ((x.shape[3] - 1) // stride + 1)
    blocks = [pixels * gain.shape[1] * x.element_size()] * (stages * again + second * backward)
    if not x.is_cuda:
        chunks = min(len(x), max(8, torch.get_num_threads()))
        return blocks, 8 * chunks * sum(w.numel() for w in weights) * need_weights
    if backward:
        channels = weights[-1].shape[1] if weights else gain.shape[1]
        blocks.append(stages * pixels * channels * x.element_size())
        if need_x and (MAX_POOL in kinds or AVG_POOL in kinds):
            blocks.append(9 * pixels * channels)
        if need_weights:  # a part for every chunk of 256 pixels at least
            most = WEIGHT_CHUNKS
            if backward_op.best("cuda") == "cuda":
                most = weight_chunks(stages, channels, gain.shape[1])
            blocks.append(min(most, -(-pixels // 256)) * part_bytes(stages, channels, gain.shape[1]))
    return blocks, 0


WEIGHT_CHUNKS, PART_BYTES = 128, 128 << 20
"""Chunks of weight gradients on a GPU, and bytes of all their parts unless those of one chunk are more."""


def part_bytes(stages: int, channels: int, outputs: int) -> int:
    """Of the parts of the weight gradients of so many stages, in float32, for one chunk of pixels."""
    return 4 * stages * channels * (max(KERNELS) ** 2 + outputs)


def weight_chunks(stages: int, channels: int, outputs: int) -> int:
    """How many there are at most in the CUDA kernels, as in csrc/cuda/mixed_op/call.h."""
    return min(max(1, PART_BYTES // max(1, part_bytes(stages, channels, outputs))), WEIGHT_CHUNKS)


def why_no_kernel(device: str, dtype: torch.dtype) -> str:
    """Why no kernel, but the reference, runs on `device` in `dtype`; "" if one does."""
    return forward_op.why_not(forward_op.best(device), device, dtype)


def why_no_kinks(device: str) -> str:
    """Why no kernel, but the reference, notes and keeps kinks on `device`; "" if one does."""
    return NO_KINKS if forward_op.best(device) == "triton" else why_no_kernel(device, torch.float32)
