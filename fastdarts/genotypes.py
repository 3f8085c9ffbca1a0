"""Discrete architectures: genotypes, their text forms, the published ones, and how one is derived or sampled.

A genotype holds, for the normal and the reduction cell, a flat list of (primitive, source) pairs, two per
node, and the states that are concatenated into the cell's output. State 0 is the output of the cell before
the last, state 1 that of the last cell, state j >= 2 is node j - 2.
"""

import ast
import json
import math
import operator
import re
from collections import namedtuple
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.operations import OPS
from fastdarts.topology import DARTS_CELL, Topology

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
}


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


def _check_pairs(cell: str, pairs: object) -> list[tuple[str, int]]:
    listed = items(pairs)
    if not listed or len(listed) % 2:
        raise FastdartsError(f"{cell} must list two [operation, source] pairs per node, got {brief(pairs)}")
    checked = []
    for position, given in enumerate(listed):
        node, pair = position // 2, items(given)
        if pair is None or len(pair) != 2:
            raise FastdartsError(f"entry {position} of {cell} must be an [operation, source] pair, got {brief(given)}")
        name, source = pair[0], whole(pair[1])
        if not isinstance(name, str) or name not in OPS:
            raise FastdartsError(
                f"unknown operation {brief(name)} in entry {position} of {cell}: use one of {', '.join(OPS)}"
            )
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
        checked.append((str(name), source))
    return checked


def _check_two_per_node(cell: str, pairs: Sequence[object], concat: Sequence[int]) -> None:
    """Raise :class:`FastdartsError` for as many pairs as all edges of a cell, whose nodes alone are concatenated."""
    whole = DARTS_CELL.holding(len(pairs))
    if whole.nodes > 1 and len(whole.edges) == len(pairs) and max(concat) < whole.states:
        raise FastdartsError(
            f"{cell} lists {len(pairs)} pairs, all edges of a cell of {whole.nodes} nodes, and {cell}_concat no state "
            f"beyond {whole.states - 1}: expected two pairs per node, {2 * whole.nodes} in all, of the edges that are "
            "kept"
        )


def _check_concat(cell: str, concat: object, steps: int) -> Sequence[int]:
    listed = items(concat)
    if not listed:
        raise FastdartsError(f"{cell}_concat must list the states to concatenate, got {brief(concat)}")
    states = []
    for given in listed:
        state = whole(given)
        if state is None or not 2 <= state < steps + 2:
            raise FastdartsError(
                f"{cell}_concat holds {brief(given)}, but a cell of {steps} nodes has states 2 to {steps + 1}"
            )
        states.append(state)
    if len(set(states)) != len(states):
        raise FastdartsError(f"{cell}_concat names a state twice in {states}: name each state once")
    consecutive = range(states[0], states[0] + len(states))
    return consecutive if states == list(consecutive) else states


def to_dict(genotype: Genotype) -> dict[str, list]:
    """The genotype as JSON-ready lists: {"normal": [["sep_conv_3x3", 1], ...], "normal_concat": [2], ...}."""
    return {
        "normal": [[name, source] for name, source in genotype.normal],
        "normal_concat": list(genotype.normal_concat),
        "reduce": [[name, source] for name, source in genotype.reduce],
        "reduce_concat": list(genotype.reduce_concat),
    }


def from_dict(fields: dict[str, object]) -> Genotype:
    """The genotype of `to_dict`'s fields, in canonical form: pairs as tuples, consecutive states as a range.

    Raises FastdartsError naming the offending field or entry and what is allowed there.
    """
    if not isinstance(fields, dict) or sorted(map(str, fields)) != sorted(Genotype._fields):
        got = (
            ", ".join(brief(str(name))[1:-1] for name in fields) if isinstance(fields, dict) else type(fields).__name__
        )
        raise FastdartsError(f"a genotype needs exactly the fields {', '.join(Genotype._fields)}, got {got or 'none'}")
    normal = _check_pairs("normal", fields["normal"])
    reduce = _check_pairs("reduce", fields["reduce"])
    genotype = Genotype(
        normal=normal,
        normal_concat=_check_concat("normal", fields["normal_concat"], len(normal) // 2),
        reduce=reduce,
        reduce_concat=_check_concat("reduce", fields["reduce_concat"], len(reduce) // 2),
    )
    _check_two_per_node("normal", normal, genotype.normal_concat)
    _check_two_per_node("reduce", reduce, genotype.reduce_concat)
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
