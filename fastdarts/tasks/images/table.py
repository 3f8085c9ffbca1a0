"""Tables of images: a CSV or TSV file that lists paths and labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
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
    for number, row in _rows(path):
        where = f"line {number} of {shown(path)}"
        file, label = os.path.join(path.parent, row["path"]), row["label"]
        if not row["path"] or not label:
            raise FastdartsError(f"{where} has no {'label' if row['path'] else 'path'}: fill it in, or remove the line")
        if not os.path.isfile(file):
            raise FastdartsError(
                f"{where} names {shown(row['path'])}, which is no file in {shown(path.parent)}: paths are relative to "
                "the folder of the table, so mend it or remove the line"
            )
        if (before := lines.setdefault(os.path.normpath(file), number)) != number:
            raise FastdartsError(f"{where} lists {shown(row['path'])}, as line {before} does: remove one of them")
        part = part_named(row["split"]) if "split" in row else ""
        if part is None:
            raise FastdartsError(f"{where} has the split {shown(row['split'])!r}: expected train, val or test")
        found.setdefault(part, {}).setdefault(label, []).append(file)
    classes = sorted({label for part in found.values() for label in part})
    if len(classes) < 2:
        got = f"images of one class, {classes[0]!r}" if classes else "no images"
        raise FastdartsError(f"{shown(path)} lists {got}: telling apart takes at least two classes")
    return {part: {label: sorted(files[label]) for label in classes if label in files} for part, files in found.items()}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a table by their numbers, as what stands in the columns that matter."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            semicolons = first.count(";") > first.count(",")
            reader = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ";" if semicolons else ",")
            names = [name.strip().lower() for name in next(reader, [])]
            if not {"path", "label"} <= {*names}:
                got = ", ".join(map(shown, names[:5])) or "nothing"
                raise FastdartsError(f"the first line of {shown(path)} names the columns {got}: expected {COLUMNS}")
            for row in reader:
                if not any(map(str.strip, row)):
                    continue
                if len(row) != len(names):
                    raise FastdartsError(
                        f"line {reader.line_num} of {shown(path)} has {len(row)} columns, and the first line "
                        f"{len(names)}: put quotes around text that holds the separator"
                    )
                cells = dict(zip(names, map(str.strip, row), strict=True))
                yield reader.line_num, {name: cells[name] for name in ("path", "label", "split") if name in cells}
    except OSError as error:
        raise FastdartsError(f"cannot read the table {shown(path)} ({error.strerror}): see to the file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FastdartsError(f"{shown(path)} is no table in UTF-8 ({error}): save it as CSV in UTF-8") from error
