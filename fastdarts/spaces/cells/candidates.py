"""The candidates of all edges of a cell, from what a caller gives for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.nn.candidates import Primitive, Primitives, name_of
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.spaces.topology import DARTS_CELL

KINDS = {"normal": ("primitives_normal", "normal"), "reduce": ("primitives_reduct", "primitives_reduce", "reduce")}
"""How a dict of candidates calls those of each kind of cell; the first is the name in the public forks."""


def checked_edge(
    make: Callable[..., MixedOp], C: int, stride: int, primitives: Sequence[Primitive], options: dict[str, Any]
) -> MixedOp:
    """The mixed operation that ``make`` gives; raises :class:`FastdartsError` for another module, or other candidates
    than were asked for."""
    try:
        edge = make(C, stride, primitives, **options)
    except TypeError as error:
        raise FastdartsError(
            f"mixed_op cannot be called: {error}; expected (C, stride, primitives, *, memory, partial) -> MixedOp"
        ) from error
    if not isinstance(edge, MixedOp):
        raise FastdartsError(
            f"mixed_op gave {type(edge).__name__}: expected a MixedOp or an object of a subclass of it"
        )
    names = tuple(map(name_of, primitives))
    if edge.primitives != names:
        raise FastdartsError(
            f"mixed_op made an edge of the candidates {', '.join(edge.primitives)}: expected {', '.join(names)}; hand "
            "the primitives that it gets on to MixedOp"
        )
    return edge


def by_kind(primitives: Mapping[str, Primitives]) -> dict[str, Primitives]:
    """The candidates of normal and of reduction cells, from a dict as the public forks have them."""
    found = {kind: [name for name in names if name in primitives] for kind, names in KINDS.items()}
    if len(primitives) != 2 or [*map(len, found.values())] != [1, 1]:
        raise FastdartsError(
            f"got primitives for {', '.join(map(str, primitives)) or 'no kind of cell'}: expected a dict of "
            f"{' and '.join(names[0] for names in KINDS.values())}"
        )
    return {kind: primitives[name] for kind, (name,) in found.items()}


def edge_primitives(primitives: Primitives, steps: int) -> tuple[tuple[Primitive, ...], ...]:
    """The candidates of every edge, from one list for all edges or one list per edge.

    Raises :class:`FastdartsError` if the number of lists is not the number of edges or their lengths differ (alpha is
    a matrix).
    """
    edges = len(DARTS_CELL.of(steps).edges)
    if isinstance(primitives, str | Mapping) or not isinstance(primitives, Sequence) or not primitives:
        raise FastdartsError(f"got primitives {brief(primitives)}: expected a list of candidates, or one list per edge")
    nested = not isinstance(primitives[0], str) and isinstance(primitives[0], Sequence)
    table = tuple(tuple(p) for p in primitives) if nested else (tuple(primitives),) * edges
    if len(table) != edges:
        raise FastdartsError(
            f"got primitives for {len(table)} edges: a cell of {steps} nodes has {edges}; give one list per edge"
        )
    if len({len(row) for row in table}) != 1 or not table[0]:
        raise FastdartsError(
            f"got edges with {sorted({len(row) for row in table})} candidates: every edge of a cell needs the same "
            "number, at least one, because alpha is a matrix"
        )
    return table
