"""The search spaces by name, and architectures with the space that says how they are read, drawn and built.

A new space is one file that registers an object of :class:`CellSpace`, or of a class of one's own derived from
:class:`Space` (examples/custom_space.py).
"""

import json
from typing import Any, NamedTuple, TypeVar

from fastdarts.errors import FastdartsError, did_you_mean
from fastdarts.moved import names
from fastdarts.registry import Registry
from fastdarts.spaces.cells.darts import DARTS, DARTS_7
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.nasnet import AMOEBANET, ENAS, NASNET
from fastdarts.spaces.cells.reading import read_fields
from fastdarts.spaces.cells.robust import S1, S2, S3, S4, TINY
from fastdarts.spaces.cells.sharp import SHARP
from fastdarts.spaces.cells.space import CellSpace
from fastdarts.spaces.chain.space import MBCONV, MBCONV_TINY, MNASNET
from fastdarts.spaces.dense.space import AUTODISPNET
from fastdarts.spaces.nasbench201 import NASBENCH201
from fastdarts.spaces.recurrent.genotype import Genotype as RecurrentGenotype
from fastdarts.spaces.recurrent.space import RECURRENT
from fastdarts.spaces.space import Cells, Decision, ImageSpace, Space, Table
from fastdarts.spaces.topology import Topology

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
    "architecture_text",
    "find_image_space",
    "find_space",
    "is_genotype",
    "parse_architecture",
    "register_space",
    "space_named_in",
]

S = TypeVar("S", bound=Space)
BUILT_IN = (
    *(DARTS, DARTS_7, S1, S2, S3, S4, TINY, SHARP, NASBENCH201),
    *(NASNET, AMOEBANET, ENAS, MBCONV, MBCONV_TINY, MNASNET, AUTODISPNET, RECURRENT),
)
SPACES: dict[str, Space] = {space.name: space for space in BUILT_IN}
_SPACES = Registry("space", SPACES, lambda name, thing: register_space(thing))


class Architecture(NamedTuple):
    """A genotype and the space it is of."""

    space: Space
    genotype: Any

    def to_dict(self) -> dict[str, Any]:
        """What genotype.json holds."""
        return self.space.to_dict(self.genotype)


def find_space(name: str) -> Space:
    """The space of this name; raises :class:`FastdartsError` naming those there are."""
    if not _SPACES.knows(name):
        raise FastdartsError(
            f"unknown space {name!r}{did_you_mean(name, SPACES)}: expected one of {', '.join(SPACES)}; add your own "
            "with register_space(CellSpace(name, primitives)) before the search"
        )
    return SPACES[name]


def add_installed() -> None:
    """Add the spaces that installed packages name in the entry-point group ``fastdarts.spaces``, once."""
    _SPACES.load()


RECURRENT_FIELDS = {"recurrent", "concat"}
"""Of a genotype that names no space, as the public code prints it."""

_DECLARED = (
    ("nodes", int, "a whole number above 0"),
    ("layers", int, "a whole number above 0"),
    ("kinds", dict, "the titles of its kinds of cells by name"),
    ("has", frozenset, "a frozenset of what its supernets can do"),
    ("cell", Topology, "a Topology"),
)
_OF_IMAGES = (("variants", tuple, "a tuple of the names of its evaluation networks"),)


def register_space(space: S) -> S:
    """Make an object of a class derived from :class:`Space` the space ``space.name``, and return it.

    Raises :class:`FastdartsError` if it is no such object, if another space has its name, or if it lacks something
    that every space declares: ``nodes``, ``layers``, ``kinds``, ``has``, ``cell``, a space for images ``variants``, and
    a table of candidates with a row for each edge of each kind of cell.
    """
    if not isinstance(space, Space):
        what = f"the class {space.__name__}" if isinstance(space, type) else f"a {type(space).__name__}"
        raise FastdartsError(f"a space is {what}: expected an object of a class derived from fastdarts.spaces.Space")
    at = f"space {getattr(space, 'name', None)!r} ({type(space).__name__})"
    _SPACES.check_name(getattr(space, "name", None), at)
    for name, kind, expected in (*_DECLARED, *_OF_IMAGES * isinstance(space, ImageSpace)):
        if not isinstance(value := getattr(space, name, None), kind) or value in (0, {}, ()):
            raise FastdartsError(f"{at} has {name} {value!r}: expected {expected}")
    edges = {kind: len(space.topology_of(kind, space.nodes).edges) for kind in space.kinds}
    rows = {kind: [len(row) for row in table] for kind, table in space.primitives(space.nodes).items()}
    free = isinstance(space, ImageSpace) and not space.has_supernet
    fits = [*rows] == [*edges] and all(free or len({*found}) == 1 for found in rows.values())
    if not fits or [*map(len, rows.values())] != [*edges.values()]:
        wanted = ", ".join(f"{count} rows of one length for {kind}" for kind, count in edges.items())
        raise FastdartsError(f"{at} has tables of candidates for {rows}: expected {wanted}")
    _SPACES.add(space.name, space)
    return space


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


def architecture_text(given: object) -> object:
    """``given`` as :func:`parse_architecture` reads it: what genotype.json holds, an :class:`Architecture` or a
    Genotype as text. Anything else stays as it is."""
    if isinstance(given, Architecture):
        return json.dumps(given.to_dict())
    if isinstance(given, dict):
        return json.dumps(given, default=list)  # ranges
    return repr(given) if isinstance(given, Genotype | RecurrentGenotype) else given


def is_genotype(text: str) -> bool:
    """Whether ``text`` names or spells an architecture for images."""
    try:
        parse_architecture(text)
    except (FastdartsError, OSError, ValueError, RuntimeError):  # the last: no home for "~", or nesting too deep
        return False
    return True


def space_named_in(text: object) -> str | None:
    """The space that a genotype names, which is read from where ``text`` says; None if it names none, or cannot be
    read, which others say."""
    try:
        fields = read_fields(text) if text and isinstance(text, str) else None
    except (FastdartsError, OSError, ValueError, RuntimeError):  # the last: no home for "~", or nesting too deep
        return None
    found = fields.get("space") if isinstance(fields, dict) else None
    if found is None and isinstance(fields, dict) and fields.keys() >= RECURRENT_FIELDS:
        return RECURRENT.name
    return found if isinstance(found, str) else None


__getattr__ = names("spaces")
