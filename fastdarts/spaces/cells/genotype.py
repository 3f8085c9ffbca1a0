"""Discrete architectures: genotypes, their text forms, the published ones, and how one is derived or sampled.

A genotype holds, for the normal and the reduction cell, a flat list of (primitive, source) pairs, two per
node, and the states that are concatenated into the cell's output. State 0 is the output of the cell before
the last, state 1 that of the last cell, state j >= 2 is node j - 2.

A cell may have any number of edges per node instead: its list then holds (primitive, source, target) triples. A node
that no triple leads into does not exist, as in FairDARTS (Chu et al. 2020, arXiv:1911.12126); see :func:`cleaned`.
Two forms of public code are read as such triples: those of FairDARTS, which name the target first, and the cells of
SNAS (Xie et al. 2019, arXiv:1812.09926), which list a pair for every edge.
"""

import operator
from collections import namedtuple
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from fastdarts.errors import FastdartsError, did_you_mean
from fastdarts.functional.arguments import brief
from fastdarts.nn.operations import OPS, is_operation
from fastdarts.spaces.topology import Entry

Genotype = namedtuple("Genotype", "normal normal_concat reduce reduce_concat")

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


def _check_entries(cell: str, entries: object, concat: object) -> list[Entry]:
    """The pairs of two edges per node, or the triples of any number, node after node."""
    listed = _source_first(_of_every_edge(items(entries), concat))
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
        if not isinstance(name, str) or not is_operation(name):
            raise FastdartsError(
                f"unknown operation {brief(name)}{did_you_mean(name, OPS)} in entry {position} of {cell}: use one that "
                "`fastdarts spaces` lists, or one that a --plugin registers"
            )
        checked.append((str(name), *(_check_ends if free else _check_source)(cell, position, entry)))
    return sorted(checked, key=itemgetter(2)) if free else checked


def _of_every_edge(listed: Sequence[Any] | None, concat: object) -> Sequence[Any] | None:
    """Triples, where the pairs are those of every edge of a cell whose last node is in ``concat``; else ``listed``.

    The sources of a node may come in any order. No cell of two pairs per node has so many, but for one node.
    """
    pairs, output = [items(given) or () for given in listed or ()], items(concat) or ()
    states = [whole(state) for state in output] if len(output) <= len(pairs) else []  # a range may be very long
    nodes = max(states) - 1 if states and None not in states else 0
    if nodes < 2 or len(pairs) != nodes * (nodes + 3) // 2 or any(len(pair) != 2 for pair in pairs):
        return listed
    targets = [target for target in range(2, nodes + 2) for _ in range(target)]
    ends = [(target, whole(pair[1])) for target, pair in zip(targets, pairs, strict=True)]
    if {*ends} != {(target, source) for target in targets for source in range(target)}:
        return listed
    return [(pair[0], source, target) for pair, (target, source) in zip(pairs, ends, strict=True)]


def _source_first(listed: Sequence[Any] | None) -> Sequence[Any] | None:
    """The triples with their source before their target, where all of them have it behind; else ``listed``."""
    triples = [items(given) or () for given in listed or ()]
    if not triples or any(len(triple) != 3 for triple in triples):
        return listed
    ends = [tuple(map(whole, triple[1:])) for triple in triples]
    if any(None in pair or pair[0] <= pair[1] for pair in ends):
        return listed
    return [(triple[0], source, target) for triple, (target, source) in zip(triples, ends, strict=True)]


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


def _check_concat(cell: str, concat: object, entries: Sequence[Entry], inputs: bool) -> Sequence[int]:
    """The states of the output; ``inputs``: whether those of the cell may be among them."""
    listed, free = items(concat), len(entries[0]) == 3
    if not listed:
        raise FastdartsError(f"{cell}_concat must list the states to concatenate, got {brief(concat)}")
    nodes = len(entries) // 2
    end, states = MOST_STATES if free else nodes + 2, []
    for given in listed:
        state = whole(given)
        if state in (0, 1) and not inputs:
            raise FastdartsError(
                f"reduce_concat holds {state}, an input of the cell, which is twice as large as its nodes: expected "
                f"states 2 to {end - 1}"
            )
        if state is None or not 0 <= state < end:
            raise FastdartsError(
                f"{cell}_concat holds {brief(given)}, but a cell of {'triples' if free else f'{nodes} nodes'} has "
                f"states {0 if inputs else 2} to {end - 1}"
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


def from_dict(fields: dict[str, object], *, reduces_inputs: bool = False) -> Genotype:
    """The genotype of `to_dict`'s fields, in canonical form: entries as tuples, triples by target, consecutive states
    as a range.

    `reduces_inputs`: whether the output of a reduction cell may hold inputs, as in NASNet, where these are halved.
    Raises FastdartsError naming the offending field or entry and what is allowed there.
    """
    if not isinstance(fields, dict) or sorted(map(str, fields)) != sorted(Genotype._fields):
        got = (
            ", ".join(brief(str(name))[1:-1] for name in fields) if isinstance(fields, dict) else type(fields).__name__
        )
        raise FastdartsError(f"a genotype needs exactly the fields {', '.join(Genotype._fields)}, got {got or 'none'}")
    normal, reduce = (_check_entries(cell, fields[cell], fields[f"{cell}_concat"]) for cell in ("normal", "reduce"))
    genotype = Genotype(
        normal=normal,
        normal_concat=_check_concat("normal", fields["normal_concat"], normal, True),
        reduce=reduce,
        reduce_concat=_check_concat("reduce", fields["reduce_concat"], reduce, reduces_inputs),
    )
    cleaned(genotype)  # raises where no output is left
    return genotype


def check_genotype(genotype: Genotype, *, reduces_inputs: bool = False) -> Genotype:
    """`genotype` in canonical form; raises FastdartsError as `from_dict` does."""
    fields = genotype._asdict() if hasattr(genotype, "_asdict") else genotype
    return from_dict(fields, reduces_inputs=reduces_inputs)
