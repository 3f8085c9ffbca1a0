"""The launches of the Triton kernels: what each moves and how often its loops run. Triton need not be installed."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from fastdarts.kernels.mixed_op.call import Call, Piece, Run, Schedule, Stage, Task, ceil, union
from fastdarts.kernels.mixed_op.contract import AVG_POOL, MAX_POOL
from fastdarts.kernels.mixed_op.triton.blocks import blocks, is_narrow

TILE = 64  # pixels of a tile
MAX_CHUNKS, MAX_WEIGHT_CHUNKS = 512, 64  # of pixels, each a multiple of a tile, over which sums are partial
BLOCK = 64  # outputs of a stage that one program computes, at most
INPUTS = 32  # of a stage whose gradients one program computes, at most
WARPS = 4  # of a program, where blocks() does not say
ROWS_CHANNELS, PARTS = 16, 64  # channels of a program that adds partial sums, and how many it adds at once
WEIGHTS_BLOCK = 256  # weights of a program that adds their gradients
LARGEST_WINDOW = 49  # pixels


class TritonCall(Call):
    """The tasks of one call, forward and backward."""

    def __init__(
        self, x: Tensor, gain: Tensor, offset: Tensor | None, candidates: Sequence[int], stride: int, training: bool
    ):
        super().__init__(x, gain, offset, candidates, stride, training)
        tiles = ceil(self.P, TILE)
        self.stage_tiles = ceil(self.P, TILE if max(self.channels, self.outputs) <= 16 else TILE // 2)
        self.gradient_tiles = ceil(self.P, TILE // 2)
        self.chunks = ceil(self.P, TILE * ceil(tiles, MAX_CHUNKS))
        fewest = max(ceil(tiles, MAX_WEIGHT_CHUNKS), ceil(self.outputs, TILE // 2))
        self.weight_chunks = ceil(self.P, TILE * fewest)
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

    # tasks of forward

    def stage(self, stage: Stage, moments: bool) -> Task:
        *_, pointwise = stage.weights
        blocks = ceil(stage.count, BLOCK)
        reads = self.source(stage) | self.weights(*stage.weights)
        writes = self.z(stage) | (self.moments(stage.row) if moments else {})
        vector = 2 * stage.kernel**2 * self.P * self.channels * blocks
        loads = blocks * self.window(stage) + self.stage_tiles * sum(self.weights(*stage.weights).values())
        tile = self.blocks["stages"]
        trips = {
            "i_p": ceil(self.P, tile["BLOCK_P"]) / self.chunks,
            "i_c": ceil(self.channels, tile["BLOCK_C"]),
            "tap": stage.kernel**2,
        }
        run = self.run("stages", self.chunks * ceil(self.outputs, tile["BLOCK_O"]), trips, "stages")
        return Task(reads, writes, loads, vector, 2 * self.P * self.sizes[pointwise], (run,))

    def moments(self, row: int) -> dict[Piece, int]:
        return self.partial("moments", row, 3, self.chunks)

    def pool_moments(self) -> Task:
        writes = [self.moments(row) for _, row, _, _ in self.pools]
        run = self.run_chunks("pool_moments", self.chunks, {"pools": 1, "tap": 9, "i": len(self.pools)})
        return Task(self.x(), union(writes), 9 * self.P * self.channels * self.itemsize, runs=(run,))

    def statistics(self, rows: Iterable[int], plain: Iterable[int] = ()) -> Task:
        rows = [*rows]
        written = [self.tables(row, "mean", "var") for row in [*rows, *plain]]
        run = self.run_rows("statistics", len(rows) + len([*plain]), self.chunks)
        return Task(union(map(self.moments, rows)), union(written), runs=(run,))

    def mix(self, base: bool) -> Task:
        reads = [self.map("base", e) for e in range(self.edges)] if base else []
        for _, row, kind, own in self.finals:
            reads.append(self.values(row, kind, own))
            reads.append(self.tables(row, "gain", "offset", *(() if row in self.plain else ("mean", "var"))))
        out = [self.map("out", e) for e in range(self.edges)]
        windows = 9 * self.P * self.channels * self.itemsize if self.pools else 0
        trips = {"pools": bool(self.pools), "tap": 9, "i": len(self.finals)}
        run = self.run_map("mix", self.P, trips)
        return Task(union(reads), union(out), windows, 4 * self.P * self.outputs * len(self.finals), runs=(run,))

    # tasks of backward

    def sums(self) -> Task:
        reads, writes, windows = [], [], 0
        for edge, row, kind, own in self.finals:
            reads += [self.map("grad", edge), self.tables(row, "mean"), self.values(row, kind, own)]
            writes.append(self.partial("sums", row, 2, self.chunks))
            windows += (9 if kind in (MAX_POOL, AVG_POOL) else 1) * self.P * self.outputs * self.itemsize
        trips = {"i": len(self.finals), "pools": len(self.pools) / len(self.finals), "tap": 9}
        run = self.run_chunks("gradient_sums", self.chunks, trips)
        return Task(union(reads), union(writes), windows, 4 * self.P * self.outputs * len(self.finals), runs=(run,))

    def totals(self, rows: Iterable[int], plain: Iterable[int], parts: int) -> Task:
        rows, plain = [*rows], [*plain]
        reads = [self.partial("sums", row, 2, parts) for row in [*rows, *plain]]
        reads += [self.tables(row, "var") for row in rows]
        run = self.run_rows("gradient_totals", len(rows) + len(plain), parts)
        return Task(union(reads), union(self.tables(row, "dgain", "doffset") for row in [*rows, *plain]), runs=(run,))

    def raw_gradient(self, stage: Stage) -> dict[Piece, int]:
        """What dL/dz of a stage is formed from."""
        first = stage in self.firsts
        gradient = self.map("middle", stage.row) if first else self.map("grad", stage.edge)
        return gradient | self.z(stage) | self.slope(stage.row)

    def data(self, stage: Stage, need_weights: bool) -> Task:
        *_, pointwise = stage.weights
        reads = self.raw_gradient(stage) | self.weights(pointwise) | self.normal(stage)
        loads = self.again(stage) + self.gradient_tiles * self.sizes[pointwise] * self.itemsize
        outputs = ceil(stage.count, self.blocks["stages_gradients"]["BLOCK_O"])
        trips = {"i_o": outputs, "tap": need_weights * stage.kernel**2, "i_o2": need_weights * outputs}
        trips |= {"row_totals": stage in self.firsts, "i_t": ceil(self.weight_chunks, PARTS)}
        run = self.run_chunks("stages_gradients", self.weight_chunks, trips, "stages_gradients")
        return Task(reads, self.t(stage), loads, 0, 2 * self.P * self.sizes[pointwise], (run,))

    def again(self, stage: Stage) -> int:
        """Bytes that dL/dz is formed from, for every block of inputs."""
        return 2 * self.P * stage.count * self.itemsize * ceil(self.channels, INPUTS)

    def weight_gradients(self, stage: Stage) -> Task:
        """Their parts, of both convolutions; t is in registers, the depthwise output is computed again."""
        *depthwise, pointwise = stage.weights
        taps, place = stage.kernel**2, (stage.raw, stage.half)
        reads = self.source(stage) | self.weights(*depthwise) | self.raw_gradient(stage)
        writes = {("products", *place): 4 * self.weight_chunks * self.sizes[pointwise]}
        if depthwise:
            writes |= {("taps", *place): 4 * self.weight_chunks * taps * self.channels}
        vector = 2 * taps * self.P * self.channels * (1 + len(depthwise))
        loads = self.window(stage) + self.again(stage)
        loads += self.gradient_tiles * (
            len(depthwise) * taps * self.channels * (self.itemsize + 4) + 4 * self.sizes[pointwise]
        )
        return Task(reads, writes, loads, vector, 2 * self.P * self.sizes[pointwise])

    def middle(self, stage: Stage) -> Task:
        """dL/d(normalised middle) that the second half `stage` reads."""
        row = stage.reads.row
        reads = self.t(stage) | self.source(stage) | self.weights(stage.weights[0])
        writes = self.map("middle", row) | self.partial("sums", row, 2, self.weight_chunks)
        run = self.run_chunks("middle_gradients", self.weight_chunks, {"tap": stage.kernel**2})
        return Task(reads, writes, self.window(stage), 2 * stage.kernel**2 * self.P * self.channels, runs=(run,))

    def pool_gradients(self) -> Task:
        reads = [self.x()]
        for edge, row, _, _ in self.pools:
            reads += [self.map("grad", edge), self.slope(row)]
        run = self.run_map("pool_gradients", self.P, {"pools": 1, "tap": 9, "i": len(self.pools)})
        return Task(union(reads), self.pooled(), 9 * self.P * self.channels * self.itemsize, runs=(run,))

    def pooled(self) -> dict[Piece, int]:
        """dL/d(maximum), dL/d(average) and which pixel is the maximum."""
        if not self.pools:
            return {}
        return self.map("dmax", itemsize=4) | self.map("davg", itemsize=4) | self.map("which", itemsize=1)

    def state_gradient(self) -> Task:
        stages = self.singles + self.firsts
        reads = [self.x(), self.pooled()] + [self.t(stage) for stage in stages]
        reads += [self.weights(*stage.weights[:-1]) for stage in stages]
        for edge, row, _, _ in self.skips:
            reads += [self.map("grad", edge), self.tables(row, "gain")]
        windows = sum(map(self.window, stages)) + 9 * sum(self.pooled().values())
        vector = sum(2 * stage.kernel**2 * self.P * self.channels for stage in stages)
        taps = sum(stage.kernel**2 for stage in stages) / max(1, len(stages))
        trips = {"i_s": len(stages), "i_s/tap": taps, "i": len(self.skips), "tap": 9 * bool(self.pools)}
        run = self.run_map("state_gradient", self.pixels, trips)
        return Task(union(reads), {("dx",): self.pixels * self.channels * self.itemsize}, windows, vector, runs=(run,))

    def weight_totals(self) -> Task:
        stages = self.seconds + self.singles + self.firsts
        largest = self.channels * max(self.outputs, LARGEST_WINDOW)
        programs = ceil(largest, WEIGHTS_BLOCK) * len(stages)
        trips = dict.fromkeys(("chunk", "chunk2"), self.weight_chunks)
        return Task(
            union(self.weight_gradients(stage).writes for stage in stages),
            self.weights(*range(len(self.sizes)), name="dweights"),
            runs=(self.run("weight_totals", programs, trips, variant="C16"),),
        )

    # calls

    def forward(self, base: bool) -> "Schedule":
        """The launches of a forward pass; pieces are ready at the end of a phase, between two barriers."""
        training = self.training
        second = [stage.row for stage in self.seconds]
        rows = [stage.row for stage in self.firsts]
        rows += [row for _, row, _, _ in self.finals if row not in self.plain and row not in second]
        schedule = self.stages(0, training)
        if training:
            schedule.insert(1, ("pool_moments", [(0, self.pool_moments())] * bool(self.pools)))
            schedule.insert(2, ("statistics", [(0, self.statistics(rows, self.plain))]))
            schedule.append(("statistics", [(1, self.statistics(second))] * bool(second)))
        return [*schedule, ("mix", [(2 if training else 1, self.mix(base))])]

    def stages(self, phase: int, moments: bool) -> "Schedule":
        """The raw outputs; by running statistics, singles can wait for what reads them."""
        singles = phase + (not self.training)
        first = [(singles, self.stage(s, moments)) for s in self.singles]
        first += [(phase, self.stage(s, moments)) for s in self.firsts]
        return [("stages", first), ("stages", [(phase + 1, self.stage(s, moments)) for s in self.seconds])]

    def backward(self, need_x: bool, need_weights: bool, recompute: bool) -> "Schedule":
        """The launches of a backward pass."""
        sums, final, middle, first, state = range(5) if self.training else (1, 1, 2, 2, 4)
        rows = [row for _, row, _, _ in self.finals if row not in self.plain]
        singles, firsts = (self.singles, self.firsts) if need_x or need_weights else ((), ())
        middles = [stage.row for stage in self.firsts]
        totals = [(middle, self.totals(middles, (), self.weight_chunks))] * bool(middles)
        added = [(phase, task._replace(runs=())) for phase, task in totals]  # by programs that have other work too

        def gradients(phase: int, stages: Sequence[Stage]) -> list[tuple[int, Task]]:
            tasks = [(phase, self.data(stage, need_weights)) for stage in stages]
            return tasks + [(phase, self.weight_gradients(stage)) for stage in stages] * need_weights

        return [
            *(self.stages(-2, False) if recompute else ()),
            ("gradient_sums", [(sums, self.sums())]),
            ("gradient_totals", [(sums, self.totals(rows, self.plain, self.chunks))]),
            ("stages_gradients", gradients(final, [*self.seconds, *singles])),
            ("middle_gradients", [(middle, self.middle(stage)) for stage in self.seconds]),
            # those who need them add them, where there is anybody
            ("stages_gradients", added + gradients(first, firsts)) if firsts else ("gradient_totals", totals),
            ("pool_gradients", [(final, self.pool_gradients())] * (need_x and bool(self.pools))),
            ("state_gradient", [(state, self.state_gradient())] * need_x),
            ("weight_totals", [(state, self.weight_totals())] * (need_weights and bool(self.sizes))),
        ]
