"""How the CUDA kernels cut maps: tiles, strips, chunks of both. See call.h and strips.h in csrc/cuda/mixed_op/."""

from typing import NamedTuple

from fastdarts.kernels.mixed_op.call import Stage, ceil
from fastdarts.kernels.mixed_op.contract import weight_chunks
from fastdarts.kernels.mixed_op.tasks import Tasks

MAX_CHUNKS = 512
CHANNELS, ROWS, FOUR, WARP = 16, 4, 16, 32  # of a tile; pixels of a thread; bytes of four floats; threads
STRIP_WARPS, MAX_QUADS, FEW_BLOCKS, MANY_BLOCKS = 4, 12, 528, 4096  # of strips.h


class Tiling(NamedTuple):
    """Warps of a block across, down and over images; tiles of the maps; their chunks."""

    across: int
    down: int
    images: int
    tiles: int
    chunks: int

    @property
    def warps(self) -> int:
        return self.across * self.down * self.images

    @property
    def each(self) -> float:
        """Tiles of a chunk, on average."""
        return self.tiles / self.chunks

    def halo(self, stride: int, kernel: int, dilation: int) -> tuple[int, int]:
        """Rows, of all its images, and columns of the input under a tile, as window.h has them."""
        rows, columns = (
            (pixels - 1) * stride + (kernel - 1) * dilation + 1 for pixels in (ROWS * self.down, 8 * self.across)
        )
        return self.images * rows, whole_columns(columns)


def whole_columns(columns: int) -> int:
    """Of a window: eights, of which a warp takes up to three at a time."""
    eights = ceil(columns, 8)
    return 8 * (eights + eights % 2 if eights > 3 else eights)


def lines(kernel: int, apart: int, dilation: int) -> int:
    """At how many lines products of diagonal.h begin: rows of a thread are `apart`, rows of a window `dilation`."""
    second = 1 if dilation == 1 else 2  # the first row of the second product
    return len({first * apart + row * dilation for first in (0, second) for row in range(kernel)})


def tiling_of(images: int, height: int, width: int, stride: int, most: int) -> Tiling:
    """As in call.h."""
    narrow = width <= 8
    across, down = 1 if narrow else 2, 2 if narrow or stride == 2 else 4
    columns, rows = ceil(width, 8 * across), ceil(height, 4 * down)
    own = (2 if stride == 2 else 4) if narrow else 1
    while own > 1 and columns * rows * images < 128 * own:
        own //= 2
    tiles = columns * rows * ceil(images, own)
    return Tiling(across, down, own, tiles, ceil(tiles, ceil(tiles, most)))


class Strips(NamedTuple):
    """Fours of channels of a block, units that it works on at a time, blocks of channels, chunks, units of a chunk."""

    quads: int
    lanes: int
    blocks: int
    chunks: int
    units: float


class CudaTiles(Tasks):
    """The tiles and chunks of the launches of one call."""

    @property
    def wide(self) -> bool:
        """Whether four channels are read and written at once."""
        counts = [stage.count for stage in (*self.seconds, *self.singles, *self.firsts)]
        return not any(number % 4 for number in (self.channels, self.outputs, *counts))

    def tiling(self, stride: int, most: int = MAX_CHUNKS) -> Tiling:
        return tiling_of(self.shape[0], *self.out_size, stride, most)

    def strips(self, chunks: int = 0, others: int = 1) -> Strips:
        """As in strips.h: of so many chunks with `others` such grids in a launch, or of a map."""
        units = self.shape[0] * ceil(self.out_size[0], ROWS) * self.out_size[1]
        quads, most = ceil(self.outputs, 4), MAX_QUADS
        while True:
            own = ceil(quads, ceil(quads, most))
            blocks, lanes = ceil(quads, own), STRIP_WARPS * WARP // own
            if not chunks or own <= 4 or chunks * others * blocks >= FEW_BLOCKS:
                break
            most = (own + 1) // 2
        if not chunks:
            rounds = ceil(units, max(1, MANY_BLOCKS // blocks) * lanes)
            chunks = ceil(units, rounds * lanes)
        return Strips(own, lanes, blocks, chunks, units / chunks)

    def stride_of(self, stage: Stage) -> int:
        return 1 if stage.reads else self.stride

    def tiling_for(self, stride: int, stages: int) -> Tiling:
        """As in job.h, for a launch of so many stages."""
        most = self.tiling(stride)
        enough = 8 * FEW_BLOCKS // (max(stages, 1) * ceil(self.outputs, 32) * most.warps)
        return self.tiling(stride, min(max(enough, most.tiles // 8, 1), MAX_CHUNKS))

    def stage_tiling(self, stage: Stage) -> Tiling:
        """Of the launch of a stage."""
        together = self.seconds if stage.reads else [*self.singles, *self.firsts]
        return self.tiling_for(self.stride_of(stage), len(together))

    def moment_chunks(self, row: int) -> int:
        stages = [stage for stage in (*self.seconds, *self.singles, *self.firsts) if stage.row == row]
        return (self.stage_tiling(stages[0]) if stages else self.tiling(self.stride)).chunks

    def sum_chunks(self, row: int) -> int:
        return self.tiling(1 if row in self.rows()[-1] else self.stride).chunks

    def weight_chunks(self, stage: Stage) -> int:
        return self.weight_tiling(self.stride_of(stage)).chunks

    def weight_tiling(self, stride: int) -> Tiling:
        """Of what may add up weight gradients."""
        stages = len(self.seconds) + len(self.singles) + len(self.firsts)
        return self.tiling(stride, weight_chunks(stages, self.channels, self.outputs))
