"""Which files of a folder belong together: the two views and their disparity, or an image and its label map."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fastdarts.errors import FastdartsError
from fastdarts.notices import notice
from fastdarts.tasks.images.folder import hold_out, in_hash_order, part_named
from fastdarts.tasks.images.pictures import ENDINGS, shown
from fastdarts.tasks.images.settings import DataConfig
from fastdarts.tasks.images.source import check_unused


class Layout(NamedTuple):
    """How a data set is stored.

    name: what it is called.
    folders: names of folders that the path of an image holds, from the root on.
    others: for each file that belongs to it, the names of folders that take the place of these.
    endings: those of the last file.
    ends: what the names of images with a truth end in, before the ending of the file.
    """

    name: str
    folders: tuple[str, ...]
    others: tuple[Mapping[str, str], ...]
    endings: Sequence[str]
    ends: str = ""


class Example(NamedTuple):
    """An image and the files that belong to it, in the order of its layout."""

    image: str
    others: tuple[str, ...]


def examples_of(root: Path | None, layouts: Sequence[Layout], wanted: str) -> dict[str, list[Example]]:
    """The examples below ``root`` by part: train, test, val, or "" where nothing says so, by the first layout that has
    any.

    A part of which no image has the last file that belongs to it is left out, which a Notice says: the truth of the
    test of a benchmark is not published. Raises :class:`FastdartsError`, naming the file, for an image without its
    others, and for a folder without images. ``wanted`` says what is expected.
    """
    if root is None or not root.is_dir():
        found = "no folder was named" if root is None else f"{shown(root)} is no folder"
        raise FastdartsError(f"dataset folder needs a path, and {found}: give --data and a folder that holds {wanted}")
    files = _files(root)
    for layout in layouts:
        images = [path for path in files if _is_image(path, layout)]
        if images:
            return _complete(root, layout, images, files)
    raise FastdartsError(f"{shown(root)} holds no images that are known: expected {wanted}")


def _files(root: Path) -> dict[str, str]:
    """All files below ``root``: their paths without an ending, from the root on, and with it."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
            if not name.startswith("."):
                found.setdefault(path, path)
    return found


def _is_image(path: str, layout: Layout) -> bool:
    *folders, name = path.split("/")
    known = name.lower().endswith(ENDINGS) and os.path.splitext(name)[0].endswith(layout.ends)
    return known and all(folder in folders for folder in layout.folders)


def _complete(root: Path, layout: Layout, images: Sequence[str], files: Mapping[str, str]) -> dict[str, list[Example]]:
    stems: dict[str, list[str]] = {}
    for path in files:
        stems.setdefault(os.path.splitext(path)[0], []).append(path)
    parts: dict[str, list[tuple[str, list[str | None]]]] = {}
    for image in images:
        folders = image.split("/")[:-1]
        part = next((part for folder in folders if (part := part_named(folder)) is not None), "")
        parts.setdefault(part, []).append((image, [_other(image, other, layout, stems) for other in layout.others]))
    found = {}
    for part, rows in parts.items():
        if len(parts) > 1 and all(others[-1] is None for _, others in rows):
            notice(
                f"{shown(root)}: the {len(rows)} images of {part or 'no part'} have no truth and are left out",
                "add their truth, or remove them",
            )
            continue
        for image, others in rows:
            missing = [number for number, other in enumerate(others) if other is None]
            if missing:
                folders = layout.others[missing[0]]
                named = "/".join(folders.get(name, name) for name in image.split("/"))
                raise FastdartsError(
                    f"{shown(root / image)} has no {shown(os.path.splitext(named)[0])}: expected that file beside each "
                    f"image, as {layout.name} has it; add it or remove the image"
                )
        found[part] = [
            Example(str(root / image), tuple(str(root / other) for other in others if other)) for image, others in rows
        ]
    return found


def _other(image: str, folders: Mapping[str, str], layout: Layout, stems: Mapping[str, list[str]]) -> str | None:
    """The file that belongs to ``image`` in other folders; None if there is none."""
    *parts, name = image.split("/")
    stem = os.path.splitext("/".join([*(folders.get(part, part) for part in parts), name]))[0]
    endings = layout.endings if folders is layout.others[-1] else ENDINGS
    return next((path for path in stems.get(stem, ()) if path.lower().endswith(tuple(endings))), None)


def training_and_test(
    parts: Mapping[str, Sequence[Example]], root: Path, config: DataConfig
) -> tuple[list[Example], list[Example]]:
    """Examples that are learned, in an order that says nothing, and those of the test: those that are stored as such,
    or else the share ``test_portion``.

    Raises :class:`FastdartsError` for fewer than two of the first or none of the other.
    """
    by_file = {example.image: example for part in parts.values() for example in part}
    held = next((name for name in ("test", "val") if name in parts and len(parts) > 1), None)
    if held is None:
        if len(by_file) < 3:
            raise FastdartsError(f"{shown(root)} has {len(by_file)} images with their truth: expected three or more")
        train, test = hold_out({"": sorted(by_file)}, config.test_portion, root, config.split_seed)
        train, test = train[""], test[""]
    else:
        check_unused(config.test_portion, config.split_seed, f"{shown(root)} has a test set")
        train = [example.image for part in parts for example in parts[part] if part != held]
        test = [example.image for example in parts[held]]
    if len(train) < 2:
        raise FastdartsError(f"{shown(root)} has {len(train)} training images: expected two or more")
    return [by_file[name] for name in in_hash_order(train, root)], [by_file[name] for name in sorted(test)]
