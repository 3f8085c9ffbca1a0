"""The launches of the CUDA kernels: what each moves and how often its loops run. See csrc/cuda/mixed_op/."""

import math
from collections.abc import Iterable, Sequence

from fastdarts.kernels.mixed_op.call import Run, Schedule, Stage, Task, ceil, union
from fastdarts.kernels.mixed_op.contract import DROPPED_SKIP, SEEDS
from fastdarts.kernels.mixed_op.cuda_loops import PRODUCT, UNROLLED, WASTE, CudaLoops
from fastdarts.kernels.mixed_op.cuda_tiles import (
    CHANNELS,
    FOUR,
    ROWS,
    STRIP_WARPS,
    WARP,
    Tiling,
    lines,
    tiling_of,
    whole_columns,
)

PASS_ROWS, TOTAL_WARPS, TOTALS_CHANNELS = 7, 16, 16  # of sums.cu
GROUPS, WEIGHT_WARPS = 4, 8  # of stages_backward.cu
NORMALS = 3 * CHANNELS * 4  # bytes by which a tile's channels are normalised
TAP_COLUMNS = {3: 4, 5: 2, 7: 1}  # of weight_gradients.h: columns of pixels of a warp, by size of the window
HELD = 80 << 10  # of call.h


class CudaCall(CudaLoops):
    """The tasks of one call, forward and backward."""

    moment_sums = 4

    # tasks of forward

    def stage(self, stage: Stage, moments: bool) -> Task:
        *_, pointwise = stage.weights
        together = self.seconds if stage.reads else [*self.singles, *self.firsts]
        few = not self.wide or max(other.count for other in together) <= 16
        stride, outputs, inputs = self.stride_of(stage), 16 if few else 32, ceil(self.channels, CHANNELS)
        tiling, blocks = self.stage_tiling(stage) if moments else self.tiling(stride), ceil(stage.count, outputs)
        shape = (stride, stage.kernel, stage.dilation)
        case = f"{stage.kernel}×{stage.kernel}"
        if stage.kernel > 1:
            case += " stride 2" if stride == 2 else " dilated" if stage.dilation == 2 and stage.kernel < 7 else ""
        threads = WARP * tiling.warps
        kernel = max(other.kernel for other in together)
        windows = [self.window_bytes(tiling, stride, other.kernel, other.dilation) for other in together]
        taps, products = self.tap_bytes(kernel), 4 * outputs * 4 * self.itemsize
        rest = 4 * 12 * ceil(self.channels, 4) + 4 * outputs + outputs // 8 * threads * FOUR
        holds = inputs == 1 or max(windows) + inputs * (taps + products) + rest <= HELD
        held, fresh = (inputs if holds else 1), (1 / tiling.each if holds else 1)  # weights that are loaded again
        trips = self.filling(tiling, *shape) | {case: 1, "t": tiling.each, "c": inputs, "kx": stage.kernel}
        trips |= {"c/load_taps": (stage.kernel > 1) * fresh, "load_taps/i": ceil(held * taps, 16 * threads)}
        own = self.taps(stage.kernel, threads)
        trips["c/load_taps/i"] = own["load_taps/i2" if self.halves else "load_taps/i"]
        trips |= {"c/setup": fresh, "setup/i": ceil(4 * outputs, threads), "c/i": fresh * ceil(4 * outputs, threads)}
        trips |= {"normal": stage.reads is not None, "plain": stage.reads is None}
        trips |= {"normal/c": ceil(self.channels, 4 * WARP) / tiling.warps}
        edge, one = self.edge(tiling), 1 / tiling.warps  # one: what only one warp does
        trips |= {"whole": 1 - edge, "edge": edge, "moments": moments, "first": moments * one / tiling.each}
        trips |= {"totals": moments, "write": one, "totals/write/t": tiling.each, "warp": tiling.warps}
        trips |= self.finishing(tiling.chunks, threads, outputs, 1)
        shared = max(windows) + held * (taps + products) + rest
        run = self.run(f"stages_kernel<{outputs // 8}>", tiling.chunks * blocks, tiling.warps, trips, shared)
        weights = tiling.tiles * tiling.warps * self.sizes[pointwise] * self.itemsize
        task = super().stage(stage, moments)
        if moments:
            task.writes.update(self.tables(stage.row, "mean", "var"))
        loads = blocks * self.windows_of(tiling, *shape) + weights
        return self.on_tensor_cores(task._replace(windows=loads, vector=task.vector * blocks, runs=(run,)))

    def pool_moments(self) -> Task:
        strips = self.strips(self.tiling(self.stride).chunks)
        trips = self.units(strips) | {"pools": 1, "i": 2 * strips.quads / WARP}  # one warp has 32 channels
        trips |= self.finishing(strips.chunks, STRIP_WARPS * WARP, 4 * strips.quads, len(self.pools))
        run = self.run("pool_moments_kernel", strips.chunks * strips.blocks, STRIP_WARPS, trips)
        first = {kind: row for _, row, kind, _ in reversed(self.pools)}  # others of a kind have the same
        writes = [self.moments(row) for row in first.values()]
        writes += [self.tables(row, "mean", "var") for _, row, _, _ in self.pools]
        return Task(self.x(), union(writes), self.pooling(), runs=(run,))

    def run_rows(self, kernel: str, rows: int) -> tuple[Run]:
        return (self.run(kernel, rows * ceil(self.outputs, TOTALS_CHANNELS), TOTAL_WARPS, {}),)

    def mix(self, bases: int) -> Task:
        strips, finals = self.strips(), len(self.finals)
        draws = sum(SEEDS[kind] > 0 for _, _, kind, _ in self.finals)
        threads = STRIP_WARPS * WARP
        trips = self.units(strips) | {"pools": bool(self.pools), "e": self.edges, "k": finals / self.edges}
        trips |= {
            "drawn": draws / finals,
            "plain rows": 1 / strips.chunks,
            "tables/i": ceil(finals * strips.quads, threads),
        }
        of_edges, offsets = ceil(self.edges * strips.quads, threads), finals / self.edges * self.offset / UNROLLED
        trips |= {"i": of_edges, "i/k": offsets, "i2": of_edges, "i2/k": offsets}
        planes = 3 if draws else 2 * bool(self.pools)
        fours = (2 * finals + self.edges) * strips.quads + planes * ROWS * threads
        run = self.run("mix_kernel", strips.chunks * strips.blocks, STRIP_WARPS, trips, fours * FOUR)
        task = super().mix(bases)
        for row in self.plain:
            task.writes.update(self.tables(row, "mean", "var"))
        return task._replace(windows=self.pooling(), runs=(run,))

    # tasks of backward

    def sums(self) -> Task:
        chunks, threads = self.tiling(self.stride).chunks, STRIP_WARPS * WARP
        edges = [[kind for edge, _, kind, _ in self.finals if edge == e] for e in range(self.edges)]
        passes = sum(ceil(len(kinds), PASS_ROWS) for kinds in edges)
        strips, rows = self.strips(chunks, passes), len(self.finals) / passes
        trips = self.units(strips) | {"pools": bool(self.pools), "k": 0, "i/unaligned": 1}
        trips |= {"i": 1, "i2": ceil(int(1 + rows) * 4 * strips.quads, threads)}
        draws = max(
            sum(SEEDS[kind] > 0 for kind in kinds[i : i + PASS_ROWS])
            for kinds in edges
            for i in range(0, len(kinds), PASS_ROWS)
        )
        planes = 2 + draws  # of maxima, of averages, and one for each row of a pass that draws
        fours = PASS_ROWS * strips.quads + max(1 + PASS_ROWS, ROWS * planes) * threads
        run = self.run("gradient_sums_kernel", chunks * strips.blocks * passes, STRIP_WARPS, trips, fours * FOUR)
        return super().sums()._replace(windows=passes * self.pooling(), runs=(run,))

    def totals(self, rows: Iterable[int], plain: Iterable[int]) -> Task:
        rows, plain = [*rows], [*plain]
        runs = self.run_rows("gradient_totals_kernel", len(rows) + len(plain))
        return super().totals(rows, plain)._replace(runs=runs)

    def data_of(self, stage: Stage, need_weights: bool) -> Task:
        """With the programs that may add its weight gradients too."""
        stride, inputs = self.stride_of(stage), ceil(self.channels, CHANNELS)
        tiling, shape = self.weight_tiling(stride), (stride, stage.kernel, stage.dilation)
        groups = ceil(stage.count, CHANNELS)
        more = ceil(groups, min(groups, GROUPS)) if need_weights else 1
        trips = self.filling(tiling, *shape) | self.taps(stage.kernel, WARP * tiling.warps)
        trips |= self.gradient_trips(stage, tiling, need_weights)
        window = 0
        if need_weights and stage.kernel > 1:
            window = self.window_bytes(tiling, *shape) + self.tap_bytes(stage.kernel)
        areas = tiling.warps * (2 * WARP * CHANNELS * 4 + min(groups, GROUPS) * 2 * WARP * FOUR) * need_weights
        shared = (4 + CHANNELS) * groups * CHANNELS * 4 + NORMALS + window + areas
        programs = tiling.chunks * inputs * more
        run = self.run(f"stage_gradients_kernel<{stride}>", programs, tiling.warps, trips, shared)
        loads = 2 * self.P * stage.count * self.itemsize * inputs
        if need_weights and stage.kernel > 1:
            loads += 2 * self.windows_of(tiling, *shape)
        return self.data(stage)._replace(windows=loads, runs=(run,))

    def weight_gradients(self, stage: Stage) -> Task:
        pairs = (stage.kernel + 1) / stage.kernel  # taps that are added up over those that there are
        return self.on_tensor_cores(super().weight_gradients(stage), WASTE * pairs)

    def gradient_trips(self, stage: Stage, tiling: Tiling, need_weights: bool) -> dict[str, float]:
        """Of the parts of stage_gradients, for one warp."""
        groups, added = ceil(stage.count, CHANNELS), need_weights and stage.kernel > 1
        normalises = stage.reads is not None
        return {
            f"{stage.kernel}×{stage.kernel} gradient": 1,
            "left": tiling.each,
            "o": ceil(groups * CHANNELS, WARP) / tiling.warps,
            "setup/i": ceil(groups * CHANNELS**2, WARP * tiling.warps),
            "block": groups,
            "half": added * (2 if tiling.halo(self.stride_of(stage), stage.kernel, stage.dilation)[1] > 24 else 1),
            "normal": added and normalises,
            "plain": added and not normalises,
            "load_taps": added,
            "kx": added * stage.kernel,
            "taps": added and stage.dilation == 1,
            "dilated taps": added and stage.dilation == 2,
            "column": 8 // TAP_COLUMNS.get(stage.kernel, 8),
            "end": need_weights,
            "part": tiling.warps / 2,
            "store/i/part": tiling.warps / (2 if self.halves else 1),
            "store": added,
            "normals": added and normalises / tiling.warps,
            "edge": self.edge(tiling, self.channels if stage.count % CHANNELS == 0 else 0),
        } | dict.fromkeys(("i", "i2"), need_weights)

    def middle(self, stage: Stage) -> Task:
        tiling, shape = self.tiling(1), (1, stage.kernel, 1)
        trips = self.filling(tiling, *shape) | self.taps(stage.kernel, WARP * tiling.warps)
        trips |= {f"{stage.kernel}×{stage.kernel}": 1, "i": tiling.each, "kx": stage.kernel}
        trips |= {"warp": tiling.warps, "normals": 1 / tiling.warps, "edge": self.edge(tiling, self.outputs)}
        shared = self.window_bytes(tiling, *shape) + self.tap_bytes(stage.kernel)
        shared += NORMALS + tiling.warps * 2 * CHANNELS * 4
        programs = tiling.chunks * ceil(self.outputs, CHANNELS)
        run = self.run("middle_gradients_kernel", programs, tiling.warps, trips, shared)
        task = super().middle(stage)._replace(windows=self.windows_of(tiling, *shape), runs=(run,))
        return self.on_tensor_cores(task)

    def pool_gradients(self) -> Task:
        strips, edges = self.strips(), len({edge for edge, *_ in self.pools})
        trips = self.units(strips) | {"pools": 1, "e": edges}
        trips |= {"i": ceil(2 * edges * strips.quads, STRIP_WARPS * WARP)}
        fours = 2 * ROWS * STRIP_WARPS * WARP + 8 * edges * strips.quads
        run = self.run("pool_gradients_kernel", strips.chunks * strips.blocks, STRIP_WARPS, trips, fours * FOUR)
        return super().pool_gradients()._replace(windows=self.pooling(), runs=(run,))

    def state_gradient(self) -> Task:
        n, _, height, width = self.shape
        strided, inputs = self.stride == 2, ceil(self.channels, CHANNELS)
        if strided:  # the warps of a block have the four parities of one tile
            rows, columns = ceil(ceil(height, 2), 8), ceil(ceil(width, 2), 8)
            tiling = Tiling(1, 2, 1, rows * columns * n, rows * columns * n)
        else:
            tiling = tiling_of(n, height, width, 1, 2**31)
        stages = self.singles + self.firsts
        warps = tiling.warps * (4 if strided else 1)
        runs, windows = [], 0
        dropped = sum(kind == DROPPED_SKIP for _, _, kind, _ in self.skips)
        trips: dict[str, float] = {"i": len(stages), "i2": len(self.skips) - dropped, "d": dropped}
        trips |= {"column": 0, "row": 0}
        trips |= {"pool_gradients": bool(self.pools), "dx": 1.5 if strided else 3}
        points = sum(stage.kernel == 1 for stage in stages) / (4 if strided else 1)
        trips |= {"point": points / max(1, len(stages)), "edge": self.edge(tiling, self.channels)}
        windowed = [stage for stage in stages if stage.kernel > 1]
        shared = [(0, 0)]
        for stage in windowed:
            size = ceil(stage.kernel, 2) if strided and stage.dilation == 1 else stage.kernel
            more = stage.kernel // 2 * stage.dilation if strided else 2 * (stage.kernel // 2) * stage.dilation
            halo = tiling.images * (ROWS * tiling.down + more), whole_columns(8 * tiling.across + more)
            pairs = ceil(stage.kernel, 2) * stage.kernel if strided else ceil(stage.kernel**2, 2)  # of taps
            taps = pairs * PRODUCT if self.halves else self.tap_bytes(stage.kernel)
            shared.append((math.prod(halo) * CHANNELS * self.itemsize, taps))
            share = 1 / len(windowed)
            for name, often in self.filling_of(*halo, warps).items():
                trips[name] = trips.get(name, 0.0) + share * often
            own = ceil(pairs * 8 if self.halves else stage.kernel**2 * CHANNELS, WARP * warps)
            trips["i/load_taps/i"] = trips.get("i/load_taps/i", 0.0) + share * own
            case = f"{size} rows" if strided else f"{size}×{size}{' dilated' * (stage.dilation == 2)} data"
            trips[f"i/{case}"] = trips.get(f"i/{case}", 0) + 1 / len(stages)
            trips[f"{case}/column"] = ceil(size, 2) if strided and self.halves else size
            if not self.halves:
                reads = size * (ROWS + 2 * size) * FOUR * WARP
            elif strided:
                reads = ceil(size, 2) * (2 * lines(size, 1, 1) + size) * PRODUCT
            else:
                reads = (lines(size, 1, stage.dilation) * size + pairs) * PRODUCT
            blocks = tiling.tiles * inputs
            windows += blocks * (math.prod(halo) * CHANNELS * 2 * self.itemsize + warps * reads)
        share = len(windowed) / max(1, len(stages))
        trips |= {"i/half": share * trips.pop("half", 0.0), "i/load_taps": share}
        window, taps = (max(sizes) for sizes in zip(*shared, strict=True))
        trips["load_taps/i"] = ceil(taps, 16 * WARP * warps)
        run = self.run(f"state_gradient_kernel<{self.stride}>", tiling.tiles * inputs, warps, trips, window + taps)
        runs.append(run)
        windows += 3 * sum(self.pooled().values())
        return self.on_tensor_cores(super().state_gradient()._replace(windows=windows, runs=tuple(runs)))

    def weight_totals(self, stages: Iterable[Stage]) -> Task:
        stages = [*stages]
        values = max(self.channels * max(stage.count, stage.kernel**2) for stage in stages)
        chunks = max(map(self.weight_chunks, stages))
        trips = {"i": 2 * chunks}  # both of the depthwise and of the pointwise weights
        run = self.run("weight_totals_kernel", ceil(values, WARP * WEIGHT_WARPS) * len(stages), WEIGHT_WARPS, trips)
        return super().weight_totals(stages)._replace(runs=(run,))

    # calls

    def forward(self, bases: int) -> Schedule:
        """The launches of a forward pass; every launch takes the statistics of its rows itself."""
        first, second = self.stages(0, self.training)
        mix = ("mix", [(2 if self.training else 1, self.mix(bases))])
        if not self.training:
            return [first, second, mix]
        counters = Task({}, {("moments", "counters"): 4 * self.outputs * (self.finals[-1][1] + 1)})
        pools = ("pool_moments", [(0, self.pool_moments())] * bool(self.pools))
        return [("counters set to 0", [(-1, counters)]), first, pools, second, mix]

    def backward(self, need_x: bool, need_weights: bool, recompute: bool) -> Schedule:
        """The launches of a backward pass."""
        sums, final, middle, first, state = range(5) if self.training else (1, 1, 2, 2, 4)
        *_, rows, middles = self.rows()
        through = need_x or need_weights

        def gradients(phase: int, stages: Sequence[Stage]) -> Schedule:
            tasks = [(phase, self.data_of(stage, need_weights)) for stage in stages]
            tasks += [(phase, self.weight_gradients(stage)) for stage in stages] * need_weights
            return [("stage_gradients", tasks)]

        def totals(*stages: Stage) -> Schedule:
            return [("weight_totals", [(state, self.weight_totals(stages))] if need_weights and stages else [])]

        alike = self.stride == 1  # all stages have the same tiles
        singles, readers = self.singles if through else (), (*self.singles, *self.firsts)
        return [
            *(self.stages(-2, False) if recompute else ()),
            ("gradient_sums", [(sums, self.sums())]),
            ("gradient_totals", [(sums, self.totals(rows, self.plain))]),
            *gradients(final, (*self.seconds, *(singles if alike else ()))),
            *(() if alike else gradients(final, singles)),
            ("middle_gradients", [(middle, self.middle(stage)) for stage in self.seconds]),
            ("gradient_totals", [(middle, self.totals(middles, ()))] if middles else []),
            *(gradients(first, self.firsts) if through else ()),
            *totals(*self.seconds, *(readers if alike else ())),
            *totals(*(() if alike else readers)),
            ("pool_gradients", [(final, self.pool_gradients())] * (need_x and bool(self.pools))),
            ("state_gradient", [(state, self.state_gradient())] * need_x),
        ]
