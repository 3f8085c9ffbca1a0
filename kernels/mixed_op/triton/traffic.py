"""The launches of the Triton kernels: what each moves and how often its loops run. Triton need not be installed."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from fastdarts.kernels.mixed_op.call import Run, Schedule, Stage, Task, ceil
from fastdarts.kernels.mixed_op.contract import AVG_POOL, MAX_POOL
from fastdarts.kernels.mixed_op.tasks import Tasks
from fastdarts.kernels.mixed_op.triton.blocks import blocks, is_narrow

TILE = 64  # pixels of a tile
MAX_CHUNKS, MAX_WEIGHT_CHUNKS = 512, 64  # of pixels, each a multiple of a tile, over which sums are partial
BLOCK = 64  # outputs of a stage that one program computes, at most
INPUTS = 32  # of a stage whose gradients one program computes, at most
WARPS = 4  # of a program, where blocks() does not say
ROWS_CHANNELS, PARTS = 16, 64  # channels of a program that adds partial sums, and how many it adds at once
WEIGHTS_BLOCK = 256  # weights of a program that adds their gradients
LARGEST_WINDOW = 49  # pixels


class TritonCall(Tasks):
    """The tasks of one call, forward and backward."""

    moment_sums = 3

    def __init__(
        self, x: Tensor, gain: Tensor, offset: Tensor | None, candidates: Sequence[int], stride: int, training: bool
    ):
        super().__init__(x, gain, offset, candidates, stride, training)
        tiles = ceil(self.P, TILE)
        self.stage_tiles = ceil(self.P, TILE if max(self.channels, self.outputs) <= 16 else TILE // 2)
        self.gradient_tiles = ceil(self.P, TILE // 2)
        self.chunks = ceil(self.P, TILE * ceil(tiles, MAX_CHUNKS))
        fewest = max(ceil(tiles, MAX_WEIGHT_CHUNKS), ceil(self.outputs, TILE // 2))
        self.parts = ceil(self.P, TILE * fewest)
        self.blocks = blocks(self.channels, self.outputs, exact=False)
        self.wide = max(self.channels, self.outputs)
        self.variant = "C16" if is_narrow(self.channels, self.outputs) else "C64"

    # runs

    def run(self, kernel: str, programs: int, trips: dict[str, float], tile: str = "", variant: str = "") -> Run:
        """Of `kernel` with the blocks of `tile`."""
        warps = self.blocks.get(tile, {}).get("num_warps", WARPS)
        return Run("triton", f"{kernel}_kernel[{variant or self.variant}]", programs, warps, trips)

    def run_map(self, kernel: str, pixels: int, trips: dict[str, float]) -> Run:
        """With a program for every tile of a map."""
        tile = self.blocks["maps"]
        programs = ceil(pixels, tile["BLOCK_P"]) * ceil(self.wide, tile["BLOCK_C"])
        return self.run(kernel, programs, trips, "maps")

    def run_chunks(self, kernel: str, chunks: int, trips: dict[str, float], tile: str = "maps") -> Run:
        """With a program for every chunk, whose tiles are its loop i_p."""
        channels = self.wide if tile == "maps" else self.channels
        programs = chunks * ceil(channels, self.blocks[tile]["BLOCK_C"])
        tiles = ceil(self.P, self.blocks[tile]["BLOCK_P"]) / chunks
        return self.run(kernel, programs, {"i_p": tiles} | trips, tile)

    def run_rows(self, kernel: str, rows: int, chunks: int) -> Run:
        """With a program for every row of a table and 16 channels, which adds partial sums."""
        parts = ceil(chunks, PARTS)
        trips = {"i_t": parts, "i_t2": parts, "row_totals": 1}
        return self.run(kernel, rows * ceil(self.outputs, ROWS_CHANNELS), trips, variant="C16")

    # tasks

    def moment_chunks(self, row: int) -> int:
        return self.chunks

    def sum_chunks(self, row: int) -> int:
        return self.parts if row in self.rows()[-1] else self.chunks

    def weight_chunks(self, stage: Stage) -> int:
        return self.parts

    def stage(self, stage: Stage, moments: bool) -> Task:
        blocks, tile, task = ceil(stage.count, BLOCK), self.blocks["stages"], super().stage(stage, moments)
        trips = {
            "i_p": ceil(self.P, tile["BLOCK_P"]) / self.chunks,
            "i_c": ceil(self.channels, tile["BLOCK_C"]),
            "tap": stage.kernel**2,
        }
        run = self.run("stages", self.chunks * ceil(self.outputs, tile["BLOCK_O"]), trips, "stages")
        loads = blocks * self.window(stage) + self.stage_tiles * sum(self.weights(*stage.weights).values())
        return task._replace(windows=loads, vector=task.vector * blocks, runs=(run,))

    def pool_moments(self) -> Task:
        run = self.run_chunks("pool_moments", self.chunks, {"pools": 1, "tap": 9, "i": len(self.pools)})
        return super().pool_moments()._replace(windows=self.nine(), runs=(run,))

    def nine(self) -> int:
        """Bytes that the windows of a pool take."""
        return 9 * self.P * self.channels * self.itemsize

    def statistics(self, rows: Iterable[int], plain: Iterable[int] = ()) -> Task:
        rows, plain = [*rows], [*plain]
        run = self.run_rows("statistics", len(rows) + len(plain), self.chunks)
        return super().statistics(rows, plain)._replace(runs=(run,))

    def mix(self, base: bool) -> Task:
        trips = {"pools": bool(self.pools), "tap": 9, "i": len(self.finals)}
        windows = self.nine() if self.pools else 0
        return super().mix(base)._replace(windows=windows, runs=(self.run_map("mix", self.P, trips),))

    def sums(self) -> Task:
        pixels = sum(9 if kind in (MAX_POOL, AVG_POOL) else 1 for _, _, kind, _ in self.finals)
        trips = {"i": len(self.finals), "pools": len(self.pools) / len(self.finals), "tap": 9}
        run = self.run_chunks("gradient_sums", self.chunks, trips)
        return super().sums()._replace(windows=pixels * self.P * self.outputs * self.itemsize, runs=(run,))

    def totals(self, rows: Iterable[int], plain: Iterable[int]) -> Task:
        rows, plain = [*rows], [*plain]
        run = self.run_rows("gradient_totals", len(rows) + len(plain), max(map(self.sum_chunks, [*rows, *plain])))
        return super().totals(rows, plain)._replace(runs=(run,))

    def data_of(self, stage: Stage, need_weights: bool) -> Task:
        """With the programs that may add its weight gradients too."""
        *_, pointwise = stage.weights
        loads = self.again(stage) + self.gradient_tiles * self.sizes[pointwise] * self.itemsize
        outputs = ceil(stage.count, self.blocks["stages_gradients"]["BLOCK_O"])
        trips = {"i_o": outputs, "tap": need_weights * stage.kernel**2, "i_o2": need_weights * outputs}
        trips |= {"row_totals": stage in self.firsts, "i_t": ceil(self.parts, PARTS)}
        run = self.run_chunks("stages_gradients", self.parts, trips, "stages_gradients")
        return self.data(stage)._replace(windows=loads, runs=(run,))

    def again(self, stage: Stage) -> int:
        """Bytes that dL/dz is formed from, for every block of inputs."""
        return 2 * self.P * stage.count * self.itemsize * ceil(self.channels, INPUTS)

    def weight_gradients(self, stage: Stage) -> Task:
        *depthwise, pointwise = stage.weights
        loads = self.window(stage) + self.again(stage)
        loads += self.gradient_tiles * (
            len(depthwise) * stage.kernel**2 * self.channels * (self.itemsize + 4) + 4 * self.sizes[pointwise]
        )
        return super().weight_gradients(stage)._replace(windows=loads)

    def middle(self, stage: Stage) -> Task:
        run = self.run_chunks("middle_gradients", self.parts, {"tap": stage.kernel**2})
        return super().middle(stage)._replace(windows=self.window(stage), runs=(run,))

    def pool_gradients(self) -> Task:
        run = self.run_map("pool_gradients", self.P, {"pools": 1, "tap": 9, "i": len(self.pools)})
        return super().pool_gradients()._replace(windows=self.nine(), runs=(run,))

    def state_gradient(self) -> Task:
        stages = self.singles + self.firsts
        windows = sum(map(self.window, stages)) + 9 * sum(self.pooled().values())
        taps = sum(stage.kernel**2 for stage in stages) / max(1, len(stages))
        trips = {"i_s": len(stages), "i_s/tap": taps, "i": len(self.skips), "tap": 9 * bool(self.pools)}
        run = self.run_map("state_gradient", self.pixels, trips)
        return super().state_gradient()._replace(windows=windows, runs=(run,))

    def weight_totals(self, stages: Iterable[Stage]) -> Task:
        stages = [*stages]
        largest = self.channels * max(self.outputs, LARGEST_WINDOW)
        programs, trips = ceil(largest, WEIGHTS_BLOCK), dict.fromkeys(("chunk", "chunk2"), self.parts)
        run = self.run("weight_totals", programs * len(stages), trips, variant="C16")
        return super().weight_totals(stages)._replace(runs=(run,))

    # calls

    def backward(self, need_x: bool, need_weights: bool, recompute: bool) -> "Schedule":
        """The launches of a backward pass."""
        sums, final, middle, first, state = range(5) if self.training else (1, 1, 2, 2, 4)
        *_, rows, middles = self.rows()
        singles, firsts = (self.singles, self.firsts) if need_x or need_weights else ((), ())
        totals = [(middle, self.totals(middles, ()))] if middles else []
        added = [(phase, task._replace(runs=())) for phase, task in totals]  # by programs that have other work too

        adds = need_weights and bool(self.sizes)

        def gradients(phase: int, stages: Sequence[Stage]) -> list[tuple[int, Task]]:
            tasks = [(phase, self.data_of(stage, need_weights)) for stage in stages]
            return tasks + [(phase, self.weight_gradients(stage)) for stage in stages] * need_weights

        return [
            *(self.stages(-2, False) if recompute else ()),
            ("gradient_sums", [(sums, self.sums())]),
            ("gradient_totals", [(sums, self.totals(rows, self.plain))]),
            ("stages_gradients", gradients(final, [*self.seconds, *singles])),
            ("middle_gradients", [(middle, self.middle(stage)) for stage in self.seconds]),
            # those who need them add them, where there is anybody
            ("stages_gradients", added + gradients(first, firsts)) if firsts else ("gradient_totals", totals),
            ("pool_gradients", [(final, self.pool_gradients())] * (need_x and bool(self.pools))),
            ("state_gradient", [(state, self.state_gradient())] * need_x),
            ("weight_totals", [(state, self.weight_totals(self.seconds + self.singles + self.firsts))] * adds),
        ]
