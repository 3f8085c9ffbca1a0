"""Tables of images: a CSV or TSV file that lists paths and labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastdarts.errors import FastdartsError
from fastdarts.tasks.images.folder import Classes, part_named
from fastdarts.tasks.images.pictures import shown

COLUMNS = "path and label (and, if you have a test set, split)"


def read_table(path: Path) -> dict[str, Classes]:
    """The images that the table ``path`` lists: of each part (train, test, val) the files of each class, sorted.

    The first line names the columns: path, label and, if there are parts, split. Other columns are passed over.
    Columns are separated by tabs in a ``.tsv`` file, else by commas, or semicolons if the first line has these. Paths
    are relative to the folder of the table. Without the column split all images are of part "".

    Raises :class:`FastdartsError` with the line for a missing file, an empty label, an unknown part or an image that
    is listed twice, and for a table that cannot be read or has fewer than two classes.

    >>> read_table(Path("photos/labels.csv"))  # doctest: +SKIP
    {'train': {'cat': ['photos/1.jpg', ...], 'dog': [...]}, 'test': {...}}
    """
    found: dict[str, dict[str, list[str]]] = {}
    lines: dict[str, int] = {}
    for number, row in rows_of(path, "path", "label"):
        where, label = f"line {number} of {shown(path)}", row["label"]
        if not row["path"] or not label:
            raise FastdartsError(f"{where} has no {'label' if row['path'] else 'path'}: fill it in, or remove the line")
        file = check_file(where, path, row["path"], number, lines)
        part = part_in(where, row)
        found.setdefault(part, {}).setdefault(label, []).append(file)
    classes = sorted({label for part in found.values() for label in part})
    if len(classes) < 2:
        got = f"images of one class, {classes[0]!r}" if classes else "no images"
        raise FastdartsError(f"{shown(path)} lists {got}: telling apart takes at least two classes")
    return {part: {label: sorted(files[label]) for label in classes if label in files} for part, files in found.items()}


def check_file(where: str, path: Path, text: str, number: int, lines: dict[str, int]) -> str:
    """The file that line ``number`` of the table ``path`` names by ``text``; ``lines`` holds those of the files so far.

    Raises :class:`FastdartsError` if there is none, or if another line names it too.
    """
    file = os.path.join(path.parent, text)
    if not os.path.isfile(file):
        raise FastdartsError(
            f"{where} names {shown(text)}, which is no file in {shown(path.parent)}: paths are relative to "
            "the folder of the table, so mend it or remove the line"
        )
    if (before := lines.setdefault(os.path.normpath(file), number)) != number:
        raise FastdartsError(f"{where} lists {shown(text)}, as line {before} does: remove one of them")
    return file


def part_in(where: str, row: Mapping[str, str]) -> str:
    """The part of which a line is: train, test, val, or "" without a column split."""
    part = part_named(row["split"]) if "split" in row else ""
    if part is None:
        raise FastdartsError(f"{where} has the split {shown(row['split'])!r}: expected train, val or test")
    return part


def rows_of(path: Path, *needed: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a table by their numbers, as what stands in each column.

    Raises :class:`FastdartsError` for a table that cannot be read or lacks one of the columns ``needed``.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            semicolons = first.count(";") > first.count(",")
            reader = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ";" if semicolons else ",")
            names = [name.strip().lower() for name in next(reader, [])]
            if not {*needed} <= {*names}:
                got = ", ".join(map(shown, names[:5])) or "nothing"
                expected = COLUMNS if "label" in needed else f"{' and '.join(needed)} among them"
                raise FastdartsError(f"the first line of {shown(path)} names the columns {got}: expected {expected}")
            if twice := [name for name in names if names.count(name) > 1]:
                raise FastdartsError(f"the first line of {shown(path)} names {shown(twice[0])!r} twice: rename one")
            for row in reader:
                if not any(map(str.strip, row)):
                    continue
                if len(row) != len(names):
                    raise FastdartsError(
                        f"line {reader.line_num} of {shown(path)} has {len(row)} columns, and the first line "
                        f"{len(names)}: put quotes around text that holds the separator"
                    )
                yield reader.line_num, dict(zip(names, map(str.strip, row), strict=True))
    except OSError as error:
        raise FastdartsError(f"cannot read the table {shown(path)} ({error.strerror}): see to the file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FastdartsError(f"{shown(path)} is no table in UTF-8 ({error}): save it as CSV in UTF-8") from error
