"""The tasks of a call of mixed_op, whatever kernels do them: what each reads, writes and computes."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from fastdarts.kernels.mixed_op.call import Call, Piece, Schedule, Stage, Task, union


class Tasks(Call, ABC):
    """Of one call; kernels add how they load, and what their programs run."""

    moment_sums: int  # numbers of a channel in a chunk, of moments

    @abstractmethod
    def moment_chunks(self, row: int) -> int:
        """Over how many chunks the moments of a row are partial."""

    @abstractmethod
    def sum_chunks(self, row: int) -> int:
        """The same of the gradient sums of a row."""

    @abstractmethod
    def weight_chunks(self, stage: Stage) -> int:
        """The same of the weight gradients of a stage."""

    # forward

    def stage(self, stage: Stage, moments: bool) -> Task:
        *_, pointwise = stage.weights
        reads = self.source(stage) | self.weights(*stage.weights)
        writes = self.z(stage) | (self.moments(stage.row) if moments else {})
        vector = 2 * stage.kernel**2 * self.P * self.channels
        return Task(reads, writes, 0, vector, 2 * self.P * self.sizes[pointwise])

    def moments(self, row: int) -> dict[Piece, int]:
        return self.partial("moments", row, self.moment_sums, self.moment_chunks(row))

    def pool_moments(self) -> Task:
        return Task(self.x(), union(self.moments(row) for _, row, _, _ in self.pools))

    def statistics(self, rows: Iterable[int], plain: Iterable[int] = ()) -> Task:
        rows = [*rows]
        written = [self.tables(row, "mean", "var") for row in [*rows, *plain]]
        return Task(union(map(self.moments, rows)), union(written))

    def mix(self, bases: int) -> Task:
        reads = [self.map("base", e) for e in range(bases)]
        for _, row, kind, own in self.finals:
            reads.append(self.values(row, kind, own))
            reads.append(self.tables(row, "gain", "offset", *(() if row in self.plain else ("mean", "var"))))
        out = [self.map("out", e) for e in range(self.edges)]
        return Task(union(reads), union(out), 0, 4 * self.P * self.outputs * len(self.finals))

    # backward

    def sums(self) -> Task:
        reads, writes = [], []
        for edge, row, kind, own in self.finals:
            reads += [self.map("grad", edge), self.tables(row, "mean"), self.values(row, kind, own)]
            writes.append(self.partial("sums", row, 2, self.sum_chunks(row)))
        return Task(union(reads), union(writes), 0, 4 * self.P * self.outputs * len(self.finals))

    def totals(self, rows: Iterable[int], plain: Iterable[int]) -> Task:
        rows, plain = [*rows], [*plain]
        reads = [self.partial("sums", row, 2, self.sum_chunks(row)) for row in [*rows, *plain]]
        reads += [self.tables(row, "var") for row in rows]
        return Task(union(reads), union(self.tables(row, "dgain", "doffset") for row in [*rows, *plain]))

    def raw_gradient(self, stage: Stage) -> dict[Piece, int]:
        """What dL/dz of a stage is formed from."""
        first = stage in self.firsts
        gradient = self.map("middle", stage.row) if first else self.map("grad", stage.edge)
        return gradient | self.z(stage) | self.slope(stage.row)

    def data(self, stage: Stage) -> Task:
        *_, pointwise = stage.weights
        reads = self.raw_gradient(stage) | self.weights(pointwise) | self.normal(stage)
        return Task(reads, self.t(stage), 0, 0, 2 * self.P * self.sizes[pointwise])

    def weight_gradients(self, stage: Stage) -> Task:
        """Their parts, of both convolutions; t is in registers, the depthwise output is computed again."""
        *depthwise, pointwise = stage.weights
        taps, place, chunks = stage.kernel**2, (stage.raw, stage.half), self.weight_chunks(stage)
        reads = self.source(stage) | self.weights(*depthwise) | self.raw_gradient(stage)
        writes = {("products", *place): 4 * chunks * self.sizes[pointwise]}
        if depthwise:
            writes |= {("taps", *place): 4 * chunks * taps * self.channels}
        vector = 2 * taps * self.P * self.channels * (1 + len(depthwise))
        return Task(reads, writes, 0, vector, 2 * self.P * self.sizes[pointwise])

    def middle(self, stage: Stage) -> Task:
        """dL/d(normalised middle) that the second half `stage` reads."""
        row = stage.reads.row
        reads = self.t(stage) | self.source(stage) | self.weights(stage.weights[0])
        writes = self.map("middle", row) | self.partial("sums", row, 2, self.sum_chunks(row))
        return Task(reads, writes, 0, 2 * stage.kernel**2 * self.P * self.channels)

    def pool_gradients(self) -> Task:
        reads = [self.x()]
        for edge, row, _, _ in self.pools:
            reads += [self.map("grad", edge), self.slope(row)]
        return Task(union(reads), self.pooled())

    def pooled(self) -> dict[Piece, int]:
        """dL/d(maximum), dL/d(average) and which pixel is the maximum."""
        if not self.pools:
            return {}
        return self.map("dmax", itemsize=4) | self.map("davg", itemsize=4) | self.map("which", itemsize=1)

    def state_gradient(self) -> Task:
        stages = self.singles + self.firsts
        reads = [self.x(), self.pooled()] + [self.t(stage) for stage in stages]
        reads += [self.weights(*stage.weights[:-1]) for stage in stages]
        for edge, row, kind, _ in self.skips:
            reads += [self.map("grad", edge), self.tables(row, "gain"), self.seeds(row, kind)]
        vector = sum(2 * stage.kernel**2 * self.P * self.channels for stage in stages)
        return Task(union(reads), {("dx",): self.pixels * self.channels * self.itemsize}, 0, vector)

    def weight_totals(self, stages: Iterable[Stage]) -> Task:
        stages = [*stages]
        numbers = [number for stage in stages for number in stage.weights]
        return Task(
            union(self.weight_gradients(stage).writes for stage in stages), self.weights(*numbers, name="dweights")
        )

    # the launches that all kernels have in common

    def forward(self, bases: int) -> Schedule:
        """The launches of a forward pass; pieces are ready at the end of a phase, between two barriers."""
        training = self.training
        rows, second, *_ = self.rows()
        schedule = self.stages(0, training)
        if training:
            schedule.insert(1, ("pool_moments", [(0, self.pool_moments())] * bool(self.pools)))
            schedule.insert(2, ("statistics", [(0, self.statistics(rows, self.plain))]))
            schedule.append(("statistics", [(1, self.statistics(second))] * bool(second)))
        return [*schedule, ("mix", [(2 if training else 1, self.mix(bases))])]

    def stages(self, phase: int, moments: bool) -> Schedule:
        """The raw outputs; by running statistics, singles can wait for what reads them."""
        singles = phase + (not self.training)
        first = [(singles, self.stage(s, moments)) for s in self.singles]
        first += [(phase, self.stage(s, moments)) for s in self.firsts]
        return [("stages", first), ("stages", [(phase + 1, self.stage(s, moments)) for s in self.seconds])]

    def rows(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Rows that are normalised before and after the second halves; final rows that are; middles."""
        second, middles = [stage.row for stage in self.seconds], [stage.row for stage in self.firsts]
        final = [row for _, row, _, _ in self.finals if row not in self.plain]
        return middles + [row for row in final if row not in second], second, final, middles
