"""What a trained network takes the test images for: the file that an evaluation leaves of each seed, and its section in
the report."""

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from fastdarts.errors import FastdartsError
from fastdarts.report.charts import number
from fastdarts.report.colours import BLUE
from fastdarts.report.markup import EMPTY, Html, element, joined
from fastdarts.report.page import help_mark, sortable_table, table_row
from fastdarts.runs.stored import check, read_table

MOST_CLASSES = 100
"""Of which there are a confusion matrix and errors class by class."""
WORST = 24
"""Images of the highest loss that are kept, and shown."""
_IN_NUMBERS = 20  # classes of a matrix in numbers; one of more is a picture
_BYTES = 30_000  # of a picture, in letters of base64
_PREFIX = "tested_seed_"

_Index = Annotated[int, range(10**9)]


class Worst(TypedDict):
    """An image: its place in the test set, its class and what it was taken for, how surely, and itself as a PNG."""

    index: _Index
    true: str
    predicted: str
    probability: float
    loss: float
    picture: str


class Tested(TypedDict, total=False):
    """What one network takes the test images for.

    counts: images by class (rows) and by what they were taken for (columns), of at most ``MOST_CLASSES`` classes.
    """

    class_count: Annotated[int, range(1, 10**9)]
    images: Annotated[int, range(1, 10**9)]
    classes: Annotated[list[str], range(MOST_CLASSES + 1)]
    counts: Annotated[list[Annotated[list[_Index], range(MOST_CLASSES + 1)]], range(MOST_CLASSES + 1)]
    worst: Annotated[list[Worst], range(10 * WORST)]


def tested_file(run: Path, seed: int) -> Path:
    """Where the evaluation in ``run`` leaves what the network of ``seed`` takes the test images for."""
    return run / f"{_PREFIX}{seed}.json"


def read_tested(run: Path) -> list[Tested]:
    """What the networks of a run take the test images for, one after another.

    Raises :class:`FastdartsError` when one of the files is damaged.
    """
    found = []
    for path in sorted(run.glob(f"{_PREFIX}*.json"), key=lambda path: (len(path.name), path.name)):
        table = read_table(path) or {}
        check(table, Tested, path)
        _check(table, path)
        found.append(table)
    return found


def _check(table: dict[str, Any], path: Path) -> None:
    classes, counts = table.get("classes", []), table.get("counts", [])
    if missing := {"class_count", "images", "worst"} - table.keys():
        raise FastdartsError(f"{path} is damaged (it has no {sorted(missing)[0]}): restore it or delete it")
    if any(len(row) != len(classes) for row in counts) or len(counts) != len(classes):
        raise FastdartsError(f"{path} is damaged (counts is not a table by class and class): restore it or delete it")
    for place, image in enumerate(table["worst"]):
        try:
            data = base64.b64decode(image["picture"], validate=True)
        except (ValueError, binascii.Error):
            data = b""
        if not data.startswith(b"\x89PNG") or len(image["picture"]) > _BYTES:
            raise FastdartsError(
                f"{path} is damaged (worst[{place}].picture is no small PNG in base64): restore it or delete it"
            )


def tested_section(found: Sequence[Tested]) -> Html:
    """Confusion matrix, errors class by class and the worst images, of all seeds together."""
    if not found:
        return EMPTY
    return joined((*_matrix(found), *_worst(found)))


def _matrix(found: Sequence[Tested]) -> Iterator[Html]:
    classes = found[0].get("classes", [])
    alike = [table for table in found if table.get("classes", []) == classes]
    if not classes:
        yield element(
            "p",
            f"The set has {found[0]['class_count']} classes. Beyond {MOST_CLASSES}, no confusion matrix and no errors "
            "class by class are kept.",
        )
        return
    tables = [table["counts"] for table in alike]
    counts = [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]
    about = "Rows are the true classes, columns what the images were taken for. On the diagonal they are right."
    about += f" Counts of {len(alike)} seeds together." if len(alike) > 1 else ""
    yield element("h3", "Confusion matrix", help_mark("Confusion matrix", about))
    yield element("p", about)
    yield element("div", (_numbers if len(classes) <= _IN_NUMBERS else _picture)(classes, counts), class_="wide")
    lines = []
    for name, row, k in zip(classes, counts, range(len(classes)), strict=True):
        images, wrong = sum(row), sum(row) - row[k]
        taken = max(((count, classes[j]) for j, count in enumerate(row) if j != k and count), default=(0, ""))
        error = f"{100 * wrong / images:.2f}" if images else ""
        lines.append((name, images // len(alike), error, f"{taken[1]} ({taken[0]} times)" if taken[0] else ""))
    lines.sort(key=lambda line: -float(line[2] or 0))
    yield element("h3", "Errors class by class")
    yield sortable_table(("Class", "Test images", "Error, %", "Most often taken for"), lines)


def _numbers(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Html:
    rows = [table_row(["", *classes], "th")]
    for k, (name, row) in enumerate(zip(classes, counts, strict=True)):
        cells = []
        for j, count in enumerate(row):
            shade = round(0.45 * count / max(sum(row), 1), 3)
            colour = "21,128,61" if j == k else "220,38,38"
            look = f"background:rgba({colour},{shade})" if count else None
            said = f"{name} taken for {classes[j]}: {count}"
            cells.append(element("td", count or "·", style=look, title=said, class_="most" if j == k else None))
        rows.append(element("tr", element("th", name), *cells))
    return element("table", *rows, class_="matrix")


def _picture(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Html:
    """A square for every pair of classes that occurs, the darker the larger its share of the row."""
    pitch = 6
    side = pitch * len(classes)
    shapes = [element("rect", class_="grid", x=0, y=0, width=side, height=side)]
    for k, row in enumerate(counts):
        for j, count in enumerate(row):
            if not count:
                continue
            place = {"x": pitch * j, "y": pitch * k, "width": pitch, "height": pitch}
            look = {"fill": BLUE if j == k else "#dc2626", "opacity": f"{0.25 + 0.75 * count / sum(row):.2f}"}
            title = element("title", f"{classes[k]} taken for {classes[j]}: {count}")
            shapes.append(element("rect", title, **place, **look))
    box = f"0 0 {side} {side}"
    look = {"viewBox": box, "role": "img", "aria_label": "Confusion matrix", "style": "max-width:620px;width:100%"}
    return element("svg", *shapes, **look)


def _worst(found: Sequence[Tested]) -> Iterator[Html]:
    images: dict[int, list[Worst]] = defaultdict(list)
    for table in found:
        for image in table["worst"]:
            images[image["index"]].append(image)
    ranked = sorted(images.values(), key=lambda seen: (-max(image["loss"] for image in seen), seen[0]["index"]))
    if not ranked:
        return
    figures = []
    for seen in ranked[:WORST]:
        image = max(seen, key=lambda image: image["loss"])
        said = f"{image['true']}, taken for {image['predicted']}"
        picture = element("img", src=f"data:image/png;base64,{image['picture']}", alt=said)
        about = (
            "is ", element("b", image["true"]), ", said ", element("b", image["predicted"]),
            f" ({100 * image['probability']:.0f} %)", element("br"), f"loss {number(image['loss'])}",
            f", image {image['index']}",
        )  # fmt: skip
        figures.append(element("figure", picture, element("figcaption", *about)))
    about = "The test images with the highest loss: what is odd about them, or about their labels?"
    yield element("h3", "The worst images", help_mark("The worst images", about))
    yield element("p", about)
    yield element("div", *figures, class_="pictures")
