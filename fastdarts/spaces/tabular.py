"""Tabular benchmarks: a file of the user's that says how good each architecture of a space is, such as the values of
NAS-Bench-201 (Dong and Yang 2020, arXiv:2001.00326)."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fastdarts.errors import FastdartsError, did_you_mean
from fastdarts.functional.arguments import brief
from fastdarts.spaces.cells.reading import read_fields
from fastdarts.spaces.space import Space

Direction = Literal["maximize", "minimize"]
ARCHITECTURE = "architecture"
_FALLS = re.compile(r"(^|[^a-z])(error|errors|err|loss|perplexity|ppl|latency|regret|rank)([^a-z]|$)", re.IGNORECASE)
"""Names of metrics of which less is better."""
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


def better(name: str) -> Direction:
    """Whether more or less of a metric of this name is better: less of an error, a loss, a perplexity, a latency.

    Example:
        >>> better("test_accuracy"), better("test_error")
        ('maximize', 'minimize')
    """
    return "minimize" if _FALLS.search(name) else "maximize"


class Tabular(NamedTuple):
    """The values of one metric by the text of the architecture, see :meth:`Space.text`; None for a value that is no
    finite number.

    digest: of the bytes of the file.
    """

    metric: str
    values: dict[str, float | None]
    digest: str


def read_tabular(path: Path, space: Space, metric: str | None = None, nodes: int | None = None) -> Tabular:
    """The table of architectures in a CSV or JSON file.

    A CSV file has the architecture in its first column, or in the column ``architecture``. A first line of titles may
    be left out. A JSON file holds a table {architecture: value}, a table {architecture: {metric: value}}, or a list of
    tables with an ``architecture`` each. It may also be the study.json of ``fastdarts study``. An architecture is a
    string in a form of the space, the JSON of genotype.json, or a printed Genotype(...).

    Args:
        metric: the column to read; by default the first one with numbers.
        nodes: of the cells; by default those of the space.

    Raises :class:`FastdartsError` for a file that cannot be read, holds no architecture of the space, or has no such
    metric.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise FastdartsError(f"--table is {path}, which cannot be read ({why}): expected a CSV or JSON file") from None
    rows = [*(_from_json(text, path, space) if text.lstrip()[:1] in ("{", "[") else _from_csv(text, path))]
    columns = [*dict.fromkeys(name for _, row in rows for name, value in row.items() if _number(value) is not None)]
    if not columns:
        raise FastdartsError(f"the table {path} has no numbers: expected an architecture and a number in each row")
    if metric is not None and metric not in columns:
        raise FastdartsError(
            f"--column is {metric!r}{did_you_mean(metric, columns)}: the table {path} has {', '.join(columns)}"
        )
    name, values = metric or columns[0], {}
    for number, (named, row) in enumerate(rows, start=1):
        known = named if isinstance(named, str) else json.dumps(named)
        try:
            genotype = space.from_text(known.strip())
            if genotype is None:
                genotype = _genotype(known, space, nodes or space.nodes)
            values[space.text(genotype)] = _number(row.get(name))
        except FastdartsError as error:
            raise FastdartsError(
                f"the table {path} has no architecture of space {space.name} in entry {number}: {error}"
            ) from None
    return Tabular(name, values, hashlib.blake2b(data, digest_size=16).hexdigest())


def _genotype(text: str, space: Space, nodes: int) -> Any:
    """The genotype that JSON or a printed one spells, with the sources of its nodes in the order of the space."""
    if not ("Genotype(" in text or text.strip().startswith("{")):
        raise FastdartsError(f"{brief(text)} is neither a form of the space, JSON, nor a printed Genotype(...)")
    fields = read_fields(text)
    named = dict(fields) if isinstance(fields, Mapping) else {}
    if (of := named.pop("space", space.name)) != space.name:
        raise FastdartsError(f"it is an architecture of space {brief(of)}")
    return space.decode(space.encode(space.genotype(named)), nodes)


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _from_csv(text: str, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows: an architecture, and its values by title."""
    separator = max(",;\t", key=text.partition("\n")[0].count)
    lines = [line for line in csv.reader(io.StringIO(text), delimiter=separator) if any(line)]
    if not lines or len(lines[0]) < 2:
        raise FastdartsError(f"the table {path} has no two columns: expected an architecture and a number in each row")
    first = [title.strip() for title in lines[0]]
    titled = not any(_FLOAT.fullmatch(title) for title in first)
    names = first if titled else [ARCHITECTURE, *("metric", *(f"metric {n}" for n in range(2, len(first))))]
    place = names.index(ARCHITECTURE) if ARCHITECTURE in names else 0
    for line in lines[titled:]:
        if len(line) <= place:
            raise FastdartsError(f"the table {path} has the row {brief(line)}: expected {len(names)} columns")
        yield line[place], {name: value for name, value in zip(names, line, strict=False) if name != names[place]}


def _from_json(text: str, path: Path, space: Space) -> Iterable[tuple[Any, Mapping[str, Any]]]:
    """The rows: an architecture, and its values by name."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FastdartsError(f"the table {path} is no JSON ({error}): expected {{architecture: value}}") from None
    if isinstance(found, dict) and found.get("kind") == "study":
        if found.get("space") != space.name:
            raise FastdartsError(f"the table {path} is of space {found.get('space')}: expected one of {space.name}")
        # of the numbers of a row, "number" is only its place in the study
        rows = ((row, {k: v for k, v in row.items() if k != "number"}) for row in found["architectures"])
        return [(_studied(row["operations"], space), values) for row, values in rows]
    if isinstance(found, dict):
        return [(name, value if isinstance(value, dict) else {"metric": value}) for name, value in found.items()]
    if not all(isinstance(row, dict) and ARCHITECTURE in row for row in found):
        raise FastdartsError(f"the table {path} is a list: expected tables with an entry {ARCHITECTURE!r} each")
    return [(row[ARCHITECTURE], {k: v for k, v in row.items() if k != ARCHITECTURE}) for row in found]


def _studied(operations: list[list[str]], space: Space) -> dict[str, Any]:
    """The fields of an architecture of a study, which names the operations of each cell by ascending source."""
    fields: dict[str, Any] = {}
    for kind, names in zip(space.kinds, operations, strict=True):
        fields |= {kind: [[name, source] for source, name in enumerate(names)], f"{kind}_concat": [2]}
    return fields
