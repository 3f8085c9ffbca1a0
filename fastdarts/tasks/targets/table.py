"""Tables of images with targets: numbers, or labels of which an image may have several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, tensor

from fastdarts.errors import FastdartsError
from fastdarts.tasks.images.data import SIDE, ImageData, read_files
from fastdarts.tasks.images.folder import TABLES, hold_out, in_hash_order
from fastdarts.tasks.images.pictures import shown
from fastdarts.tasks.images.settings import DataConfig
from fastdarts.tasks.images.source import check_unused
from fastdarts.tasks.images.table import check_file, part_in, rows_of

LABELS, BETWEEN = "labels", "|"
"""The column of the names of labels, and what stands between them."""


class Listed(NamedTuple):
    """What a table lists: the names of the targets, and those of the images of each part."""

    names: tuple[str, ...]
    parts: dict[str, dict[str, tuple[float, ...]]]


def read_numbers(path: Path) -> Listed:
    """The table ``path``, of which every column but path and split is a target.

    Raises :class:`FastdartsError`, naming the line, for what is no finite number, for a missing file, and for a table
    without targets.

    >>> read_numbers(Path("photos/ages.csv"))  # doctest: +SKIP
    Listed(names=('age',), parts={'': {'photos/1.jpg': (34.0,), ...}})
    """
    return _read(path, _number, ("path",))


def read_labels(path: Path) -> Listed:
    """The table ``path``: a column labels holds names with | between them, or every column but path and split is a
    label that an image has (1) or not (0).

    Raises :class:`FastdartsError`, naming the line, for anything else.
    """
    by_name = LABELS in next((row for _, row in rows_of(path, "path")), {})
    if not by_name:
        return _read(path, _yes_or_no, ("path",))
    named: dict[str, dict[str, set[str]]] = {}
    lines: dict[str, int] = {}
    for number, row in rows_of(path, "path", LABELS):
        where = f"line {number} of {shown(path)}"
        file = check_file(where, path, row["path"], number, lines)
        own = [name.strip() for name in row[LABELS].split(BETWEEN)] if row[LABELS] else []
        if not all(own) or len({*own}) < len(own):
            raise FastdartsError(
                f"{where} has the labels {shown(row[LABELS])!r}: expected names with {BETWEEN} between them, each once"
            )
        named.setdefault(part_in(where, row), {})[file] = {*own}
    names = tuple(sorted({name for part in named.values() for own in part.values() for name in own}))
    _check_names(names, path)
    parts = {
        part: {file: tuple(float(name in own) for name in names) for file, own in files.items()}
        for part, files in named.items()
    }
    return Listed(names, parts)


def _read(path: Path, value_of: Callable[[str, str, str], float], needed: tuple[str, ...]) -> Listed:
    names: tuple[str, ...] = ()
    parts: dict[str, dict[str, tuple[float, ...]]] = {}
    lines: dict[str, int] = {}
    for number, row in rows_of(path, *needed):
        where = f"line {number} of {shown(path)}"
        file = check_file(where, path, row["path"], number, lines)
        names = tuple(name for name in row if name not in ("path", "split"))
        values = tuple(value_of(where, name, row[name]) for name in names)
        parts.setdefault(part_in(where, row), {})[file] = values
    _check_names(names, path)
    return Listed(names, parts)


def _check_names(names: Sequence[str], path: Path) -> None:
    if not names:
        raise FastdartsError(
            f"{shown(path)} lists no targets: expected lines of a path and of targets, in columns beside path and split"
        )


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 1e30:
        raise FastdartsError(f"{where} has {shown(text)!r} in column {shown(name)}: expected a finite number")
    return value


def _yes_or_no(where: str, name: str, text: str) -> float:
    if text not in ("0", "1"):
        raise FastdartsError(
            f"{where} has {shown(text)!r} in column {shown(name)}: expected 1 if the image has that label, else 0; or "
            f"a column {LABELS} of names with {BETWEEN} between them"
        )
    return float(text)


def load_targets(config: DataConfig, read: Callable[[Path], Listed], side: int = SIDE) -> ImageData:
    """The images of the table ``config.data`` with their targets, float32 [K], as ``read`` finds them.

    The column split says which are the test images; without it ``test_portion`` of all are drawn by ``split_seed``.
    Raises :class:`FastdartsError` if there is no such table, and for anything wrong with it.
    """
    path = config.data
    if config.dataset != "folder" or path is None or not path.name.lower().endswith(TABLES):
        raise FastdartsError(
            f"task {config.task} learns from a table of images and targets, and this is dataset {config.dataset} with "
            f"--data {path}: give --dataset folder --data FILE.csv"
        )
    names, parts = read(path)
    if len(parts) == 1 and "test" not in parts:
        [targets] = parts.values()
        if len(targets) < 3:
            raise FastdartsError(f"{shown(path)} lists {len(targets)} images: expected three or more")
        train, test = hold_out({"": sorted(targets)}, config.test_portion, path.parent, config.split_seed)
        train, test = train[""], test[""]
    else:
        check_unused(config.test_portion, config.split_seed, f"{shown(path)} has a test set")
        held = "test" if "test" in parts else "val"
        train = sorted(file for part in parts if part != held for file in parts[part])
        test = sorted(parts[held])
        targets = {file: values for part in parts.values() for file, values in part.items()}
    if len(train) < 2:
        raise FastdartsError(f"{shown(path)} lists {len(train)} training images: expected two or more")

    def samples(files: Sequence[str]) -> list[tuple[str, Tensor]]:
        return [(file, tensor(targets[file])) for file in files]

    # a search halves the training images as they come
    return read_files(path, samples(in_hash_order(train, path.parent)), samples(test), names, config.image_size, side)
