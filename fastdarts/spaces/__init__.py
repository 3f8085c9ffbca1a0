"""The search spaces by name, and architectures with the space that says how they are read, drawn and built.

A new space is one file: an object of :class:`CellSpace`, or of a class of one's own derived from :class:`Space`, put
into ``SPACES`` under its name (examples/custom_space.py).
"""

from typing import Any, NamedTuple

from fastdarts.errors import FastdartsError
from fastdarts.genotypes import read_fields
from fastdarts.spaces.cells import CellSpace
from fastdarts.spaces.darts import DARTS, DARTS_7
from fastdarts.spaces.nasbench201 import NASBENCH201
from fastdarts.spaces.robust import S1, S2, S3, S4, TINY
from fastdarts.spaces.space import Space, Table

__all__ = [
    "DARTS",
    "SPACES",
    "Architecture",
    "CellSpace",
    "Space",
    "Table",
    "architecture",
    "find_space",
    "parse_architecture",
]

SPACES: dict[str, Space] = {space.name: space for space in (DARTS, DARTS_7, S1, S2, S3, S4, TINY, NASBENCH201)}


class Architecture(NamedTuple):
    """A genotype and the space it is of."""

    space: Space
    genotype: Any

    def to_dict(self) -> dict[str, Any]:
        """What genotype.json holds."""
        return self.space.to_dict(self.genotype)


def find_space(name: str) -> Space:
    """The space of this name; raises :class:`FastdartsError` naming those there are."""
    if name not in SPACES:
        raise FastdartsError(
            f"unknown space {name!r}: expected one of {', '.join(SPACES)}; add your own with SPACES[name] = "
            "CellSpace(name, primitives) before the search"
        )
    return SPACES[name]


def architecture(fields: object) -> Architecture:
    """The architecture of what genotype.json holds; without a "space" it is one of DARTS.

    Raises :class:`FastdartsError` naming the unknown space or the offending field.
    """
    named = dict(fields) if isinstance(fields, dict) else {}
    space = find_space(str(named.pop("space", DARTS.name)))
    return Architecture(space, space.genotype(named or fields))


def parse_architecture(text: str) -> Architecture:
    """The architecture that ``text`` names or spells: all that :func:`fastdarts.genotypes.parse_genotype` reads, and
    the forms of other spaces: the string of NAS-Bench-201, the JSON or the run's folder of any."""
    for space in SPACES.values():
        if (genotype := space.from_text(text.strip())) is not None:
            return Architecture(space, genotype)
    return architecture(read_fields(text))
