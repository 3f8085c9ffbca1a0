"""Genotypes of dense networks: the pairs (operation, source) of three kinds of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.nn.dense_operations import BUILDERS
from fastdarts.spaces.cells.genotype import items, whole
from fastdarts.spaces.topology import Topology

Pair = tuple[str, int]

ENCODER_CELL = Topology(3)
DECODER_CELL = Topology(3, inputs=("c_{k-2}", "c_{k-1}", "p_{k-1}", "e_{k}"), first_kept=4)
"""State 2 is the last prediction, state 3 the map of the encoder that has the size of the output."""
KINDS = {"normal": "normal cell", "reduce": "reduction cell", "upsample": "upsampling cell"}
CELLS = {"normal": ENCODER_CELL, "reduce": ENCODER_CELL, "upsample": DECODER_CELL}


class DenseGenotype(NamedTuple):
    """Cells whose nodes are all in the output.

    Nodes add two operations each, the first one of an upsampling cell four.
    """

    normal: tuple[Pair, ...]
    reduce: tuple[Pair, ...]
    upsample: tuple[Pair, ...]

    @property
    def nodes(self) -> int:
        """Nodes of each cell."""
        return len(self.normal) // 2


def to_dict(genotype: DenseGenotype) -> dict[str, list]:
    """The genotype as JSON-ready lists: {"normal": [["sep_conv_3x3", 1], ...], "reduce": [...], "upsample": [...]}."""
    return {kind: [list(pair) for pair in pairs] for kind, pairs in genotype._asdict().items()}


def from_dict(fields: object) -> DenseGenotype:
    """The genotype of these fields; raises :class:`FastdartsError` naming the field or the entry that is wrong."""
    if not isinstance(fields, Mapping) or sorted(map(str, fields)) != sorted(KINDS):
        got = ", ".join(brief(str(name))[1:-1] for name in fields) if isinstance(fields, Mapping) else brief(fields)
        raise FastdartsError(f"a genotype of a dense network has the fields {', '.join(KINDS)}, got {got or 'none'}")
    found = DenseGenotype(*(_checked(kind, fields[kind]) for kind in KINDS))
    nodes = {kind: sum(_place(kind, pairs)) for kind, pairs in found._asdict().items()}
    if len({*nodes.values()}) > 1:
        counts = ", ".join(f"{kind} {count}" for kind, count in nodes.items())
        raise FastdartsError(f"the cells of a dense network have as many nodes each, got {counts}")
    return found


def check_genotype(genotype: Any) -> DenseGenotype:
    """``genotype`` in canonical form; raises :class:`FastdartsError` as :func:`from_dict` does."""
    return from_dict(genotype._asdict() if isinstance(genotype, DenseGenotype) else genotype)


def _place(kind: str, pairs: Sequence[Pair]) -> list[bool]:
    """True for each node of a cell; raises :class:`FastdartsError` for pairs that fill none or take later states."""
    try:
        return [True] * len({placed.target for placed in CELLS[kind].place(pairs)})
    except FastdartsError as error:
        raise FastdartsError(f"{kind}: {error}") from None


def _checked(kind: str, listed: object) -> tuple[Pair, ...]:
    pairs = items(listed)
    if not pairs:
        raise FastdartsError(f"{kind} must list [operation, source] pairs, got {brief(listed)}")
    found = []
    for position, given in enumerate(pairs):
        pair = items(given)
        source = whole(pair[1]) if pair is not None and len(pair) == 2 else None
        if source is None or not isinstance(pair[0], str) or pair[0] not in BUILDERS or pair[0] == "none":
            raise FastdartsError(
                f"entry {position} of {kind} is {brief(given)}: expected [operation, source], the operation one of "
                f"{', '.join(name for name in BUILDERS if name != 'none')}, and the source the number of a state"
            )
        found.append((pair[0], source))
    return tuple(found)
