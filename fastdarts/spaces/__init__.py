"""The search spaces by name, and architectures with the space that says how they are read, drawn and built.

A new space is one file: an object of :class:`CellSpace`, or of a class of one's own derived from :class:`Space`, put
into ``SPACES`` under its name (examples/custom_space.py).
"""

import functools
from typing import Any, NamedTuple

from fastdarts.errors import FastdartsError
from fastdarts.registry import load_entries
from fastdarts.spaces.cells.darts import DARTS, DARTS_7
from fastdarts.spaces.cells.reading import read_fields
from fastdarts.spaces.cells.robust import S1, S2, S3, S4, TINY
from fastdarts.spaces.cells.space import CellSpace
from fastdarts.spaces.nasbench201 import NASBENCH201
from fastdarts.spaces.recurrent.space import RECURRENT
from fastdarts.spaces.space import Cells, Decision, ImageSpace, Space, Table

__all__ = [
    "DARTS",
    "RECURRENT",
    "SPACES",
    "Architecture",
    "CellSpace",
    "Cells",
    "Decision",
    "ImageSpace",
    "Space",
    "Table",
    "architecture",
    "find_image_space",
    "find_space",
    "parse_architecture",
    "space_named_in",
]

BUILT_IN = (DARTS, DARTS_7, S1, S2, S3, S4, TINY, NASBENCH201, RECURRENT)
SPACES: dict[str, Space] = {space.name: space for space in BUILT_IN}


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
        add_installed()
    if name not in SPACES:
        raise FastdartsError(
            f"unknown space {name!r}: expected one of {', '.join(SPACES)}; add your own with SPACES[name] = "
            "CellSpace(name, primitives) before the search"
        )
    return SPACES[name]


@functools.cache
def add_installed() -> None:
    """Add the spaces that installed packages name in the entry-point group ``fastdarts.spaces``, once."""
    for space in load_entries("fastdarts.spaces"):
        if not isinstance(space, Space):
            raise FastdartsError(
                f"an entry point of group fastdarts.spaces is a {type(space).__name__}: expected a Space"
            )
        SPACES.setdefault(space.name, space)


def find_image_space(name: str) -> ImageSpace:
    """The same of a space for images; raises :class:`FastdartsError` for any other."""
    space = find_space(name)
    if not isinstance(space, ImageSpace):
        raise FastdartsError(f"space {name} is not for images, but one for images is needed here: name another one")
    return space


def architecture(fields: object) -> Architecture:
    """The architecture of what genotype.json holds; without a "space" it is one of DARTS.

    Raises :class:`FastdartsError` naming the unknown space or the offending field.
    """
    named = dict(fields) if isinstance(fields, dict) else {}
    space = find_space(str(named.pop("space", DARTS.name)))
    return Architecture(space, space.genotype(named or fields))


def parse_architecture(text: str) -> Architecture:
    """The architecture for images that ``text`` names or spells: all that
    :func:`fastdarts.spaces.cells.reading.parse_genotype` reads, and the forms of other spaces: the string of
    NAS-Bench-201, the JSON or the run's folder of any."""
    for space in SPACES.values():
        if (genotype := space.from_text(text.strip())) is not None:
            return Architecture(space, genotype)
    fields = read_fields(text)
    if isinstance(fields, dict):
        find_image_space(str(fields.get("space", DARTS.name)))
    return architecture(fields)


def space_named_in(text: object) -> str | None:
    """The space that a genotype names, which is read from where ``text`` says; None if it names none, or cannot be
    read, which others say."""
    try:
        fields = read_fields(text) if text and isinstance(text, str) else None
    except (FastdartsError, OSError, ValueError, RuntimeError):  # the last: no home for "~", or nesting too deep
        return None
    found = fields.get("space") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None
