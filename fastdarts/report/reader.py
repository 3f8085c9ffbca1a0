"""Reading a run's folder back: what a search or an evaluation has written so far, checked."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypedDict

from fastdarts.errors import FastdartsError
from fastdarts.runs.stored import check, is_number, read_table, sound
from fastdarts.runs.writer import METRICS, read_metrics
from fastdarts.spaces import DARTS, Architecture, Cells, Space, architecture, find_space
from fastdarts.tasks.task import TASKS, Task, find_task

Row = dict[str, Any]
RESULT = "result.json"
_MOST_EDGES = 1000  # of a cell that can be drawn
_Epoch = Annotated[int, range(10**9)]


class _Rollback(TypedDict):
    epoch: _Epoch
    detected: _Epoch


class _Decided(TypedDict):
    epoch: _Epoch
    cell: str
    keeps: list[str | int]


_Row = Annotated[int, range(1000)]


class _Decision(_Decided, total=False):
    edge: _Row
    node: _Row
    without: Annotated[list[str | int], range(1, 1000)]  # with errors and losses: of a projection
    errors: list[float]
    losses: list[float]
    scores: dict[str, float]  # with prunes: of a greedy decision about an edge
    prunes: list[_Row]


class _Config(TypedDict, total=False):
    space: str
    task: str


class _Result(TypedDict, total=False):
    kind: str
    method: str
    rollbacks: list[_Rollback]
    decisions: list[_Decision]
    test_error: float | None
    test_error_std: float | None
    test_errors: list[float]
    test_perplexity: float
    valid_perplexity: float
    parameters: int
    macs: int


@dataclass(frozen=True)
class Records:
    """The files of one run; what it has not written yet is empty.

    rows: those of metrics.jsonl, their genotypes as of the space. All epochs are counted from 1, as people count;
        in the files they count from 0.
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
    space: Space = DARTS

    def cells(self, genotype: Any) -> Cells:
        """Operations and output of each kind of cell; nothing without a genotype."""
        return self.space.cells(genotype) if genotype else {}

    def derived(self) -> list[Row]:
        """The rows of a search whose genotype was derived from the weights of that epoch."""
        return [row for row in self.rows if "genotype" in row and not self.parts]

    def changes(self) -> list[tuple[int, Any]]:
        """(epoch, genotype) of the first derived genotype and of each that differs from the one before."""
        changes: list[tuple[int, Any]] = []
        for row in self.derived():
            if not changes or row["genotype"] != changes[-1][1]:
                changes.append((row["epoch"], row["genotype"]))
        return changes

    def ending(self) -> list[Row]:
        """The rows up to that of the result, which a search that went back to end there has in an epoch before the
        last."""
        events = self.result.get("rollbacks")
        if not events or "weight_decay" in events[-1]:  # none, or it went on from there with more L2
            return self.rows
        return [row for row in self.rows if row["epoch"] <= events[-1]["epoch"]]

    @property
    def task(self) -> Task:
        """What was learned, with the metric of the run; that of the space where the task's plug-in is not loaded."""
        named = self.config.get("task")
        return find_task(named if named in TASKS else self.space.task).of(self.config)

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

    def primitives(self, cell: str, table: list[list[float]]) -> list[list[str]]:
        """The names of the candidates of every edge in a table of mixing weights."""
        names = self.environment.get("primitives")
        names = names.get(cell) if isinstance(names, dict) else None
        known = isinstance(names, list) and all(isinstance(edge, list) for edge in names)
        if known and [len(edge) for edge in names] == [len(edge) for edge in table]:
            return [[str(name) for name in edge] for edge in names]
        return [[f"primitive {k}" for k in range(len(edge))] for edge in table]

    def number(self, key: str) -> float | None:
        """A setting that is a number, or else what environment.json or result.json says of it; None without one."""
        found = (self.config | self.environment | self.result).get(key)
        return found if is_number(found) else None

    def weights(self, cell: str) -> list[tuple[int, list[list[float]]]]:
        """(epoch, mixing weights [edges][primitives]) of the rows that have them, all of one shape."""
        return self._tables(f"weights_{cell}", lambda table: table)

    def edge_weights(self, cell: str) -> list[tuple[int, list[float]]]:
        """(epoch, weights [edges] of the edges of a node among each other) of the rows that have them."""
        return self._tables(f"edge_weights_{cell}", lambda table: [table])

    def _tables(self, key: str, rows: Callable[[Any], list[list[float]]]) -> list[tuple[int, Any]]:
        found = [(row["epoch"], row[key]) for row in self.rows if key in row]
        for number, (_, table) in enumerate(found, start=1):
            try:
                whole = [len(edge) for edge in rows(table)] == [len(edge) for edge in rows(found[0][1])]
                whole = whole and all(is_number(weight) for edge in rows(table) for weight in edge)
            except TypeError:
                whole = False
            if not whole:
                raise FastdartsError(
                    f"{self.folder / METRICS} is damaged: number {number} of its {key} is not a table of numbers "
                    "shaped like the first; restore the file or start the run again"
                )
        return found


def read_records(folder: Path) -> Records:
    """The records of the run in `folder`, finished or not.

    Raises FastdartsError when it is not the folder of a run or when one of its files is damaged.
    """
    rows = read_metrics(folder)
    tables = (read_table(folder / name) or {} for name in ("config.toml", "environment.json", RESULT, "genotype.json"))
    config, environment, result, genotype = tables
    check(config, _Config, folder / "config.toml")
    space = _check_rows(rows, folder / METRICS)
    stored, genotype = genotype or result.get("genotype"), None
    if stored:
        found, genotype = _architecture(stored, folder)
        if space not in (None, found):
            raise FastdartsError(
                f"{folder / METRICS} has genotypes of space {space.name}, but {folder} of {found.name}"
            )
        space = found
    parts = next((key for key in ("seed", "sample") if rows and key in rows[0]), None)
    space = space or _space_of(config, folder / "config.toml")
    records = Records(folder, rows, config, environment, result, genotype, parts, space)
    _check_order(records)
    _check_result(records)
    _count_from_one(records)
    return records if stored else dataclasses.replace(records, genotype=_best(records))


def _count_from_one(records: Records) -> None:
    for row in records.rows:
        row["epoch"] += 1
    for event in records.result.get("rollbacks", ()):
        event["epoch"] += 1
        event["detected"] += 1
    for event in records.result.get("decisions", ()):
        event["epoch"] += 1


def _space_of(config: Row, path: Path) -> Space:
    try:
        return find_space(config.get("space", DARTS.name))
    except FastdartsError as error:
        raise FastdartsError(f"{path}: {error}") from None


def _check_rows(rows: list[Row], path: Path) -> Space | None:
    """The space of the rows' genotypes, which take the place of their fields."""
    space = None
    for number, row in enumerate(rows, start=1):
        if type(row.get("epoch")) is not int:
            raise FastdartsError(f"{path} is damaged: line {number} has no epoch; restore the file")
        sound(row, f"line {number} of {path}")
        check(row["epoch"], _Epoch, path, name=f"epoch of line {number}")
        if "genotype" in row:
            found = _architecture(row["genotype"], path)
            if found.space is not (space := space or found.space):
                raise FastdartsError(f"{path} is damaged: line {number} has a genotype of another space; restore it")
            row["genotype"] = found.genotype
    return space


def _check_order(records: Records) -> None:
    for rows in records.trainings().values():
        for before, after in pairwise(row["epoch"] for row in rows):
            if after <= before:
                path = records.folder / METRICS
                raise FastdartsError(f"{path} is damaged: epoch {after} follows epoch {before}; restore the file")


def _check_result(records: Records) -> None:
    path, kinds = records.folder / RESULT, records.space.kinds
    check(records.result, _Result, path)
    for event in records.result.get("rollbacks", ()):
        if not records.rows or event["epoch"] < records.rows[0]["epoch"]:
            raise FastdartsError(f"{path} went back to epoch {event['epoch']}, of which {METRICS} has no row")
    for number, event in enumerate(records.result.get("decisions", ())):
        counts = {len(event.get(key, ())) for key in ("without", "errors", "losses")}
        measured = counts != {0} and len(counts) == 1
        scored = event.keys() >= {"scores", "prunes", "edge"}
        if measured == scored or ("edge" in event) == ("node" in event) or event["cell"] not in kinds:
            raise FastdartsError(
                f"{path} is damaged: decisions[{number}] does not say of one edge or node of a cell "
                f"({', '.join(kinds)}) an error and a loss without each of its candidates, or the scores of an edge; "
                "restore it or delete it"
            )
        names = event["without"] + event["keeps"] if "node" in event else ()
        for name in names:
            check(name, Annotated[int, range(1000)], path, name=f"a source in decisions[{number}]")


def points(rows: Iterable[Row], key: str) -> list[tuple[int, float]]:
    """(epoch, value) of the rows where `key` is a number."""
    return [(row["epoch"], row[key]) for row in rows if is_number(row.get(key))]


def last(rows: Iterable[Row], key: str) -> float | None:
    """The last of `points`, without its epoch."""
    values = [value for _, value in points(rows, key)]
    return values[-1] if values else None


def _best(records: Records) -> Any:
    """The genotype an unfinished run would end with now: that of its best candidate or of its last row."""
    rows = records.rows
    if records.parts == "sample" and (ranking := records.ranking()):
        rows = records.trainings()[ranking[0][1]]
    return next((row["genotype"] for row in reversed(rows) if "genotype" in row), None)


def _architecture(fields: Any, path: Path) -> Architecture:
    try:
        found = architecture(fields)
    except FastdartsError as error:
        raise FastdartsError(f"{path} holds a damaged genotype: {error}") from None
    if (edges := max(len(edges) for edges, _ in found.space.cells(found.genotype).values())) > _MOST_EDGES:
        raise FastdartsError(f"{path} holds a genotype of {edges} edges a cell: expected at most {_MOST_EDGES}")
    return found
