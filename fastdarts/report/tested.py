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
from fastdarts.report.page import heading, sortable_table, table_row
from fastdarts.runs.stored import check, read_table

MOST_CLASSES = 100
"""Of which there are a confusion matrix and errors class by class."""
WORST = 24
"""Images of the highest loss that are kept, and shown."""
MAPS = 12
"""Test images of which pictures of maps are kept, and shown."""
POINTS = 400
"""Test images of which true and predicted numbers are kept, and drawn."""
_IN_NUMBERS = 20  # classes of a matrix in numbers; one of more is a picture
PICTURE, ROW = 30_000, 60_000
"""Letters of base64 of a picture, and of a row of pictures of maps, at most."""
_PREFIX = "tested_seed_"

_Index = Annotated[int, range(10**9)]


class _Sure(TypedDict, total=False):
    probability: float


class Worst(_Sure):
    """An image: its place in the test set, its class and what it was taken for, how surely, and itself as a PNG. Of
    numbers and labels, in words what is true and what was said."""

    index: _Index
    true: str
    predicted: str
    loss: float
    picture: str


class Mapped(TypedDict):
    """An image of which a network says a map: its place in the test set, its loss, its error in words, and a PNG of the
    image, the truth and what was said."""

    index: _Index
    loss: float
    said: str
    picture: str


class Tested(TypedDict, total=False):
    """What one network takes the test images for.

    counts: images by class (rows) and by what they were taken for (columns), of at most ``MOST_CLASSES`` classes.
    kind: "numbers", "labels" or "maps"; without it there are classes.
    points: of each number up to ``POINTS`` pairs of what is true and what was said.
    labels: of each label the images that have it, those of which it was said, and those of which it was said rightly.
    """

    kind: str
    points: dict[str, Annotated[list[Annotated[list[float], range(2, 3)]], range(10**4)]]
    labels: dict[str, Annotated[list[_Index], range(3, 4)]]

    maps: Annotated[list[Mapped], range(10 * MAPS)]
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
    of_kind = {"numbers": "points", "labels": "labels", "maps": "maps"}
    needed = {"images", "worst", of_kind.get(table.get("kind", ""), "class_count")}
    if missing := needed - table.keys():
        raise FastdartsError(f"{path} is damaged (it has no {sorted(missing)[0]}): restore it or delete it")
    if any(len(row) != len(classes) for row in counts) or len(counts) != len(classes):
        raise FastdartsError(f"{path} is damaged (counts is not a table by class and class): restore it or delete it")
    pictured = [(name, place, image) for name in ("worst", "maps") for place, image in enumerate(table.get(name, ()))]
    for name, place, image in pictured:
        try:
            data = base64.b64decode(image["picture"], validate=True)
        except (ValueError, binascii.Error):
            data = b""
        if not data.startswith(b"\x89PNG") or len(image["picture"]) > (ROW if name == "maps" else PICTURE):
            raise FastdartsError(
                f"{path} is damaged ({name}[{place}].picture is no small PNG in base64): restore it or delete it"
            )


def tested_section(found: Sequence[Tested]) -> Html:
    """Confusion matrix, errors class by class and the worst images, of all seeds together."""
    if not found:
        return EMPTY
    parts = {"numbers": _numbers_beside, "labels": _labels, "maps": _maps}.get(found[0].get("kind", ""), _matrix)
    return joined((*parts(found), *_worst(found)))


def _numbers_beside(found: Sequence[Tested]) -> Iterator[Html]:
    """A picture of each number, as it is said beside what is true."""
    yield heading(
        "h3", "Numbers said", "A point for each test image: to the right what is true, upwards what was said."
    )
    charts = []
    for name in found[0]["points"]:
        pairs = [tuple(pair) for table in found for pair in table["points"].get(name, [])]
        charts.append(scatter(name, pairs))
    yield element("div", *charts, class_="charts")


def _maps(found: Sequence[Tested]) -> Iterator[Html]:
    """Pictures of what was said of pixels, of the first network."""
    figures = []
    for image in sorted(found[0]["maps"], key=lambda image: -image["loss"]):
        about = f"image {image['index']}, {image['said'] or 'nothing known'}, loss {number(image['loss'])}"
        picture = element("img", src=f"data:image/png;base64,{image['picture']}", alt=about)
        figures.append(element("figure", picture, element("figcaption", about)))
    about = (
        "From left to right: the image (the left view), what is true, and what was said. Black is not known. The test "
        "images with the highest loss come first, and others follow."
    )
    yield heading("h3", "Maps", about)
    yield element("p", about)
    yield element("div", *figures, class_="pictures maps")


def _labels(found: Sequence[Tested]) -> Iterator[Html]:
    """How well each label was found."""
    lines = []
    for name in found[0]["labels"]:
        have, said, right = (sum(table["labels"].get(name, [0, 0, 0])[k] for table in found) for k in range(3))
        share = [f"{100 * right / of:.1f}" if of else "" for of in (said, have)]
        score = f"{200 * right / (have + said):.1f}" if have + said else ""
        lines.append((name, have, said, *share, score))
    yield element("h3", "Labels")
    titles = ("Label", "Images that have it", "Said of images", "Precision, %", "Recall, %", "F1, %")
    yield sortable_table(titles, lines)


def scatter(title: str, pairs: Sequence[tuple[float, float]]) -> Html:
    """A square of points (true, said), with the line where both are the same."""
    side, values = 260, [value for pair in pairs for value in pair]
    low, high = min(values), max(values)
    scale = side / ((high - low) or 1.0)
    shapes = [
        element("rect", class_="grid", x=0, y=0, width=side, height=side),
        element("line", class_="grid", x1=0, y1=side, x2=side, y2=0),
    ]
    for true, said in pairs:
        about = element("title", f"{number(said)}, true {number(true)}")
        place = {"cx": f"{(true - low) * scale:.1f}", "cy": f"{side - (said - low) * scale:.1f}"}
        shapes.append(element("circle", about, r=2.5, fill=BLUE, opacity="0.6", **place))
    look = {"viewBox": f"-4 -4 {side + 8} {side + 8}", "role": "img", "aria_label": f"{title}, said and true"}
    caption = f"{title}: from {number(low)} to {number(high)}"
    return element("figure", element("svg", *shapes, **look), element("figcaption", caption))


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
    yield heading("h3", "Confusion matrix", about)
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
        sure = f" ({100 * image['probability']:.0f} %)" if "probability" in image else ""
        picture = element("img", src=f"data:image/png;base64,{image['picture']}", alt=said)
        about = (
            "is ", element("b", image["true"]), ", said ", element("b", image["predicted"]),
            sure, element("br"), f"loss {number(image['loss'])}",
            f", image {image['index']}",
        )  # fmt: skip
        figures.append(element("figure", picture, element("figcaption", *about)))
    about = "The test images with the highest loss: what is odd about them, or about their labels?"
    yield heading("h3", "The worst images", about)
    yield element("p", about)
    yield element("div", *figures, class_="pictures")
