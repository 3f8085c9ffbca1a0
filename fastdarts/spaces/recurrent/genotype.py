"""Recurrent architectures: genotypes, the published ones, and how one is derived.

A genotype holds an (activation, source) pair per node and the states whose mean is the output. State 0 is made from the
input and the last output, state i >= 1 is node i; node i takes its input from one of the states 0 to i - 1.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.spaces.cells.genotype import items, whole
from fastdarts.spaces.cells.reading import read_fields
from fastdarts.spaces.topology import RECURRENT_CELL

Genotype = namedtuple("Genotype", "recurrent concat")

PRIMITIVES = ("none", "tanh", "relu", "sigmoid", "identity")  # the order is the column order of alpha
STEPS = 8

# fmt: off
ENAS = Genotype(
    recurrent=[
        ("tanh", 0), ("tanh", 1), ("relu", 1), ("tanh", 3), ("tanh", 3), ("relu", 3), ("relu", 4), ("relu", 7),
        ("relu", 8), ("relu", 8), ("relu", 8),
    ],
    concat=[2, 5, 6, 9, 10, 11],
)

DARTS_V1 = Genotype(
    recurrent=[
        ("relu", 0), ("relu", 1), ("tanh", 2), ("relu", 3), ("relu", 4), ("identity", 1), ("relu", 5), ("relu", 1),
    ],
    concat=range(1, 9),
)

DARTS_V2 = Genotype(
    recurrent=[
        ("sigmoid", 0), ("relu", 1), ("relu", 1), ("identity", 1), ("tanh", 2), ("sigmoid", 5), ("tanh", 3),
        ("relu", 5),
    ],
    concat=range(1, 9),
)
# fmt: on

DARTS = DARTS_V2

NAMED: dict[str, Genotype] = {"ENAS": ENAS, "DARTS_V1": DARTS_V1, "DARTS_V2": DARTS_V2, "DARTS": DARTS}


def to_dict(genotype: Genotype) -> dict[str, list]:
    """The genotype as JSON-ready lists: {"recurrent": [["tanh", 0], ...], "concat": [1, ...]}."""
    return {"recurrent": [list(pair) for pair in genotype.recurrent], "concat": list(genotype.concat)}


def from_dict(fields: Any) -> Genotype:
    """The genotype of `to_dict`'s fields, in canonical form: pairs as tuples, consecutive states as a range.

    Raises FastdartsError naming the offending field or entry and what is allowed there.
    """
    if not isinstance(fields, dict) or sorted(map(str, fields)) != sorted(Genotype._fields):
        got = (
            ", ".join(brief(str(name))[1:-1] for name in fields) if isinstance(fields, dict) else type(fields).__name__
        )
        raise FastdartsError(f"a recurrent genotype needs exactly the fields recurrent, concat, got {got or 'none'}")
    listed, concat = items(fields["recurrent"]), items(fields["concat"])
    if not listed:
        raise FastdartsError(
            f"recurrent must list an [activation, source] pair per node, got {brief(fields['recurrent'])}"
        )
    pairs = []
    for node, given in enumerate(listed, start=1):
        pair = items(given)
        if pair is None or len(pair) != 2 or not isinstance(pair[0], str) or pair[0] not in PRIMITIVES[1:]:
            raise FastdartsError(
                f"node {node} must be an [activation, source] pair, the activation one of "
                f"{', '.join(PRIMITIVES[1:])}, got {brief(given)}"
            )
        source = whole(pair[1])
        if source is None or not 0 <= source < node:
            raise FastdartsError(
                f"node {node} takes its input from {brief(pair[1])}, but it can only take states 0 to {node - 1}"
            )
        pairs.append((str(pair[0]), source))
    if not concat:
        raise FastdartsError(f"concat must list the states whose mean is the output, got {brief(fields['concat'])}")
    states = []
    for given in concat:
        state = whole(given)
        if state is None or not 1 <= state <= len(pairs):
            raise FastdartsError(
                f"concat is {brief([*concat[:20]])}, but a cell of {len(pairs)} nodes has states 1 to {len(pairs)}"
            )
        states.append(state)
    if len(set(states)) != len(states):
        raise FastdartsError(f"concat names a state twice in {states}: name each state once")
    consecutive = range(states[0], states[0] + len(states))
    return Genotype(pairs, consecutive if states == list(consecutive) else states)


def check_genotype(genotype: Any) -> Genotype:
    """`genotype` in canonical form; raises FastdartsError as `from_dict` does."""
    return from_dict(genotype._asdict() if hasattr(genotype, "_asdict") else genotype)


def parse_genotype(text: str) -> Genotype:
    """The recurrent genotype that `text` names or spells: a name in `NAMED`, inline JSON, a printed Genotype(...), the
    path of a JSON file, or the folder of a search.

    Raises FastdartsError naming the offence.
    """
    fields = read_fields(text, {name: to_dict(genotype) for name, genotype in NAMED.items()})
    if isinstance(fields, dict) and fields.pop("space", "rnn") != "rnn":
        raise FastdartsError(
            "the genotype is one of image cells, but space rnn was asked for: name one of "
            f"{', '.join(NAMED)} or the folder of a search in space rnn"
        )
    return from_dict(fields)


def derive_genotype(weights: Tensor) -> Genotype:
    """The discrete cell of mixing weights [nodes (nodes + 1) / 2, 5], that is after the softmax (DARTS, section 2.4).

    Every node keeps its one strongest edge, with its strongest activation; `none` counts for neither. Ties keep the
    lower index. The output is the mean of all nodes.
    """
    table = weights.detach().cpu().tolist()
    if not all(math.isfinite(weight) for row in table for weight in row):
        raise FastdartsError("the mixing weights of the recurrent cell are not finite: no genotype can be derived")
    cell = RECURRENT_CELL.holding(len(table))
    recurrent = []
    for target in cell.targets:
        row = max(cell.into(target), key=lambda row: max(table[row][1:]))  # max() keeps the first of equals
        best = max(range(1, len(PRIMITIVES)), key=table[row].__getitem__)
        recurrent.append((PRIMITIVES[best], cell.edges[row].source))
    return Genotype(recurrent, cell.outputs)


def edges_of(nodes: int) -> int:
    """Edges of a cell: node i has one from each of i states."""
    return len(RECURRENT_CELL.of(nodes).edges)


ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda x: x}
