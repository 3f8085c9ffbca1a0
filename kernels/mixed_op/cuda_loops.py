"""How often the loops run that several CUDA kernels have, and what they take from memory. See csrc/cuda/mixed_op/."""

import math

from fastdarts.kernels.mixed_op.call import Run, Task, ceil
from fastdarts.kernels.mixed_op.cuda_tiles import CHANNELS, FOUR, ROWS, WARP, CudaTiles, Strips, Tiling, lines

PRODUCT = 512  # bytes of a load for tensor cores, of a warp
WASTE = 8  # operations of tensor cores for one of a window: of 8 × 8 weights those of a channel with itself count
UNROLLED = 4  # runs of a loop that nvcc takes at once where nothing says how many
SHAPES = ("", " dilated", " stride 2", " data", " dilated data", " gradient")
CASES = [f"{k}×{k}{more}" for k in (3, 5, 7) for more in SHAPES] + ["1×1", "1×1 gradient"]
CASES += [f"{k} rows" for k in (1, 2, 3, 4, 5, 7)] + [f"{k} eights" for k in (1, 2, 3)]
NEVER = dict.fromkeys(("unaligned", "kept", "second", "drawn", *CASES), 0)
ALWAYS = dict.fromkeys(("while", "product", "units", "tables", "end", "setup", "load_taps", "normal"), 1)


class CudaLoops(CudaTiles):
    """The loops of the launches of one call."""

    def run(self, code: str, programs: int, warps: int, trips: dict[str, float], shared: int = 0) -> Run:
        return Run("cuda", code, programs, warps, NEVER | ALWAYS | trips, shared)

    @property
    def halves(self) -> bool:
        """Whether windows are products of diagonals."""
        return self.itemsize == 2

    def tap_bytes(self, kernel: int) -> int:
        """Of 16 channels in shared memory."""
        return ceil(kernel**2, 2) * PRODUCT if self.halves else kernel**2 * CHANNELS * 4

    def taps(self, kernel: int, threads: int) -> dict[str, float]:
        """Of load_weights, and of clearing diagonals before."""
        if not self.halves:
            return {"load_taps/i": ceil(kernel**2 * CHANNELS, threads)}
        return {
            "load_taps/i": ceil(self.tap_bytes(kernel), 16 * threads),
            "load_taps/i2": ceil(ceil(kernel**2, 2) * 8, threads),
        }

    def units(self, strips: Strips) -> dict[str, float]:
        """Of for_units, and of the pools in a unit."""
        strided = self.stride == 2
        return {
            "units/i": strips.units / strips.lanes,
            "strided": strided,
            "pools/r": 0 if strided else ROWS,
            "strided/r": ROWS,
            "r": ROWS,
            "lane": strips.lanes / UNROLLED,
            "lane2": strips.lanes / UNROLLED,
        }

    def windows_of(self, tiling: Tiling, stride: int, kernel: int, dilation: int) -> int:
        """Bytes that all tiles load from a map, and write to and read from shared memory for their windows."""
        rows, columns = tiling.halo(stride, kernel, dilation)
        if not self.halves:
            reads = kernel * ((ROWS - 1) * stride + 2 * kernel) * FOUR * WARP  # of a warp
        else:
            reads = (lines(kernel, stride, 1) * kernel + ceil(kernel**2, 2)) * PRODUCT
        if kernel == 1:
            reads = ROWS * 4 * self.itemsize * WARP
        warps = tiling.tiles * tiling.warps * ceil(self.channels, CHANNELS)
        return tiling.tiles * rows * columns * self.channels * 2 * self.itemsize + warps * reads

    def window_bytes(self, tiling: Tiling, stride: int, kernel: int, dilation: int) -> int:
        return math.prod(tiling.halo(stride, kernel, dilation)) * CHANNELS * self.itemsize

    def on_tensor_cores(self, task: Task, waste: float = WASTE) -> Task:
        """A task whose windows are products of half precision, else as it is."""
        return task._replace(vector=0, matrix=task.matrix + int(waste * task.vector)) if self.halves else task

    def filling(self, tiling: Tiling, stride: int, kernel: int, dilation: int) -> dict[str, float]:
        """Of fill of window.h, for one warp and one tile."""
        return self.filling_of(*tiling.halo(stride, kernel, dilation), tiling.warps)

    def filling_of(self, rows: int, columns: int, warps: int) -> dict[str, float]:
        halves = 2 if columns > 24 else 1
        return {"half": halves, f"{columns // 8 // halves} eights": 1, "row": rows / warps}

    def edge(self, tiling: Tiling, channels: int = CHANNELS) -> float:
        """The share of tiles that are not wholly in the map, 16 of these channels at a time."""
        if not channels:
            return 1.0
        height, width = self.out_size
        whole = height // (ROWS * tiling.down) * (width // (8 * tiling.across)) * (self.shape[0] // tiling.images)
        return 1 - whole / tiling.tiles * (channels // CHANNELS) / ceil(channels, CHANNELS)

    def finishing(self, chunks: int, threads: int, channels: int, rows: int) -> dict[str, float]:
        """Of finish_row of statistics.h, whose last block adds up the chunks."""
        slices, begins = threads / 16, ceil(channels, 16)
        trips: dict[str, float] = {"last": 1 / chunks, "arrive": chunks, "begin": begins}
        trips |= {"chunk": chunks / slices, "chunk2": chunks / slices, "i2": ceil(rows, int(slices))}
        for around in ("last", "last/begin"):
            trips |= {f"{around}/i": 3 * slices}
        return trips

    def pooling(self) -> int:
        """Bytes that the columns of windows take: rows of three pixels, two more than a thread has."""
        rows = (ROWS + 2) / ROWS if self.stride == 1 else (2 * ROWS + 1) / ROWS
        return int(3 * rows * self.P * self.channels * self.itemsize) if self.pools else 0
