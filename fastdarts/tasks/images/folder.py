"""Folders of image files: how they are laid out, which files are images, and which of these are the test set."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from fastdarts.errors import FastdartsError
from fastdarts.notices import notice
from fastdarts.tasks.images.pictures import ENDINGS, shown

LAYOUT = "one folder of images per class, or train/ and test/ (or val/) that hold these"
TABLES = (".csv", ".tsv")

Sample = tuple[str, Any]  # a file and its label or targets
Classes = dict[str, list[str]]  # the files of each class, both in sorted order

_PART = re.compile("(?:(train|test)(?:ing)?|(val)(?:id|idation)?)(?:[ _-]?(?:set|data|images))?")
# What describes images is passed over without a word.
_NOTES = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".yaml", ".yml", ".log")
# What systems put beside files, apart from names that begin with a dot.
_SYSTEM = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found",
    "@eadir",
}  # fmt: skip


class Layout(NamedTuple):
    """Which folders hold the class folders of the training images, and which those of the test images, if any does."""

    train: list[Path]
    test: Path | None


class Files(Dataset):
    """Image files and their labels; ``loader`` makes a tensor of a file."""

    def __init__(self, samples: Sequence[Sample], loader: Callable[[str], Any]) -> None:
        self.samples, self.loader = samples, loader

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        file, label = self.samples[index]
        return self.loader(file), label


def recognise(path: Path) -> Layout:
    """The layout of the image folder ``path``, by the names and the content of the folders in it.

    Folders whose names mean train, test or val are parts of the set. With other folders beside them they are so only
    if one of them holds folders and no images of its own, and else classes like the others. Raises
    :class:`FastdartsError` for what is neither.
    """
    here = _folders(path)
    parts = _parts(here, path)
    others = sorted(set(here) - set(parts.values()))
    if not parts or (others and not any(_holds_folders_only(path / name) for name in parts.values())):
        if not here:
            raise FastdartsError(f"{shown(path)} is no image folder: {_without_folders(path)}")
        return Layout([path], None)
    if "train" not in parts or len(parts) == 1:
        found = ", ".join(f"{shown(name)}/" for name in parts.values())
        hint = f"; if its classes lie in {found} give {shown(path / parts['train'])}" if "train" in parts else ""
        raise FastdartsError(
            f"{shown(path)} is no image folder: of train/ and test/ (or val/) it holds only {found}, but should hold "
            f"{LAYOUT}{hint}"
        )
    if others:
        notice(
            f"{shown(path)} holds {', '.join(map(shown, others[:3]))}{' ...' if len(others) > 3 else ''} beside "
            f"{', '.join(parts.values())}, and that is left out",
            "move it elsewhere, or its images into the parts and classes that they belong to",
        )
    if len(parts) == 3:
        notice(
            f"{shown(path)} holds {', '.join(parts.values())}, and the images of {parts['val']} join those of "
            f"{parts['train']} for training",
            f"move {parts['val']} elsewhere to leave them out, as a search halves the training images itself",
        )
        return Layout([path / parts["train"], path / parts["val"]], path / parts["test"])
    return Layout([path / parts["train"]], path / (parts.get("test") or parts["val"]))


def _without_folders(path: Path) -> str:
    """What to do about ``path``, in which there are no folders."""
    names = [entry.name for entry in _listed(path)]
    tables = [name for name in names if name.lower().endswith(TABLES)]
    if tables:
        return f"it holds no folders, but {shown(tables[0])}; if that lists the images, give {shown(path / tables[0])}"
    images = sum(name.lower().endswith(ENDINGS) for name in names)
    if images:
        return (
            f"it holds {images} images and no folders, so put those of each class into a folder of its own, or give a "
            "CSV file with the columns path and label"
        )
    return f"it holds no folders, but should hold {LAYOUT}"


def _holds_folders_only(path: Path) -> bool:
    entries = _listed(path)
    images = (entry for entry in entries if entry.name.lower().endswith(ENDINGS) and not entry.is_dir())
    return any(entry.is_dir() for entry in entries) and not any(images)


def _parts(names: Sequence[str], path: Path) -> dict[str, str]:
    """Which of the folders ``names`` mean train, test and val."""
    found: dict[str, list[str]] = {}
    for name in names:
        if (part := part_named(name)) is not None:
            found.setdefault(part, []).append(name)
    result = {}
    for part in ("train", "test", "val"):
        named = found.get(part, [])
        if len(named) > 1 and part not in named:
            raise FastdartsError(
                f"{shown(path)} holds {' and '.join(map(shown, named))}, which both mean {part}: rename the right one "
                f"to {part}"
            )
        if named:
            result[part] = part if part in named else named[0]
    return result


def part_named(name: str) -> str | None:
    """Which of train, test and val ``name`` means; None if it is another name."""
    match = _PART.fullmatch(name.lower())
    return (match[1] or match[2]) if match else None


def test_part(path: Path) -> str | None:
    """The name of the folder in ``path`` that means test or, without one, val; None if there is neither."""
    with suppress(FastdartsError):  # of a folder that nobody has named, what is wrong with it says nothing
        parts = _parts(_folders(path), path)
        return parts.get("test") or parts.get("val")
    return None


def class_folders(path: Path) -> Classes:
    """The image files in ``path``/<class>/, at any depth.

    Hidden files and folders are passed over, as are those of the system and notes. Other files that are no images are
    said to be left out. Raises :class:`FastdartsError` for fewer than two classes, for a class without images, and for
    links that lead nowhere.
    """
    names = _folders(path)
    if not names:
        raise FastdartsError(f"{shown(path)} holds no class folders: put the images of each class into one")
    if len(names) < 2:
        inside = "" if len(_folders(path / names[0])) < 2 else f"; if they lie in it, give {shown(path / names[0])}"
        raise FastdartsError(
            f"{shown(path)} holds one class folder, {names[0]!r}: at least two classes are needed{inside}"
        )
    left_out = [entry.path for entry in _listed(path) if not entry.is_dir()]
    classes = {}
    for name in names:
        found: list[tuple[str, str]] = []
        _walk(os.path.join(path, name), found, left_out)
        if not found:
            raise FastdartsError(
                f"class folder {shown(path / name)} holds no image file ({' '.join(ENDINGS)}): add some or remove it"
            )
        # Folder by folder, as torchvision orders them.
        classes[name] = [os.path.join(folder, file) for folder, file in sorted(found)]
    if len(deep := [name for name in names if _holds_folders_only(path / name)]) == len(names):
        inside = sorted({entry.name for name in deep for entry in _listed(path / name) if entry.is_dir()})
        notice(
            f"the class folders of {shown(path)} hold no images themselves, and those of their folders are taken "
            f"together ({', '.join(map(shown, inside[:3]))}{' ...' if len(inside) > 3 else ''})",
            f"give the folder that holds the classes, if these are not {', '.join(map(shown, names[:3]))}",
        )
    if left_out := [file for file in left_out if not file.lower().endswith(_NOTES)]:
        notice(
            f"files in {shown(path)} are left out, as they are in no class folder or do not end in {' '.join(ENDINGS)} "
            f"({len(left_out)}, such as {shown(left_out[0])})",
            "convert them if they are images, and put them into their class, or else move them elsewhere",
        )
    return classes


def images_in(path: Path) -> list[str]:
    """The image files in a folder that holds no folders, sorted; none for one that does."""
    entries = _listed(path)
    if any(entry.is_dir() for entry in entries):
        return []
    return [entry.path for entry in entries if entry.name.lower().endswith(ENDINGS) and entry.is_file()]


def hold_out(classes: Classes, portion: float, path: Path, seed: int = 0) -> tuple[Classes, Classes]:
    """Training and test images of every class: ``portion`` of its files, rounded, are for the test, at least one.

    Hashes of ``seed`` and their names below ``path`` decide which ones. So a file that is added moves one other at
    most, and a smaller portion is a part of a larger one. Raises :class:`FastdartsError` for a class of one image.
    """
    train, test = {}, {}
    for name, files in classes.items():
        if len(files) < 2:
            raise FastdartsError(
                f"class {name!r} has one image, {shown(files[0])}: the test set is a share of every class, so add "
                "images, or make a test set by train/ and test/"
            )
        drawn = sorted(files, key=lambda file: _hash(file.removeprefix(str(path)).strip(os.sep), seed))
        held = set(drawn[: min(max(1, round(portion * len(files))), len(files) - 1)])
        train[name] = [file for file in files if file not in held]
        test[name] = [file for file in files if file in held]
    return train, test


def samples(classes: Classes) -> list[Sample]:
    """The files of all ``classes``, labelled by the numbers of these."""
    return [(file, label) for label, files in enumerate(classes.values()) for file in files]


def in_hash_order(files: Sequence[str], path: Path) -> list[str]:
    """``files`` in an order that has nothing to do with what their names mean."""
    return sorted(files, key=lambda file: _hash(file.removeprefix(str(path)).strip(os.sep), 0))


def _hash(name: str, seed: int) -> bytes:
    name = unicodedata.normalize("NFC", name.replace(os.sep, "/"))  # as systems differ
    name = f"{seed}/{name}" if seed else name  # runs from before there were seeds keep their test images
    return hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest()


def _folders(path: Path) -> list[str]:
    return [entry.name for entry in _listed(path) if entry.is_dir()]


def _listed(path: str | Path) -> list[os.DirEntry[str]]:
    """What lies in the folder ``path`` and is neither hidden nor the system's, sorted by name.

    Raises :class:`FastdartsError` for a folder that cannot be listed, and for a link that leads nowhere.
    """
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        raise FastdartsError(f"cannot list the folder {shown(path)} ({error.strerror}): see to its rights") from error
    entries = [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _SYSTEM]
    for entry in entries:
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise FastdartsError(f"cannot read {shown(entry.path)}, a link that leads nowhere: mend it or remove it")
    return entries


def _walk(folder: str, found: list[tuple[str, str]], left_out: list[str], above: tuple[Any, ...] = ()) -> None:
    """Add the images below ``folder`` to ``found``, and other files to ``left_out``."""
    status = os.stat(folder)
    here = status.st_dev, status.st_ino
    if here in above:
        raise FastdartsError(f"the link {shown(folder)} leads back to a folder that it lies in: remove it")
    for entry in _listed(folder):
        if entry.is_dir():
            _walk(entry.path, found, left_out, (*above, here))
        elif not entry.name.lower().endswith(ENDINGS):
            left_out.append(entry.path)
        elif not entry.is_file():
            raise FastdartsError(f"cannot read the image {shown(entry.path)} (it is no file): replace it or remove it")
        else:
            found.append((folder, entry.name))
