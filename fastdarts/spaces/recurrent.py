"""How recurrent cells are written and drawn."""

from __future__ import annotations

from typing import Any

from fastdarts.rnn.genotypes import Genotype, from_dict, to_dict
from fastdarts.spaces.space import Cells, Notation
from fastdarts.topology import RECURRENT_CELL


class Recurrent(Notation):
    """Genotypes of :mod:`fastdarts.rnn.genotypes`."""

    name, kinds, cell = "rnn", {"recurrent": "recurrent cell"}, RECURRENT_CELL

    def fields(self, genotype: Genotype) -> dict[str, Any]:
        return to_dict(genotype)

    def genotype(self, fields: dict[str, Any]) -> Genotype:
        return from_dict(fields)

    def cells(self, genotype: Genotype) -> Cells:
        return {"recurrent": (genotype.recurrent, genotype.concat)}


RECURRENT = Recurrent()
