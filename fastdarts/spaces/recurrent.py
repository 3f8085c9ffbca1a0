"""How recurrent cells are written and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastdarts.drawing import Edges
from fastdarts.rnn.genotypes import Genotype, from_dict, to_dict
from fastdarts.spaces.space import Notation


class Recurrent(Notation):
    """Genotypes of :mod:`fastdarts.rnn.genotypes`."""

    name, kinds, inputs = "rnn", {"recurrent": "recurrent cell"}, 0

    def fields(self, genotype: Genotype) -> dict[str, Any]:
        return to_dict(genotype)

    def genotype(self, fields: dict[str, Any]) -> Genotype:
        return from_dict(fields)

    def cells(self, genotype: Genotype) -> dict[str, tuple[Edges, Sequence[int]]]:
        return {"recurrent": (genotype.recurrent, genotype.concat)}


RECURRENT = Recurrent()
