"""Reading a run's folder back: what a search or an evaluation has written so far, checked."""

import dataclasses
import json
import math
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdarts.drawing import Edges
from fastdarts.errors import FastdartsError
from fastdarts.recorder import METRICS, read_metrics
from fastdarts.spaces import DARTS, Architecture, Notation, architecture, find_notation

Row = dict[str, Any]


@dataclass(frozen=True)
class Records:
    """The files of one run; what it has not written yet is empty.

    rows: those of metrics.jsonl, their genotypes as of the space.
    space: of the genotypes and of the supernet.
    parts: the key that tells the trainings of an evaluation ("seed") or of a random search ("sample") apart,
        None for a run of one training.
    """

    folder: Path
    rows: list[Row]
    config: Row
    environment: Row
    result: Row
    genotype: Any
    parts: str | None
    space: Notation = DARTS

    def cells(self, genotype: Any) -> dict[str, tuple[Edges, Sequence[int]]]:
        """Edges and output of each kind of cell; nothing without a genotype."""
        return self.space.cells(genotype) if genotype else {}

    @property
    def is_evaluation(self) -> bool:
        """Whether the run trains one genotype from scratch; it searches for one otherwise."""
        return self.parts == "seed" or self.result.get("kind") == "evaluate" or "genotype" in self.config

    def trainings(self) -> dict[str, list[Row]]:
        """The rows of each training, by seed or sample."""
        groups = defaultdict(list)
        for row in self.rows:
            groups[str(row.get(self.parts, "?"))].append(row)
        return dict(groups)

    def ranking(self) -> list[tuple[float, str]]:
        """(last valid error, sample) of the candidates of a random search, best first."""
        errors = ((last(rows, "valid_error"), sample) for sample, rows in self.trainings().items())
        return sorted((error, sample) for error, sample in errors if error is not None)

    def weights(self, cell: str) -> list[tuple[int, list[list[float]]]]:
        """(epoch, mixing weights [edges][primitives]) of the rows that have them, all of one shape."""
        return self._tables(f"weights_{cell}", lambda table: table)

    def edge_weights(self, cell: str) -> list[tuple[int, list[float]]]:
        """(epoch, weights [edges] of the edges of a node among each other) of the rows that have them."""
        return self._tables(f"edge_weights_{cell}", lambda table: [table])

    def _tables(self, key: str, rows: Callable[[Any], list[list[float]]]) -> list[tuple[int, Any]]:
        found = [(row["epoch"], row[key]) for row in self.rows if key in row]
        for epoch, table in found:
            try:
                sound = [len(edge) for edge in rows(table)] == [len(edge) for edge in rows(found[0][1])]
                sound = sound and all(math.isfinite(weight) for edge in rows(table) for weight in edge)
            except TypeError:
                sound = False
            if not sound:
                raise FastdartsError(
                    f"{self.folder / METRICS} is damaged: {key} of epoch {epoch} is not a table of numbers "
                    "shaped like the first; restore the file or start the run again"
                )
        return found


def read_records(folder: Path) -> Records:
    """The records of the run in `folder`, finished or not.

    Raises FastdartsError when it is not the folder of a run or when one of its files is damaged.
    """
    rows = read_metrics(folder)
    for number, row in enumerate(rows, start=1):
        if type(row.get("epoch")) is not int:
            raise FastdartsError(f"{folder / METRICS} is damaged: line {number} has no epoch; restore the file")
        if "genotype" in row:
            row["genotype"] = _architecture(row["genotype"], folder / METRICS).genotype
    config, environment = _table(folder / "config.toml"), _table(folder / "environment.json")
    result = _table(folder / "result.json")
    stored = _table(folder / "genotype.json") or result.get("genotype")
    parts = next((key for key in ("seed", "sample") if rows and key in rows[0]), None)
    if stored:
        space, genotype = _architecture(stored, folder)
        return Records(folder, rows, config, environment, result, genotype, parts, space)
    records = Records(
        folder, rows, config, environment, result, None, parts, find_notation(config.get("space", DARTS.name))
    )
    return dataclasses.replace(records, genotype=_best(records))


def points(rows: Iterable[Row], key: str) -> list[tuple[int, float]]:
    """(epoch, value) of the rows where `key` is a number."""
    return [(row["epoch"], row[key]) for row in rows if is_number(row.get(key))]


def last(rows: Iterable[Row], key: str) -> float | None:
    """The last of `points`, without its epoch."""
    values = [value for _, value in points(rows, key)]
    return values[-1] if values else None


def is_number(value: object) -> bool:
    """Whether a value from a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _best(records: Records) -> Any:
    """The genotype an unfinished run would end with now: that of its best candidate or of its last row."""
    rows = records.rows
    if records.parts == "sample" and (ranking := records.ranking()):
        rows = records.trainings()[ranking[0][1]]
    return next((row["genotype"] for row in reversed(rows) if "genotype" in row), None)


def _table(path: Path) -> Row:
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FastdartsError(f"{path} cannot be read ({error}): restore it or delete it") from None
    if not isinstance(found, dict):
        raise FastdartsError(f"{path} holds a {type(found).__name__}, not a table: restore it or delete it")
    return found


def _architecture(fields: Any, path: Path) -> Architecture:
    try:
        return architecture(fields)
    except FastdartsError as error:
        raise FastdartsError(f"{path} holds a damaged genotype: {error}") from None
