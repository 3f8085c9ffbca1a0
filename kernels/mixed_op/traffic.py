"""What the launches of mixed_op move and compute, counted from its arguments; neither Triton nor a GPU is needed.

A call is a list of tasks (one stage, the sums of one row, ...). A task says which pieces it reads and writes: a map, a
row of a table, the weights of a convolution, the partial sums of a row. A launch is a group of tasks: it reads each
piece once and writes it once, as if caches were perfect, and reads nothing that it wrote itself.

The least that any implementation moves is the same tasks in as few groups as their dependencies allow, with partial
sums for free. A global dependency is a barrier between groups: the statistics of a BatchNorm, the gradient sums of one,
and a stencil whose input is itself computed (the second half of a separable convolution, and the gradients of depthwise
convolutions and pools, which gather from neighbours). Nothing is computed twice: recomputing z from x at every barrier
would move less and compute more.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from fastdarts.kernels.mixed_op.contract import (
    AVG_POOL,
    DIL_CONV,
    FACTORIZED_REDUCE,
    MAX_POOL,
    NOISE,
    RELU_CONV,
    SEP_CONV,
    SKIP,
    WEIGHTS,
)

TILE = 64  # pixels of a tile
MAX_CHUNKS, MAX_WEIGHT_CHUNKS = 512, 64  # of pixels, each a multiple of a tile, over which sums are partial
BLOCK = 64  # outputs of a stage that one program computes, at most
INPUTS = 32  # of a stage whose gradients one program computes, at most
FREE = ("moments", "sums", "taps", "products")  # partial sums, which a perfect implementation would not move
Piece = tuple  # (name, number ...)


class Task(NamedTuple):
    """Bytes by piece, bytes loaded again and again through L1, operations outside and in products."""

    reads: dict[Piece, int]
    writes: dict[Piece, int]
    windows: int = 0
    vector: int = 0
    matrix: int = 0


class Launch(NamedTuple):
    """A group of tasks: its kernel, bytes read and written, bytes through L1, operations outside and in products."""

    kernel: str
    reads: int
    writes: int
    loads: int
    vector: int
    matrix: int

    @property
    def moved(self) -> int:
        return self.reads + self.writes


class Traffic(NamedTuple):
    """Of one call: its launches, and the bytes that the least implementation moves."""

    launches: list[Launch]
    least: int


def ceil(a: int, b: int) -> int:
    return -(-a // b)


class Stage(NamedTuple):
    """One first or second half of a convolution; `reads` is the middle it normalises, None for x."""

    kernel: int
    dilation: int
    weights: tuple[int, ...]
    raw: int
    row: int
    edge: int
    count: int
    half: int = 0
    reads: "Stage | None" = None


class Call:
    """The tasks of one call of the op, forward and backward; its arguments are those of the op."""

    def __init__(
        self, x: Tensor, gain: Tensor, offset: Tensor | None, candidates: Sequence[int], stride: int, training: bool
    ):
        self.shape, self.stride, self.itemsize = x.shape, stride, x.itemsize
        self.outputs, self.offset, self.training = gain.shape[1], offset is not None, training
        n, self.channels, height, width = x.shape
        self.pixels, self.P = n * height * width, n * ((height - 1) // stride + 1) * ((width - 1) // stride + 1)
        tiles = ceil(self.P, TILE)
        self.stage_tiles = ceil(self.P, TILE if max(self.channels, self.outputs) <= 16 else TILE // 2)
        self.gradient_tiles = ceil(self.P, TILE // 2)
        self.chunks = ceil(self.P, TILE * ceil(tiles, MAX_CHUNKS))
        fewest = max(ceil(tiles, MAX_WEIGHT_CHUNKS), ceil(self.outputs, TILE // 2))
        self.weight_chunks = ceil(self.P, TILE * fewest)
        self.seconds, self.singles, self.firsts = [], [], []
        outputs, self.finals = self.outputs, []  # (edge, row, kind, stages)
        self.sizes = []  # values of every weight
        raw = row = 0
        for edge, kind, kernel, dilation in zip(*(candidates[i::4] for i in range(4)), strict=True):
            own, at = [], len(self.sizes)
            if kind == FACTORIZED_REDUCE:
                own = [Stage(1, 2, (at + half,), raw, row, edge, outputs // 2, half) for half in (0, 1)]
            elif kind == RELU_CONV:
                own = [Stage(1, 1, (at,), raw, row, edge, outputs)]
            elif kind == DIL_CONV:
                own = [Stage(kernel, dilation, (at, at + 1), raw, row, edge, outputs)]
            elif kind == SEP_CONV:
                self.firsts.append(Stage(kernel, 1, (at, at + 1), raw, row, edge, outputs))
                raw, row = raw + 1, row + 1
                own = [Stage(kernel, 1, (at + 2, at + 3), raw, row, edge, outputs, reads=self.firsts[-1])]
            (self.seconds if kind == SEP_CONV else self.singles).extend(own)
            self.finals.append((edge, row, kind, own))
            depthwise = self.channels * kernel * kernel
            pair = [depthwise, outputs * self.channels]
            of_kind = {SEP_CONV: pair * 2, DIL_CONV: pair, RELU_CONV: pair[1:]}
            self.sizes += of_kind.get(kind, [pair[1] // 2] * WEIGHTS[kind])
            raw, row = raw + bool(own), row + 1
        self.edges = candidates[-4] + 1
        self.pools = [final for final in self.finals if final[2] in (MAX_POOL, AVG_POOL)]
        self.skips = [final for final in self.finals if final[2] == SKIP]
        self.plain = [row for _, row, kind, _ in self.finals if kind in (SKIP, NOISE)]  # which nothing normalises

    # pieces

    def x(self, *parities: tuple[int, int]) -> dict[Piece, int]:
        """Its pixels in even and odd rows and columns, or in some of these four parts."""
        n, c, *size = self.shape
        parts = parities or ((0, 0), (0, 1), (1, 0), (1, 1))
        return {
            ("x", *part): n
            * c
            * math.prod((side + 1 - p) // 2 for side, p in zip(size, part, strict=True))
            * self.itemsize
            for part in parts
        }

    def z(self, stage: Stage) -> dict[Piece, int]:
        return {("z", stage.raw, stage.half): self.P * stage.count * self.itemsize}

    def map(self, *piece, itemsize: int = 0) -> dict[Piece, int]:
        """Of the outputs' size."""
        return {piece: self.P * self.outputs * (itemsize or self.itemsize)}

    def values(self, row: int, kind: int, own: Sequence[Stage]) -> dict[Piece, int]:
        """What the raw values of a final row are made of."""
        if kind == NOISE:
            return {("seeds", row): 8}
        return _union(map(self.z, own)) or self.x()

    def t(self, stage: Stage) -> dict[Piece, int]:
        return {("t", stage.raw, stage.half): self.P * self.channels * self.itemsize}

    def tables(self, row: int, *names: str) -> dict[Piece, int]:
        """Rows of the tables, in float32."""
        return {(name, row): 4 * self.outputs for name in names if name != "offset" or self.offset}

    def partial(self, name: str, row: int, sums: int, parts: int) -> dict[Piece, int]:
        return {(name, row): 4 * sums * parts * self.outputs}

    def weights(self, *numbers: int, name: str = "weights") -> dict[Piece, int]:
        return {(name, number): self.sizes[number] * self.itemsize for number in numbers}

    def source(self, stage: Stage) -> dict[Piece, int]:
        """What a stage reads: x, or a middle and its BatchNorm."""
        if stage.reads is None and self.stride == stage.dilation == 2:
            return self.x((stage.half, stage.half))
        if stage.reads is None:
            return self.x()
        return self.z(stage.reads) | self.normal(stage)

    def normal(self, stage: Stage) -> dict[Piece, int]:
        return {} if stage.reads is None else self.tables(stage.reads.row, "gain", "offset", "mean", "var")

    def slope(self, row: int) -> dict[Piece, int]:
        """The tables from which dL/dz of a row is formed."""
        return self.tables(row, "gain", "var", *(("mean", "dgain", "doffset") if self.training else ()))

    def window(self, stage: Stage, itemsize: int = 0) -> int:
        """Bytes that the windows of a depthwise convolution take."""
        return stage.kernel**2 * self.P * self.channels * (itemsize or self.itemsize)

    # tasks of forward

    def stage(self, stage: Stage, moments: bool) -> Task:
        *_, pointwise = stage.weights
        blocks = ceil(stage.count, BLOCK)
        reads = self.source(stage) | self.weights(*stage.weights)
        writes = self.z(stage) | (self.moments(stage.row) if moments else {})
        vector = 2 * stage.kernel**2 * self.P * self.channels * blocks
        loads = blocks * self.window(stage) + self.stage_tiles * sum(self.weights(*stage.weights).values())
        return Task(reads, writes, loads, vector, 2 * self.P * self.sizes[pointwise])

    def moments(self, row: int) -> dict[Piece, int]:
        return self.partial("moments", row, 3, self.chunks)

    def pool_moments(self) -> Task:
        writes = [self.moments(row) for _, row, _, _ in self.pools]
        return Task(self.x(), _union(writes), 9 * self.P * self.channels * self.itemsize)

    def statistics(self, rows: Iterable[int], plain: Iterable[int] = ()) -> Task:
        rows = [*rows]
        written = [self.tables(row, "mean", "var") for row in [*rows, *plain]]
        return Task(_union(map(self.moments, rows)), _union(written))

    def mix(self, base: bool) -> Task:
        reads = [self.map("base", e) for e in range(self.edges)] if base else []
        for _, row, kind, own in self.finals:
            reads.append(self.values(row, kind, own))
            reads.append(self.tables(row, "gain", "offset", *(() if row in self.plain else ("mean", "var"))))
        out = [self.map("out", e) for e in range(self.edges)]
        windows = 9 * self.P * self.channels * self.itemsize if self.pools else 0
        return Task(_union(reads), _union(out), windows, 4 * self.P * self.outputs * len(self.finals))

    # tasks of backward

    def sums(self) -> Task:
        reads, writes, windows = [], [], 0
        for edge, row, kind, own in self.finals:
            reads += [self.map("grad", edge), self.tables(row, "mean"), self.values(row, kind, own)]
            writes.append(self.partial("sums", row, 2, self.chunks))
            windows += (9 if kind in (MAX_POOL, AVG_POOL) else 1) * self.P * self.outputs * self.itemsize
        return Task(_union(reads), _union(writes), windows, 4 * self.P * self.outputs * len(self.finals))

    def totals(self, rows: Iterable[int], plain: Iterable[int], parts: int) -> Task:
        rows, plain = [*rows], [*plain]
        reads = [self.partial("sums", row, 2, parts) for row in [*rows, *plain]]
        reads += [self.tables(row, "var") for row in rows]
        return Task(_union(reads), _union(self.tables(row, "dgain", "doffset") for row in [*rows, *plain]))

    def raw_gradient(self, stage: Stage) -> dict[Piece, int]:
        """What dL/dz of a stage is formed from."""
        first = stage in self.firsts
        gradient = self.map("middle", stage.row) if first else self.map("grad", stage.edge)
        return gradient | self.z(stage) | self.slope(stage.row)

    def data(self, stage: Stage) -> Task:
        *_, pointwise = stage.weights
        reads = self.raw_gradient(stage) | self.weights(pointwise) | self.normal(stage)
        loads = self.again(stage) + self.gradient_tiles * self.sizes[pointwise] * self.itemsize
        return Task(reads, self.t(stage), loads, 0, 2 * self.P * self.sizes[pointwise])

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
        return Task(reads, writes, self.window(stage), 2 * stage.kernel**2 * self.P * self.channels)

    def pool_gradients(self) -> Task:
        reads = [self.x()]
        for edge, row, _, _ in self.pools:
            reads += [self.map("grad", edge), self.slope(row)]
        return Task(_union(reads), self.pooled(), 9 * self.P * self.channels * self.itemsize)

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
        return Task(_union(reads), {("dx",): self.pixels * self.channels * self.itemsize}, windows, vector)

    def weight_totals(self) -> Task:
        stages = self.seconds + self.singles + self.firsts
        return Task(
            _union(self.weight_gradients(stage).writes for stage in stages),
            self.weights(*range(len(self.sizes)), name="dweights"),
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

        def gradients(phase: int, stages: Sequence[Stage]) -> list[tuple[int, Task]]:
            tasks = [(phase, self.data(stage)) for stage in stages]
            return tasks + [(phase, self.weight_gradients(stage)) for stage in stages] * need_weights

        return [
            *(self.stages(-2, False) if recompute else ()),
            ("gradient_sums", [(sums, self.sums())]),
            ("gradient_totals", [(sums, self.totals(rows, self.plain, self.chunks))]),
            ("stages_gradients", gradients(final, [*self.seconds, *singles])),
            ("middle_gradients", [(middle, self.middle(stage)) for stage in self.seconds]),
            # those who need them add them, where there is anybody
            ("stages_gradients", totals + gradients(first, firsts)) if firsts else ("gradient_totals", totals),
            ("pool_gradients", [(final, self.pool_gradients())] * (need_x and bool(self.pools))),
            ("state_gradient", [(state, self.state_gradient())] * need_x),
            ("weight_totals", [(state, self.weight_totals())] * (need_weights and bool(self.sizes))),
        ]


Schedule = list[tuple[str, list[tuple[int, Task]]]]
"""(kernel, its tasks, each with the phase it belongs to) of every launch, in order."""


def forward(
    x, base, gain, offset, weights, seeds, candidates, edges, stride, running_mean, running_var, eps, images, store, *_
) -> Traffic:  # fmt: skip
    """Of the op `mixed_op` on these arguments, which need hold no data."""
    call = Call(x, gain, offset, candidates, stride, running_mean is None)
    return _traffic(call.forward(bool(base)), x.itemsize)


def backward(
    grad, x, gain, offset, weights, seeds, candidates, stride, z, mean, var, training, eps, images, need_x,
    need_weights, *_,
) -> Traffic:  # fmt: skip
    """Of the op `mixed_op_backward`."""
    call = Call(x, gain, offset, candidates, stride, training)
    recompute = not z and any(WEIGHTS[kind] for kind in candidates[1::4])
    return _traffic(call.backward(need_x, need_weights, recompute), x.itemsize)


TRAFFIC = {"fastdarts::mixed_op": forward, "fastdarts::mixed_op_backward": backward}


def _traffic(schedule: Schedule, itemsize: int) -> Traffic:
    phases: dict[int, list[Task]] = {}
    for _, tasks in schedule:
        for phase, task in tasks:
            phases.setdefault(phase, []).append(_ideal(task, itemsize))
    ideal = [_launch("", tasks) for tasks in phases.values()]
    launches = [_launch(kernel, [task for _, task in tasks]) for kernel, tasks in schedule if tasks]
    return Traffic(launches, sum(launch.moved for launch in ideal))


def _ideal(task: Task, itemsize: int) -> Task:
    def pieces(some: dict[Piece, int]) -> dict[Piece, int]:
        return {
            piece: size * itemsize // 4 if piece[0] in ("dmax", "davg") else size
            for piece, size in some.items()
            if piece[0] not in FREE
        }

    return task._replace(reads=pieces(task.reads), writes=pieces(task.writes))


def _launch(kernel: str, tasks: Sequence[Task]) -> Launch:
    reads, writes = (_union(pieces) for pieces in ((t.reads for t in tasks), (t.writes for t in tasks)))
    read = sum(size for piece, size in reads.items() if piece not in writes)
    loads = read + sum(task.windows for task in tasks)
    return Launch(kernel, read, sum(writes.values()), loads, sum(t.vector for t in tasks), sum(t.matrix for t in tasks))


def _union(pieces: Iterable[dict[Piece, int]]) -> dict[Piece, int]:
    return {piece: size for some in pieces for piece, size in some.items()}
