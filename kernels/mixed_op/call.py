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
    DROPPED_SKIP,
    FACTORIZED_REDUCE,
    MAX_POOL,
    NOISE,
    PLAIN,
    RELU_CONV,
    SEEDS,
    SEP_CONV,
    SKIP,
    WEIGHTS,
)

FREE = ("moments", "sums", "taps", "products")  # partial sums, which a perfect implementation would not move
Piece = tuple  # (name, number ...)


class Run(NamedTuple):
    """Programs that run the same code: its name in the record of instructions, and how often its loops run in each.

    A loop is named by what it counts, "tap", or where one name is two loops also by those around it, "i_s/tap". A
    function that not every program runs is named like a loop.
    """

    kind: str  # triton or cuda
    code: str
    programs: int
    warps: int  # of a program
    trips: dict[str, float]
    shared: int = 0  # bytes of shared memory that its launch adds


class Task(NamedTuple):
    """Bytes by piece, bytes loaded again and again through L1, operations outside and in products, and programs."""

    reads: dict[Piece, int]
    writes: dict[Piece, int]
    windows: int = 0
    vector: int = 0
    matrix: int = 0
    runs: tuple[Run, ...] = ()


class Launch(NamedTuple):
    """A group of tasks: its kernel, bytes read and written and through L1, operations outside and in products, runs."""

    kernel: str
    reads: int
    writes: int
    loads: int
    vector: int
    matrix: int
    runs: tuple[Run, ...] = ()

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
        self.out_size = (height - 1) // stride + 1, (width - 1) // stride + 1
        self.pixels, self.P = n * height * width, n * math.prod(self.out_size)
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
        self.skips = [final for final in self.finals if final[2] in (SKIP, DROPPED_SKIP)]
        self.plain = [row for _, row, kind, _ in self.finals if kind in PLAIN]

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
            return self.seeds(row, kind)
        return (union(map(self.z, own)) or self.x()) | self.seeds(row, kind)

    def seeds(self, row: int, kind: int) -> dict[Piece, int]:
        """What it draws by."""
        return {("seeds", row): 8 * SEEDS[kind]} if SEEDS[kind] else {}

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


Schedule = list[tuple[str, list[tuple[int, Task]]]]
"""(kernel, its tasks, each with the phase it belongs to) of every launch, in order."""


def traffic_of(schedule: Schedule, itemsize: int) -> Traffic:
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
    reads, writes = (union(pieces) for pieces in ((t.reads for t in tasks), (t.writes for t in tasks)))
    read = sum(size for piece, size in reads.items() if piece not in writes)
    loads = read + sum(task.windows for task in tasks)
    vector, matrix = sum(t.vector for t in tasks), sum(t.matrix for t in tasks)
    return Launch(kernel, read, sum(writes.values()), loads, vector, matrix, sum((t.runs for t in tasks), ()))


def union(pieces: Iterable[dict[Piece, int]]) -> dict[Piece, int]:
    return {piece: size for some in pieces for piece, size in some.items()}
