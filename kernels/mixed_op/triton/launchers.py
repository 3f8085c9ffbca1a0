"""mixed_op on the GPU: 6 launches forward, 8 backward, whatever the number of edges and candidates.

Forward: first halves; moments of the pools; statistics; second halves; statistics; mix. Backward: sums of final rows;
totals; gradients of the stages that end in a final row; middle gradients of separable convolutions; gradients of their
first halves; of the pools; of the state; totals of the weight gradients. The maths stands in the contract.

What a program works on is data, in small tables that are made once per kind of call. Sums over pixels are parts, one
per chunk of pixels, that whoever needs them adds in a fixed order: no atomics, the same bits always.

Where other processes have the rest of the batch, statistics and totals are joined between the launches. The kernels
divide by the number of pixels here, P, and not by that of all, M: they get the totals times P/M, and a variance from
which they find the right one.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdarts.kernels.mixed_op.kinks import NO_KINKS
from fastdarts.kernels.mixed_op.ranks import join_statistics
from fastdarts.kernels.mixed_op.triton import mix, stages, stages_backward
from fastdarts.kernels.mixed_op.triton.blocks import blocks
from fastdarts.kernels.mixed_op.triton.tables import OF_MAX, tables_of
from fastdarts.kernels.process_group import add_up
from fastdarts.kernels.registry import INTERPRET

# Parts of a sum over pixels: enough to fill a GPU of 132 multiprocessors, few enough to be added by one program.
MAX_CHUNKS = 512  # of moments and gradient sums, two or three numbers a channel
MAX_WEIGHT_CHUNKS = 64  # of weight gradients, outputs × inputs numbers; and of what each of their programs adds
DOT = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
TAPS = stages_backward.TAPS.value


class _Launch:
    """Sizes, tables, tiles and grids shared by the launches of a call; `images` of the whole batch, or 0."""

    def __init__(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        gain: Tensor,
        candidates: Sequence[int],
        stride: int,
        images: int,
        exact: bool,
    ):
        n, self.channels, self.height, self.width = x.shape
        self.outputs = gain.shape[1]
        self.out_height, self.out_width = ((size - 1) // stride + 1 for size in (self.height, self.width))
        self.P, self.pixels = n * self.out_height * self.out_width, n * self.height * self.width
        if self.pixels >= 2**30:
            raise ValueError(f"The Triton kernels take fewer than 2^30 values per channel, got {self.pixels}.")
        self.of_all = self.P // n * images
        if images and self.P == 1:
            raise ValueError("The Triton kernels join statistics of two or more values per channel, here is one.")
        self.shape = (n, self.outputs, self.out_height, self.out_width)
        self.table = tables_of(tuple(candidates), self.outputs, x.device)
        self.x, self.stride = x, stride
        self.weights = tuple(weights) or (x,)  # no kernel takes an empty tuple; nothing is read from it
        tiles = triton.cdiv(self.P, 64)
        self.step = 64 * triton.cdiv(tiles, MAX_CHUNKS)
        self.chunks = triton.cdiv(self.P, self.step)
        # at least 2 C' pixels, for a part of the weight gradients to be smaller than what it is a sum of
        fewest = max(triton.cdiv(tiles, MAX_WEIGHT_CHUNKS), triton.cdiv(self.outputs, 32))
        self.weight_step = 64 * fewest
        self.weight_chunks = triton.cdiv(self.P, self.weight_step)
        self.sizes = (self.height, self.width, self.channels, self.out_height, self.out_width)
        exact = exact and x.dtype is torch.float32
        tf32 = x.dtype is torch.float32 and not exact
        self.tile = blocks(self.channels, self.outputs, exact)
        # what PyTorch's convolutions do; Triton's interpreter cannot multiply bfloat16
        self.precision = {"PRECISION": "tf32" if tf32 else "ieee", "DOT": DOT[torch.float32 if INTERPRET else x.dtype]}

    def maps(self, count: int) -> list[Tensor]:
        """Empty maps of the outputs' size, channels-last."""
        options = {"dtype": self.x.dtype, "device": self.x.device, "memory_format": torch.channels_last}
        return [torch.empty(self.shape, **options) for _ in range(count)]

    def partial(self, sums: int, parts: int) -> Tensor:
        """Of every row: `sums` per channel, each in `parts` parts."""
        return self.x.new_empty(self.table.rows, sums, parts, self.outputs, dtype=torch.float32)

    def blocks(self, kernel: str) -> int:
        """Blocks of channels, of the inputs in the kernels of stages."""
        channels = max(self.channels, self.outputs) if kernel == "maps" else self.channels
        return triton.cdiv(channels, self.tile[kernel]["BLOCK_C"])

    def map_tiles(self, pixels: int) -> tuple[int, int]:
        """The grid of a kernel with a program for every tile of a map."""
        return triton.cdiv(pixels, self.tile["maps"]["BLOCK_P"]), self.blocks("maps")

    def run_stages(self, first: int, count: int, z, tables, partial, **options) -> None:
        """Raw outputs of `count` stages of the table from `first` on."""
        if count:
            stages.stages_kernel[(self.chunks, triton.cdiv(self.outputs, self.tile["stages"]["BLOCK_O"]), count)](
                self.x, self.weights, z, *tables, partial, self.table.stages[first:],
                *self.sizes, self.outputs, self.P, self.step,
                STRIDE=self.stride, **options, **self.precision, **self.tile["stages"],
            )  # fmt: skip

    def run_statistics(self, rows: Tensor, partial: Tensor, mean: Tensor, var: Tensor) -> None:
        if len(rows):
            stages.statistics_kernel[(len(rows), triton.cdiv(self.outputs, 16))](
                partial, mean, var, rows, self.outputs, self.P, self.step, self.chunks, BLOCK_T=64, BLOCK_C=16
            )

    def for_kernels(self, var: Tensor) -> Tensor:
        """What they take for a variance over P values where it is one over those of all processes."""
        if not self.of_all:
            return var
        return var * ((self.of_all - 1) / self.of_all * self.P / (self.P - 1))


def _without(kinks: Sequence[Tensor], note: bool = False) -> None:
    if kinks or note:
        raise RuntimeError(f"mixed_op cannot run as 'triton': {NO_KINKS}.")


def forward(
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
    """Launcher of the op `mixed_op`."""
    _without(kinks, note)
    at = _Launch(x, weights, gain, candidates, stride, images, exact)
    table, training = at.table, running_mean is None
    gain = gain.contiguous()
    offset = None if offset is None else offset.contiguous()
    flags = {"EPS": eps, "TRAINING": training, "HAS_OFFSET": offset is not None}
    with torch.cuda.device_of(x):
        if training:
            mean, var = torch.empty_like(gain), torch.empty_like(gain)
        else:
            mean, var = (t.clone(memory_format=torch.contiguous_format) for t in (running_mean, running_var))
            if len(table.plain):
                mean.index_fill_(0, table.plain, 0.0), var.index_fill_(0, table.plain, 1.0)
        z = at.maps(table.raws)
        raw, tables = tuple(z) or (x,), (gain, gain if offset is None else offset, mean, var.clone() if images else var)
        partial = at.partial(3, at.chunks) if training else gain
        at.run_stages(table.seconds, table.singles + table.firsts, raw, tables, partial, MOMENTS=training, **flags)
        if training and len(table.pooled):
            mix.pool_moments_kernel[(at.chunks, at.blocks("maps"))](
                x, partial, table.pooled, *at.sizes, at.P, at.step, len(table.pooled),
                MAX=OF_MAX, STRIDE=stride, **at.tile["maps"],
            )  # fmt: skip

        def statistics(rows: Tensor, normalised: Tensor) -> None:
            at.run_statistics(rows, partial, mean, var)
            if images and len(normalised):
                join_statistics(mean, var, normalised.long(), at.P, at.of_all)
                tables[3].copy_(at.for_kernels(var))

        if training:
            statistics(table.first_rows, table.first_normalised)
        at.run_stages(0, table.seconds, raw, tables, partial, MOMENTS=training, **flags)
        if training:
            statistics(table.second_rows, table.second_rows)
        out = at.maps(edges)
        mix.mix_kernel[at.map_tiles(at.P)](
            x, raw, tuple(base) or (x,), tuple(out), *tables, table.finals if seeds is None else seeds,
            table.finals, table.starts, *at.sizes, at.outputs, at.P,
            STRIDE=stride, POOLS=len(table.pooled) > 0, SKIPS=len(table.skips) > 0, DRAWS=table.draws,
            BASES=len(base), **flags, **at.tile["maps"],
        )  # fmt: skip
    return out, z if store else [], mean, var, []


def backward(
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
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Launcher of the op `mixed_op_backward`."""
    _without(kinks)
    at = _Launch(x, weights, gain, candidates, stride, images, exact)
    table = at.table
    gain, mean, var = gain.contiguous(), mean.contiguous(), at.for_kernels(var).contiguous()
    offset = None if offset is None else offset.contiguous()
    tables = (gain, gain if offset is None else offset, mean, var)
    flags = {"EPS": eps, "TRAINING": training}
    with torch.cuda.device_of(x):
        raw = tuple(z)
        if table.raws and not raw:
            raw = tuple(at.maps(table.raws))
            for first, count in ((table.seconds, table.singles + table.firsts), (0, table.seconds)):
                at.run_stages(first, count, raw, tables, gain, MOMENTS=False, HAS_OFFSET=offset is not None, **flags)
        raw = raw or (x,)
        middle = tuple(at.maps(table.firsts))
        gradients = (*grad, *middle)
        dgain, doffset = (torch.empty_like(gain, dtype=torch.float32) for _ in range(2))
        own = tuple(torch.empty_like(t) if images else t for t in (dgain, doffset))  # of this process
        partial = at.partial(2, at.chunks)
        mix.gradient_sums_kernel[(at.chunks, at.blocks("maps"))](
            x, raw, tuple(grad), mean, table.finals if seeds is None else seeds, partial, table.finals, table.starts,
            *at.sizes, at.outputs, at.P, at.step, STRIDE=stride, DRAWS=table.draws, **at.tile["maps"],
        )  # fmt: skip

        def totals(partial: Tensor, chunks: int, rows: Tensor, plain: Tensor) -> None:
            mix.gradient_totals_kernel[(len(rows), triton.cdiv(at.outputs, 16))](
                partial, rows, plain, var, dgain, doffset, at.outputs, at.P, chunks, BLOCK_T=64, BLOCK_C=16, **flags
            )
            if images:
                rows = rows.long()
                own[0][rows], own[1][rows] = here = torch.stack([dgain[rows], doffset[rows]])
                dgain[rows], doffset[rows] = add_up(here.clone()) * (at.P / at.of_all)

        totals(partial, at.chunks, table.final_rows, table.final_plain)
        count = table.seconds + table.singles + table.firsts
        partial = at.partial(2, at.weight_chunks)
        t = x.new_empty(count, at.P, at.channels)
        taps = products = gain
        if need_weights:
            taps, products = (
                x.new_empty(count, at.weight_chunks, rows, at.channels, dtype=torch.float32)
                for rows in (TAPS, at.outputs)
            )
        has_offset = {"HAS_OFFSET": offset is not None}

        def stage_gradients(first: int, count: int, **options) -> None:
            if count:
                stages_backward.stages_gradients_kernel[(at.weight_chunks, at.blocks("stages_gradients"), count)](
                    x, at.weights, raw, gradients, *tables, partial, dgain, doffset, t[first:], taps[first:],
                    products[first:], table.stages[first:], *at.sizes, at.outputs, at.P, at.weight_step,
                    STRIDE=stride, WEIGHTS=need_weights, **options, **flags, **has_offset, **at.precision,
                    **at.tile["stages_gradients"],
                )  # fmt: skip

        through = need_x or need_weights
        stage_gradients(0, table.seconds + (table.singles if through else 0), TOTALS=False)
        if table.seconds:
            stages_backward.middle_gradients_kernel[(at.weight_chunks, at.blocks("maps"), table.seconds)](
                x, at.weights, raw, middle, *tables, t, partial, table.stages, *at.sizes, at.P, at.weight_step,
                **flags, **has_offset, **at.tile["maps"],
            )  # fmt: skip
            if images or not through:
                totals(partial, at.weight_chunks, table.middle_rows, table.middle_plain)
            if through:
                stage_gradients(table.seconds + table.singles, table.firsts, TOTALS=not images)
        dx = _state_gradient(at, grad, tables, seeds, dgain, doffset, t, flags) if need_x else x.new_empty(0)
        dweights = [torch.empty_like(w) for w in weights] if need_weights else []
        if dweights:
            largest = at.channels * max(at.outputs, TAPS)
            stages_backward.weight_totals_kernel[(triton.cdiv(largest, 256), count)](
                taps, products, tuple(dweights), table.stages, at.channels, at.outputs, at.weight_chunks, BLOCK=256
            )
    dgain, doffset = (t.to(gain.dtype) for t in own)
    return dx, dgain, doffset if offset is not None else gain.new_empty(0), dweights


def _state_gradient(
    at: _Launch, grad, tables, seeds: Tensor | None, dgain: Tensor, doffset: Tensor, t: Tensor, flags: dict
) -> Tensor:
    x, table = at.x, at.table
    gain, _, mean, var = tables
    dmax = davg = which = x
    if len(table.pooled):
        dmax, davg = (x.new_empty(at.P, at.channels, dtype=torch.float32) for _ in range(2))
        which = x.new_empty(at.P, at.channels, dtype=torch.int8)
        stages_backward.pool_gradients_kernel[at.map_tiles(at.P)](
            x, tuple(grad), gain, mean, var, dgain, doffset, dmax, davg, which, table.pooled, *at.sizes, at.P,
            len(table.pooled), MAX=OF_MAX, STRIDE=at.stride, **flags, **at.tile["maps"],
        )  # fmt: skip
    dx = torch.empty_like(x)
    firsts = table.singles + table.firsts
    stages_backward.state_gradient_kernel[at.map_tiles(at.pixels)](
        x, at.weights, tuple(grad), gain, t[table.seconds :], dmax, davg, which, dx, table.stages[table.seconds :],
        table.skips, table.skips if seeds is None else seeds, *at.sizes, at.P, at.pixels, firsts, len(table.skips),
        STRIDE=at.stride, POOLS=len(table.pooled) > 0, DRAWS=table.drops, **at.tile["maps"],
    )  # fmt: skip
    return dx
