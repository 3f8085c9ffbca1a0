"""How recurrent cells are written and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.spaces.recurrent.genotype import (
    PRIMITIVES,
    STEPS,
    Genotype,
    check_genotype,
    derive_genotype,
    edges_of,
    from_dict,
    to_dict,
)
from fastdarts.spaces.space import Cells, Decision, Space, Table
from fastdarts.spaces.topology import RECURRENT_CELL, Entry


class Recurrent(Space):
    """Genotypes of :mod:`fastdarts.spaces.recurrent.genotype`."""

    name, kinds, cell = "rnn", {"recurrent": "recurrent cell"}, RECURRENT_CELL
    task, nodes, layers = "language", STEPS, 1

    def fields(self, genotype: Genotype) -> dict[str, Any]:
        return to_dict(check_genotype(genotype))

    def genotype(self, fields: dict[str, Any]) -> Genotype:
        return from_dict(fields)

    def of_entries(self, cells: Mapping[str, Sequence[Entry]], nodes: int) -> Genotype:
        return self.genotype({"recurrent": cells["recurrent"], "concat": [*self.topology(nodes).outputs]})

    def cells(self, genotype: Genotype) -> Cells:
        genotype = check_genotype(genotype)
        return {"recurrent": (genotype.recurrent, genotype.concat)}

    def primitives(self, nodes: int) -> dict[str, Table]:
        return {"recurrent": (PRIMITIVES,) * edges_of(nodes)}

    def strongest(self, strengths: Sequence[Tensor], nodes: int) -> Genotype:
        self.check_strengths(strengths, nodes)
        return derive_genotype(*strengths)

    def decisions(self, nodes: int) -> tuple[Decision, ...]:
        """Of each node its source, then its activation."""
        return tuple(
            Decision(f"{what} of node {self.cell.name(target)}", size)
            for target in self.topology(nodes).targets
            for what, size in (("source", target), ("activation", len(_ACTIVATIONS)))
        )

    def encode(self, genotype: Genotype) -> list[int]:
        """Only of cells whose output is the mean of all nodes."""
        genotype = check_genotype(genotype)
        if [*genotype.concat] != [*self.cell.of(len(genotype.recurrent)).outputs]:
            raise FastdartsError(
                f"concat is {[*genotype.concat]} but cells of space {self.name} put out the mean of all nodes: "
                f"expected states 1 to {len(genotype.recurrent)}"
            )
        return [value for op, source in genotype.recurrent for value in (source, _ACTIVATIONS.index(op))]

    def decode(self, indices: Sequence[int], nodes: int) -> Genotype:
        """Its output is the mean of all nodes."""
        self.check_values(indices, nodes)
        pairs = zip(indices[::2], indices[1::2], strict=True)
        return Genotype([(_ACTIVATIONS[op], source) for source, op in pairs], self.cell.of(nodes).outputs)


_ACTIVATIONS = PRIMITIVES[1:]
RECURRENT = Recurrent()
