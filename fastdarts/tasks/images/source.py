"""Which images a path means: a folder or a table, divided into training and test images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from fastdarts.errors import FastdartsError
from fastdarts.notices import notice
from fastdarts.tasks.images import folder
from fastdarts.tasks.images.folder import Classes
from fastdarts.tasks.images.pictures import ENDINGS, shown
from fastdarts.tasks.images.settings import DataConfig
from fastdarts.tasks.images.table import COLUMNS, read_table

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar", ".gz")


def training_and_test(path: Path | None, portion: float, seed: int) -> tuple[Classes, Classes]:
    """The training and the test images of every class that ``path`` means, an image folder or a table.

    Where it has no test images, ``portion`` of every class is held out by ``seed``. Raises :class:`FastdartsError`,
    saying what to type, for a path that means no images.
    """
    path = _existing(path)
    if not path.is_dir():
        parts = read_table(path)
        if "" in parts:
            return folder.hold_out(parts[""], portion, path.parent, seed)
        return _parts_of_table(parts, path, portion, seed)
    layout = folder.recognise(path)
    if layout.test is None:
        [root] = layout.train
        _say_neighbours(root)
        return folder.hold_out(folder.class_folders(root), portion, root, seed)
    check_unused(portion, seed, f"{shown(path)} has a test set, {layout.test.name}/")
    roots = [*layout.train, layout.test]
    *trains, test = map(folder.class_folders, roots)
    for root, part in zip(roots, [*trains, test], strict=True):
        _check_alike(trains[0], part, shown(roots[0]), shown(root), "give both the same class folders")
    return _joined(trains), test


def _parts_of_table(parts: dict[str, Classes], path: Path, portion: float, seed: int) -> tuple[Classes, Classes]:
    """The same of a table with a column split."""
    if "train" not in parts:
        raise FastdartsError(
            f"{shown(path)} has the split {' and '.join(parts)} and no training images: expected train, and test or val"
        )
    if len(parts) == 1:
        return folder.hold_out(parts["train"], portion, path.parent, seed)
    test = parts.get("test") or parts["val"]
    trains = [parts["train"]]
    if len(parts) == 3:
        trains.append(parts["val"])
        notice(
            f"{shown(path)} lists train, test and val, and the images of val join those of train for training",
            "remove the lines of val to leave them out, as a search halves the training images itself",
        )
    check_unused(portion, seed, f"{shown(path)} has a test set")
    train = _joined(trains)
    _check_alike(train, test, "the training", f"the test images of {shown(path)}", "list both for every class")
    return train, test


def _joined(parts: Iterable[Classes]) -> Classes:
    """The files of all ``parts`` by class."""
    parts = list(parts)
    names = sorted({name for part in parts for name in part})
    return {name: [file for part in parts for file in part.get(name, [])] for name in names}


def _check_alike(one: Classes, other: Classes, here: str, there: str, remedy: str) -> None:
    if alone := sorted(set(one) ^ set(other)):
        raise FastdartsError(f"class {alone[0]!r} is in only one of {here} and {there}: {remedy}")


def check_unused(portion: float, seed: int, why: str) -> None:
    """Raise :class:`FastdartsError` if the settings of a test set that is held out are given where there is one."""
    for name, value in (("test_portion", portion), ("split_seed", seed)):
        if value != getattr(DataConfig, name):
            raise FastdartsError(f"--{name.replace('_', '-')} is {value} but {why}: leave it out")


def _say_neighbours(path: Path) -> None:
    """Give a Notice if ``path`` is the training part of a folder whose test part is not used."""
    above = path.resolve().parent
    if folder.part_named(path.resolve().name) == "train" and (test := folder.test_part(above)):
        notice(
            f"{shown(path)} lies beside {test}/, whose images are not used, and a share of its own is the test set",
            f"give {shown(path.parent if path.name else above)} to test on {test}/",
        )


def _existing(path: Path | None) -> Path:
    if path is None:
        raise FastdartsError(
            f"dataset folder needs a path: type --data and a folder that holds {folder.LAYOUT}, or a CSV file"
        )
    name = shown(path)
    if os.path.isdir(path):  # unlike Path.is_dir, says no of what must not be looked at
        return path
    lower = path.name.lower()
    if not os.path.exists(path):
        raise FastdartsError(f"there is no folder {name} to read images from: {_similar(path)}")
    if lower.endswith(_ARCHIVES):
        bare = next(path.name[: -len(end)] for end in sorted(_ARCHIVES, key=len, reverse=True) if lower.endswith(end))
        raise FastdartsError(
            f"{name} is an archive: unpack it into a folder, and type --data {shown(path.with_name(bare))}"
        )
    if lower.endswith(ENDINGS):
        raise FastdartsError(f"{name} is one image: give the folder that holds {folder.LAYOUT}")
    if not lower.endswith(folder.TABLES):
        raise FastdartsError(f"{name} is no folder and no CSV or TSV file: give a folder, or a table of {COLUMNS}")
    return path


def _similar(path: Path) -> str:
    """What to do about a path that is not there."""
    above = path.parent
    try:
        names = os.listdir(above)
    except OSError:
        return f"there is no {shown(above)} either, so look at the path"
    near = get_close_matches(path.name, names, n=1)
    if near:
        return f"did you mean {shown(above / near[0])}"
    return f"give a folder that holds {folder.LAYOUT}"
