"""Discrete architectures: genotypes, their text forms, the published ones, and how one is derived or sampled.

A genotype holds, for the normal and the reduction cell, a flat list of (primitive, source) pairs, two per
node, and the states that are concatenated into the cell's output. State 0 is the output of the cell before
the last, state 1 that of the last cell, state j >= 2 is node j - 2.

A cell may have any number of edges per node instead: its list then holds (primitive, source, target) triples. A node
that no triple leads into does not exist, as in FairDARTS (Chu et al. 2020, arXiv:1911.12126); see :func:`cleaned`.
"""

import ast
import json
import math
import operator
import re
from collections import namedtuple
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.operations import OPS
from fastdarts.topology import Entry, Topology

Genotype = namedtuple("Genotype", "normal normal_concat reduce reduce_concat")

PRIMITIVES = [  # the order is the column order of alpha
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
]

Primitives = Sequence[Sequence[str]]
"""The primitives of each edge: 2 + 3 + ... + (steps + 1) rows, node after node, sources ascending."""

# One line per node. Published lists of consecutive states are written as ranges, as `derive_genotype` does,
# so that equal architectures compare equal.
# fmt: off
NASNet = Genotype(
    normal=[
        ("sep_conv_5x5", 1), ("sep_conv_3x3", 0),
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 0),
        ("avg_pool_3x3", 1), ("skip_connect", 0),
        ("avg_pool_3x3", 0), ("avg_pool_3x3", 0),
        ("sep_conv_3x3", 1), ("skip_connect", 1),
    ],
    normal_concat=range(2, 7),
    reduce=[
        ("sep_conv_5x5", 1), ("sep_conv_7x7", 0),
        ("max_pool_3x3", 1), ("sep_conv_7x7", 0),
        ("avg_pool_3x3", 1), ("sep_conv_5x5", 0),
        ("skip_connect", 3), ("avg_pool_3x3", 2),
        ("sep_conv_3x3", 2), ("max_pool_3x3", 1),
    ],
    reduce_concat=range(4, 7),
)

AmoebaNet = Genotype(
    normal=[
        ("avg_pool_3x3", 0), ("max_pool_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_5x5", 2),
        ("sep_conv_3x3", 0), ("avg_pool_3x3", 3),
        ("sep_conv_3x3", 1), ("skip_connect", 1),
        ("skip_connect", 0), ("avg_pool_3x3", 1),
    ],
    normal_concat=range(4, 7),
    reduce=[
        ("avg_pool_3x3", 0), ("sep_conv_3x3", 1),
        ("max_pool_3x3", 0), ("sep_conv_7x7", 2),
        ("sep_conv_7x7", 0), ("avg_pool_3x3", 1),
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
        ("conv_7x1_1x7", 0), ("sep_conv_3x3", 5),
    ],
    reduce_concat=[3, 4, 6],
)

DARTS_V1 = Genotype(
    normal=[
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 0),
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0), ("skip_connect", 2),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
        ("skip_connect", 2), ("max_pool_3x3", 0),
        ("max_pool_3x3", 0), ("skip_connect", 2),
        ("skip_connect", 2), ("avg_pool_3x3", 0),
    ],
    reduce_concat=range(2, 6),
)

DARTS_V2 = Genotype(
    normal=[
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("skip_connect", 0),
        ("skip_connect", 0), ("dil_conv_3x3", 2),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
        ("skip_connect", 2), ("max_pool_3x3", 1),
        ("max_pool_3x3", 0), ("skip_connect", 2),
        ("skip_connect", 2), ("max_pool_3x3", 1),
    ],
    reduce_concat=range(2, 6),
)

PC_DARTS_cifar = Genotype(
    normal=[
        ("sep_conv_3x3", 1), ("skip_connect", 0),
        ("sep_conv_3x3", 0), ("dil_conv_3x3", 1),
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 1),
        ("avg_pool_3x3", 0), ("dil_conv_3x3", 1),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("sep_conv_5x5", 1), ("max_pool_3x3", 0),
        ("sep_conv_5x5", 1), ("sep_conv_5x5", 2),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 2),
    ],
    reduce_concat=range(2, 6),
)

PC_DARTS_image = Genotype(
    normal=[
        ("skip_connect", 1), ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 0), ("skip_connect", 1),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 1), ("dil_conv_5x5", 4),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("sep_conv_3x3", 0), ("skip_connect", 1),
        ("dil_conv_5x5", 2), ("max_pool_3x3", 1),
        ("sep_conv_3x3", 2), ("sep_conv_3x3", 1),
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 3),
    ],
    reduce_concat=range(2, 6),
)
# Chen et al. 2019, "Progressive Differentiable Architecture Search", arXiv:1904.12760.
PDARTS = Genotype(
    normal=[
        ("skip_connect", 0), ("dil_conv_3x3", 1),
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 0), ("dil_conv_5x5", 4),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("avg_pool_3x3", 0), ("sep_conv_5x5", 1),
        ("sep_conv_3x3", 0), ("dil_conv_5x5", 2),
        ("max_pool_3x3", 0), ("dil_conv_3x3", 1),
        ("dil_conv_3x3", 1), ("dil_conv_5x5", 3),
    ],
    reduce_concat=range(2, 6),
)

# Dong and Yang 2019, arXiv:1910.04465. Their later code has source 1 in the last entry.
GDAS_V1 = Genotype(
    normal=[
        ("skip_connect", 0), ("skip_connect", 1),
        ("skip_connect", 0), ("sep_conv_5x5", 2),
        ("sep_conv_3x3", 3), ("skip_connect", 0),
        ("sep_conv_5x5", 4), ("sep_conv_3x3", 3),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 1),
        ("sep_conv_5x5", 2), ("sep_conv_5x5", 1),
        ("dil_conv_5x5", 2), ("sep_conv_3x3", 1),
        ("sep_conv_5x5", 0), ("sep_conv_5x5", 2),
    ],
    reduce_concat=range(2, 6),
)

# Li et al. 2020, "SGAS: Sequential Greedy Architecture Search", arXiv:1912.00195: the best of ten for each criterion.
SGAS_Cri1_3 = Genotype(
    normal=[
        ("sep_conv_3x3", 0), ("dil_conv_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_5x5", 1), ("sep_conv_5x5", 3),
        ("skip_connect", 0), ("dil_conv_5x5", 2),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("dil_conv_5x5", 1),
        ("sep_conv_3x3", 0), ("skip_connect", 2),
        ("sep_conv_3x3", 1), ("skip_connect", 2),
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
    ],
    reduce_concat=range(2, 6),
)

SGAS_Cri2_3 = Genotype(
    normal=[
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 2),
        ("max_pool_3x3", 0), ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 2), ("sep_conv_3x3", 3),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("sep_conv_3x3", 0), ("max_pool_3x3", 1),
        ("dil_conv_3x3", 0), ("max_pool_3x3", 1),
        ("max_pool_3x3", 0), ("sep_conv_3x3", 2),
        ("max_pool_3x3", 0), ("sep_conv_5x5", 2),
    ],
    reduce_concat=range(2, 6),
)

# Chen et al. 2021, "DrNAS: Dirichlet Neural Architecture Search", arXiv:2006.10355.
DrNAS_cifar10 = Genotype(
    normal=[
        ("sep_conv_3x3", 0), ("sep_conv_5x5", 1),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 2),
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 2), ("dil_conv_5x5", 3),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("sep_conv_5x5", 1),
        ("dil_conv_5x5", 2), ("sep_conv_5x5", 1),
        ("sep_conv_5x5", 1), ("dil_conv_5x5", 3),
        ("skip_connect", 4), ("sep_conv_5x5", 1),
    ],
    reduce_concat=range(2, 6),
)

# Chen and Hsieh 2020, "Stabilizing Differentiable Architecture Search via Perturbation-based Regularization",
# arXiv:2002.05202: random and adversarial perturbations.
SDARTS_RS = Genotype(
    normal=[
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 0),
        ("sep_conv_5x5", 1), ("skip_connect", 0),
        ("sep_conv_3x3", 3), ("skip_connect", 1),
        ("sep_conv_3x3", 1), ("dil_conv_3x3", 2),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("sep_conv_3x3", 1),
        ("skip_connect", 2), ("max_pool_3x3", 0),
        ("dil_conv_5x5", 3), ("max_pool_3x3", 0),
        ("sep_conv_3x3", 2), ("sep_conv_5x5", 3),
    ],
    reduce_concat=range(2, 6),
)

SDARTS_ADV = Genotype(
    normal=[
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("skip_connect", 0),
        ("sep_conv_5x5", 0), ("dil_conv_3x3", 3),
        ("dil_conv_3x3", 4), ("skip_connect", 0),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("sep_conv_5x5", 1),
        ("skip_connect", 2), ("max_pool_3x3", 0),
        ("skip_connect", 3), ("skip_connect", 2),
        ("skip_connect", 2), ("sep_conv_5x5", 4),
    ],
    reduce_concat=range(2, 6),
)

# Chu et al. 2020, "Fair DARTS", arXiv:1911.12126. Nothing leads into state 3 of the normal cells of a, c and g.
FairDARTS_a = Genotype(
    normal=[
        ("sep_conv_3x3", 0, 2), ("sep_conv_5x5", 1, 2),
        ("max_pool_3x3", 0, 4),
        ("sep_conv_3x3", 0, 5),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0, 2), ("avg_pool_3x3", 1, 2),
        ("avg_pool_3x3", 0, 3), ("dil_conv_5x5", 1, 3),
        ("avg_pool_3x3", 0, 4), ("sep_conv_5x5", 1, 4),
        ("skip_connect", 0, 5), ("skip_connect", 1, 5),
    ],
    reduce_concat=range(2, 6),
)

FairDARTS_b = Genotype(
    normal=[
        ("sep_conv_3x3", 0, 2), ("sep_conv_3x3", 1, 2),
        ("sep_conv_3x3", 1, 3),
        ("dil_conv_3x3", 0, 4), ("sep_conv_5x5", 1, 4),
        ("dil_conv_5x5", 1, 5),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("skip_connect", 0, 2), ("dil_conv_3x3", 1, 2),
        ("skip_connect", 0, 3), ("dil_conv_3x3", 1, 3),
        ("max_pool_3x3", 0, 4), ("sep_conv_3x3", 1, 4),
        ("skip_connect", 2, 5), ("max_pool_3x3", 0, 5),
    ],
    reduce_concat=range(2, 6),
)

FairDARTS_c = Genotype(
    normal=[
        ("max_pool_3x3", 0, 2), ("sep_conv_5x5", 1, 2),
        ("dil_conv_3x3", 0, 4), ("dil_conv_5x5", 2, 4),
        ("skip_connect", 3, 5), ("sep_conv_3x3", 0, 5),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("dil_conv_3x3", 1, 2), ("dil_conv_5x5", 0, 2),
        ("dil_conv_3x3", 0, 3), ("sep_conv_3x3", 1, 3),
        ("sep_conv_5x5", 0, 4), ("sep_conv_5x5", 3, 4),
        ("sep_conv_5x5", 0, 5), ("skip_connect", 1, 5),
    ],
    reduce_concat=range(2, 6),
)

FairDARTS_d = Genotype(
    normal=[
        ("sep_conv_3x3", 0, 2), ("sep_conv_5x5", 1, 2),
        ("dil_conv_3x3", 1, 3), ("max_pool_3x3", 0, 3),
        ("dil_conv_3x3", 0, 4), ("dil_conv_3x3", 1, 4),
        ("sep_conv_3x3", 0, 5), ("dil_conv_5x5", 1, 5),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0, 2), ("sep_conv_5x5", 1, 2),
        ("avg_pool_3x3", 0, 3), ("dil_conv_5x5", 2, 3),
        ("dil_conv_3x3", 3, 4), ("avg_pool_3x3", 0, 4),
        ("avg_pool_3x3", 0, 5), ("skip_connect", 3, 5),
    ],
    reduce_concat=range(2, 6),
)

FairDARTS_g = Genotype(
    normal=[
        ("sep_conv_3x3", 0, 2), ("sep_conv_3x3", 1, 2),
        ("skip_connect", 3, 4), ("sep_conv_5x5", 1, 4),
        ("dil_conv_3x3", 0, 5), ("sep_conv_3x3", 1, 5),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("avg_pool_3x3", 1, 2), ("skip_connect", 0, 2),
        ("skip_connect", 2, 3), ("max_pool_3x3", 1, 3),
        ("sep_conv_5x5", 3, 4), ("max_pool_3x3", 0, 4),
        ("dil_conv_3x3", 1, 5), ("dil_conv_3x3", 4, 5),
    ],
    reduce_concat=range(2, 6),
)
# fmt: on

DARTS = DARTS_V2
PCDARTS = PC_DARTS_cifar

NAMED: dict[str, Genotype] = {
    "NASNet": NASNet,
    "AmoebaNet": AmoebaNet,
    "DARTS_V1": DARTS_V1,
    "DARTS_V2": DARTS_V2,
    "DARTS": DARTS,
    "PC_DARTS_cifar": PC_DARTS_cifar,
    "PC_DARTS_image": PC_DARTS_image,
    "PCDARTS": PCDARTS,
    "PDARTS": PDARTS,
    "GDAS_V1": GDAS_V1,
    "SGAS_Cri1_3": SGAS_Cri1_3,
    "SGAS_Cri2_3": SGAS_Cri2_3,
    "DrNAS_cifar10": DrNAS_cifar10,
    "SDARTS_RS": SDARTS_RS,
    "SDARTS_ADV": SDARTS_ADV,
    "FairDARTS_a": FairDARTS_a,
    "FairDARTS_b": FairDARTS_b,
    "FairDARTS_c": FairDARTS_c,
    "FairDARTS_d": FairDARTS_d,
    "FairDARTS_g": FairDARTS_g,
}

MOST_STATES = 1000  # of a cell of triples, whose numbers nothing else bounds


def items(value: object) -> Sequence[Any] | None:
    """The elements of a list, a tuple, a range or an array of numpy or torch; None of anything else."""
    if isinstance(value, list | tuple | range):
        return value
    listed = value.tolist() if hasattr(value, "tolist") else None
    return listed if isinstance(listed, list) else None


def whole(value: object) -> int | None:
    """``value`` if it is a whole number, of any library; None otherwise."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except (TypeError, ValueError):
        return None


def _check_entries(cell: str, entries: object) -> list[Entry]:
    """The pairs of two edges per node, or the triples of any number, node after node."""
    listed = items(entries)
    free = bool(listed) and any(len(items(given) or ()) == 3 for given in listed)
    if not listed or (len(listed) % 2 and not free):
        raise FastdartsError(
            f"{cell} must list two [operation, source] pairs per node, or [operation, source, target] entries, got "
            f"{brief(entries)}"
        )
    form = "[operation, source, target] entry as others are" if free else "[operation, source] pair"
    checked = []
    for position, given in enumerate(listed):
        entry = items(given)
        if entry is None or len(entry) != 2 + free:
            raise FastdartsError(f"entry {position} of {cell} must be an {form}, got {brief(given)}")
        name = entry[0]
        if not isinstance(name, str) or name not in OPS:
            raise FastdartsError(
                f"unknown operation {brief(name)} in entry {position} of {cell}: use one of {', '.join(OPS)}"
            )
        checked.append((str(name), *(_check_ends if free else _check_source)(cell, position, entry)))
    return sorted(checked, key=itemgetter(2)) if free else checked


def _check_source(cell: str, position: int, pair: Sequence[Any]) -> tuple[int]:
    source, node = whole(pair[1]), position // 2
    if source is None:
        raise FastdartsError(
            f"entry {position} of {cell} takes its input from {brief(pair[1])}, which is no whole number: name a "
            f"state from 0 to {node + 1}"
        )
    if not 0 <= source < node + 2:
        raise FastdartsError(
            f"entry {position} of {cell} takes its input from {brief(pair[1])}, but node {node} can only take"
            f" states 0 to {node + 1}"
        )
    return (source,)


def _check_ends(cell: str, position: int, triple: Sequence[Any]) -> tuple[int, int]:
    source, target = map(whole, triple[1:])
    if source is None or target is None or not 0 <= source < target or not 2 <= target < MOST_STATES:
        raise FastdartsError(
            f"entry {position} of {cell} leads from state {brief(triple[1])} into state {brief(triple[2])}: expected "
            f"[operation, source, target] with a target from 2 to {MOST_STATES - 1} and a source before it"
        )
    return source, target


def _check_concat(cell: str, concat: object, entries: Sequence[Entry]) -> Sequence[int]:
    listed, free = items(concat), len(entries[0]) == 3
    if not listed:
        raise FastdartsError(f"{cell}_concat must list the states to concatenate, got {brief(concat)}")
    nodes = len(entries) // 2
    end, states = MOST_STATES if free else nodes + 2, []
    for given in listed:
        state = whole(given)
        if state in (0, 1) and cell == "reduce":
            raise FastdartsError(
                f"reduce_concat holds {state}, an input of the cell, which is twice as large as its nodes: expected "
                f"states 2 to {end - 1}"
            )
        if state is None or not 0 <= state < end:
            raise FastdartsError(
                f"{cell}_concat holds {brief(given)}, but a cell of {'triples' if free else f'{nodes} nodes'} has "
                f"states {2 if cell == 'reduce' else 0} to {end - 1}"
            )
        states.append(state)
    if len(set(states)) != len(states):
        raise FastdartsError(f"{cell}_concat names a state twice in {states}: name each state once")
    if not free and end - 1 not in states:
        raise FastdartsError(
            f"{cell} lists {len(entries)} pairs, that is {nodes} nodes, but {cell}_concat does not name the last, "
            f"state {end - 1}, which nothing else can read: list two pairs per node, or [operation, source, target] "
            "entries for any number of edges"
        )
    return _ranged(states)


def _ranged(states: list[int]) -> Sequence[int]:
    """Consecutive states as a range, others as they are."""
    consecutive = range(states[0], states[0] + len(states))
    return consecutive if states == list(consecutive) else states


def cleaned(genotype: Genotype) -> Genotype:
    """What a network of ``genotype`` consists of: the nodes that exist, and the operations and the output they leave.

    A node exists if an operation leads into it from a state that exists. Operations from other states, and other
    states of the output, are left out. Cells of pairs have all of their nodes. Raises :class:`FastdartsError` if no
    state of an output is left.
    """
    normal, reduce = (_cleaned(name, *cell) for name, cell in (("normal", genotype[:2]), ("reduce", genotype[2:])))
    return Genotype(*normal, *reduce)


def _cleaned(cell: str, entries: list[Entry], concat: Sequence[int]) -> tuple[list[Entry], Sequence[int]]:
    if len(entries[0]) == 2:
        return entries, concat
    known, kept = {0, 1}, []
    for entry in sorted(entries, key=itemgetter(2)):
        if entry[1] in known:
            known.add(entry[2])
            kept.append(entry)
    left = [state for state in concat if state in known]
    if not left:
        raise FastdartsError(
            f"{cell}_concat is {brief(list(concat))}, but nothing leads from the inputs into any of these states: "
            "name one that an entry leads into"
        )
    return kept, _ranged(left)


def to_dict(genotype: Genotype) -> dict[str, list]:
    """The genotype as JSON-ready lists: {"normal": [["sep_conv_3x3", 1], ...], "normal_concat": [2], ...}."""
    return {
        "normal": [list(entry) for entry in genotype.normal],
        "normal_concat": list(genotype.normal_concat),
        "reduce": [list(entry) for entry in genotype.reduce],
        "reduce_concat": list(genotype.reduce_concat),
    }


def from_dict(fields: dict[str, object]) -> Genotype:
    """The genotype of `to_dict`'s fields, in canonical form: entries as tuples, triples by target, consecutive states
    as a range.

    Raises FastdartsError naming the offending field or entry and what is allowed there.
    """
    if not isinstance(fields, dict) or sorted(map(str, fields)) != sorted(Genotype._fields):
        got = (
            ", ".join(brief(str(name))[1:-1] for name in fields) if isinstance(fields, dict) else type(fields).__name__
        )
        raise FastdartsError(f"a genotype needs exactly the fields {', '.join(Genotype._fields)}, got {got or 'none'}")
    normal, reduce = (_check_entries(cell, fields[cell]) for cell in ("normal", "reduce"))
    genotype = Genotype(
        normal=normal,
        normal_concat=_check_concat("normal", fields["normal_concat"], normal),
        reduce=reduce,
        reduce_concat=_check_concat("reduce", fields["reduce_concat"], reduce),
    )
    cleaned(genotype)  # raises where no output is left
    return genotype


def check_genotype(genotype: Genotype) -> Genotype:
    """`genotype` in canonical form; raises FastdartsError as `from_dict` does."""
    return from_dict(genotype._asdict() if hasattr(genotype, "_asdict") else genotype)


WRAPPERS = re.compile(r"u?int\d*|str_?|list|tuple|array|asarray|tensor")
"""Calls that printed values are wrapped in: np.int64(2), array([2, 3]), list(range(2, 6))."""


def _literal(node: ast.expr) -> object:
    """The value of an expression of literals, ranges and wrappers; read, never evaluated. ValueError for another."""
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(element) for element in node.elts]
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        return {key.value: _literal(value) for key, value in zip(node.keys, node.values, strict=True)}
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    values = [_literal(argument) for argument in node.args]
    if name == "range" and not node.keywords:
        return range(*values)
    if WRAPPERS.fullmatch(name) and len(values) == 1:
        return values[0]
    raise ValueError(f"{name}(...) is no literal")


def _from_repr(text: str) -> dict[str, object]:
    try:
        call = ast.parse(_call(text), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("not Genotype(field=..., ...)")
        given = [*zip(Genotype._fields, call.args, strict=False), *((str(k.arg), k.value) for k in call.keywords)]
        if len(dict(given)) < len(given) or len(call.args) > len(Genotype._fields):
            raise ValueError("a field twice")
        return {name: _literal(value) for name, value in given}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise FastdartsError(
            f"cannot read the genotype {_shorten(text)}: expected Genotype(normal=[('sep_conv_3x3', 0), ...],"
            " normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))"
        ) from error


def _call(text: str) -> str:
    """The last Genotype(...) in ``text``: in the log of a search, that of the last epoch."""
    *_, start = (found.start() for found in re.finditer(r"\bGenotype\(", text))
    depth = 0
    for end, letter in enumerate(text[start:], start + 1):
        depth += (letter in "([") - (letter in ")]")
        if letter == ")" and not depth:
            return text[start:end]
    raise SyntaxError("no end")


def _from_json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            return _literal(ast.parse(text, mode="eval").body)  # a dict as Python prints it
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            pass
        raise FastdartsError(
            f"{where} is not valid JSON ({brief(str(error))[1:-1]}): write it as genotype.json of a run"
        ) from error


def _from_text(text: str, named: Mapping[str, dict[str, list]], where: str) -> object:
    """The fields that ``text`` names or spells."""
    if text in named:
        return named[text]
    return _from_repr(text) if re.search(r"\bGenotype\(", text) else _from_json(text, where)


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def read_fields(text: str, named: Mapping[str, dict[str, list]] | None = None) -> object:
    """The fields of the architecture that `text` names or spells, not checked yet: see `parse_genotype`.

    `named`: the fields by name, those of `NAMED` if left out.
    """
    text = text.strip().removeprefix("\ufeff")
    named = named or {name: to_dict(genotype) for name, genotype in NAMED.items()}
    if text in named or text.startswith("{") or "Genotype(" in text:
        return _from_text(text, named, "the genotype")
    try:
        path = Path(text)
        content = (path / "genotype.json" if path.is_dir() else path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FastdartsError(
            f"{_shorten(text)} is not a genotype: give one of {', '.join(named)}, a readable JSON file, or"
            " the JSON or Genotype(...) text itself"
        ) from error
    return _from_text(content.strip().removeprefix("\ufeff"), named, text if text.isprintable() else brief(text))


def parse_genotype(text: str) -> Genotype:
    """The genotype that `text` names or spells.

    `text` is a name in `NAMED`, inline JSON (`{"normal": ...}`), the repr `Genotype(normal=[...], ...)` that
    DARTS code prints (lists, ranges or numbers of numpy, a log around it; read, never evaluated), the path of a file
    that holds any of these, or a run's folder.
    Raises FastdartsError naming the offence.
    """
    fields = read_fields(text)
    if isinstance(fields, dict):
        fields.pop("space", None)  # that of a run; `fastdarts.spaces.parse_architecture` heeds it
    return from_dict(fields)


def _derive_cell(weights: Tensor, primitives: Primitives, cell: Topology) -> list[tuple[str, int]]:
    expected = (len(cell.edges), len(primitives[0]))
    if tuple(weights.shape) != expected or len(primitives) != expected[0]:
        raise FastdartsError(
            f"a cell of {cell.nodes} nodes needs weights of shape {expected} and primitives for {expected[0]}"
            f" edges, got weights of shape {tuple(weights.shape)} and primitives for {len(primitives)}"
        )
    # Rank and primitive of each edge. One that is all `none` is as weak as one of no weight at all, which a projection
    # has taken out: that one comes last.
    best: list[tuple[tuple[float, bool], str]] = []
    for edge, (row, names) in enumerate(zip(weights.detach().cpu().tolist(), primitives, strict=True)):
        candidates = [(weight, name) for weight, name in zip(row, names, strict=True) if name != "none"]
        if not candidates or not all(math.isfinite(weight) for weight in row):
            raise FastdartsError(
                f"edge {edge} needs finite mixing weights and a primitive other than none, got {row} for"
                f" {', '.join(map(str, names))}"
            )
        weight, name = max(candidates, key=lambda candidate: candidate[0])  # the first of equals
        best.append(((-weight, not any(row)), name))
    # sorted() is stable, so equal edges keep their order; the two kept stay in ranking order
    strongest = (sorted(cell.into(target), key=lambda row: best[row][0])[: cell.kept] for target in cell.targets)
    return [(best[row][1], cell.edges[row].source) for rows in strongest for row in rows]


def derive_genotype(
    weights_normal: Tensor,
    weights_reduce: Tensor,
    primitives_normal: Primitives,
    primitives_reduce: Primitives,
    steps: int = 4,
    multiplier: int = 4,
) -> Genotype:
    """The discrete architecture of a supernet's mixing weights (DARTS, section 2.4).

    Each edge is as strong as its largest weight over primitives other than `none`; each node keeps its two
    strongest edges, stronger first, each with its strongest such primitive. Ties keep the lower index; edges of no
    weight at all, as a projection leaves them, come last.

    weights: [edges, K] mixing weights, that is *after* the softmax: a large `none` must weaken its edge.
    primitives: K names per edge.
    Raises FastdartsError for a wrong shape, a non-finite weight or an edge that offers nothing but `none`.
    """
    cell = Topology(steps, multiplier=multiplier)
    return Genotype(
        normal=_derive_cell(torch.as_tensor(weights_normal), primitives_normal, cell),
        normal_concat=cell.outputs,
        reduce=_derive_cell(torch.as_tensor(weights_reduce), primitives_reduce, cell),
        reduce_concat=cell.outputs,
    )


def sample_genotype(
    generator: torch.Generator,
    primitives_normal: Primitives,
    primitives_reduce: Primitives,
    steps: int = 4,
    multiplier: int = 4,
    *,
    none: bool = False,
) -> Genotype:
    """A uniformly random architecture: per node two distinct sources, per edge a primitive, not `none` unless so asked.

    Draws only from `generator` (on the CPU), the normal cell first. Sources are listed in ascending order.
    """

    cell = Topology(steps, multiplier=multiplier)

    def draw(primitives: Primitives) -> list[tuple[str, int]]:
        pairs = []
        for target in cell.targets:
            for source in sorted(torch.randperm(target, generator=generator)[: cell.kept].tolist()):
                names = [name for name in primitives[cell.row(target, source)] if none or name != "none"]
                pairs.append((names[int(torch.randint(len(names), (), generator=generator))], source))
        return pairs

    return Genotype(draw(primitives_normal), cell.outputs, draw(primitives_reduce), cell.outputs)
