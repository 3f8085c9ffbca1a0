"""Cell drawings, read back from their geometry: what a viewer sees must be the genotype, and legible."""

import random
import re
import time
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import pairwise

import pytest

from fastdarts.errors import FastdartsError
from fastdarts.report.colours import CANDIDATES
from fastdarts.report.drawing import cell_text, draw_cell, subscripted
from fastdarts.spaces.cells.genotype import cleaned
from fastdarts.spaces.cells.named import NAMED
from fastdarts.spaces.topology import DARTS_CELL

SVG = "{http://www.w3.org/2000/svg}"


def random_cell(seed):
    """Two random edges per node, the same source twice allowed, and a random output."""
    draw = random.Random(seed)
    steps = draw.randint(1, 7)
    ops = [*CANDIDATES, "my_own_operation_with_a_long_name", "x"]
    edges = [(draw.choice(ops), draw.randrange(index // 2 + 2)) for index in range(2 * steps)]
    return edges, draw.sample(range(2, steps + 2), draw.randint(1, steps))


def random_free_cell(seed):
    """Any number of operations per node, several from one source, and a random output."""
    draw = random.Random(1000 + seed)
    steps = draw.randint(1, 5)
    ops = [*CANDIDATES, "none", "x"]
    targets = sorted([*range(2, steps + 2), *(draw.randrange(2, steps + 2) for _ in range(draw.randrange(10)))])
    edges = [(draw.choice(ops), draw.randrange(target), target) for target in targets]
    return edges, draw.sample(range(2, steps + 2), draw.randint(1, steps))


CELLS = {
    f"{name}-{kind}": (getattr(cleaned(genotype), kind), getattr(cleaned(genotype), f"{kind}_concat"))
    for name, genotype in NAMED.items()
    for kind in ("normal", "reduce")
} | {
    f"{name}-{seed}": make(seed)
    for name, make in (("random", random_cell), ("free", random_free_cell))
    for seed in range(30)
}
every_cell = pytest.mark.parametrize(("edges", "concat"), CELLS.values(), ids=CELLS.keys())


class Picture:
    """The boxes and lines of an SVG drawing as a viewer sees them."""

    def __init__(self, svg):
        self.root = ET.fromstring(svg)
        self.boxes = []  # (kind, label, left, top, right, bottom)
        for group in self.root.iter(f"{SVG}g"):
            rect = group.find(f"{SVG}rect")
            left, top, width, height = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
            label = "".join(group.find(f"{SVG}text").itertext()).replace("−", "-")
            self.boxes.append((group.get("class"), label, left, top, left + width, top + height))
        self.lines = [path for path in self.root.iter(f"{SVG}path") if path.get("class") == "edge"]

    def box_at(self, x, y):
        """The index of the box whose border or inside is within 8 px of the point."""
        found = [
            index
            for index, (_, _, left, top, right, bottom) in enumerate(self.boxes)
            if left - 8 <= x <= right + 8 and top - 1 <= y <= bottom + 1
        ]
        assert len(found) == 1
        return found[0]

    def links(self):
        """(index of the box where a line starts, index of the box where it ends)."""
        ends = []
        for line in self.lines:
            track = trace(line.get("d"))
            ends.append((self.box_at(*track[0]), self.box_at(*track[-1])))
        return ends


def trace(path):
    """Points along an SVG path of the commands M, C and H."""
    points = []
    for command, text in re.findall(r"([MCH])([^MCH]*)", path):
        numbers = [float(n) for n in text.split()]
        if command == "M":
            points.append(tuple(numbers))
        elif command == "H":
            x, y = points[-1]
            points += [(x + (numbers[0] - x) * t / 20, y) for t in range(1, 21)]
        else:
            p = [points[-1], *zip(numbers[::2], numbers[1::2], strict=True)]
            for t in (i / 20 for i in range(1, 21)):
                weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
                points.append(tuple(sum(w * q[axis] for w, q in zip(weights, p, strict=True)) for axis in (0, 1)))
    return points


def short(state):
    return DARTS_CELL.name(state).replace("_{", "").replace("}", "")


@every_cell
def test_lines_and_boxes_spell_the_genotype(edges, concat):
    picture = Picture(draw_cell(edges, concat, "cell"))
    labels = [label for _, label, *_ in picture.boxes]
    links = picture.links()
    source_of = {end: start for start, end in links if picture.boxes[end][0] == "op"}
    seen = Counter(
        (labels[source_of[start]], labels[start], labels[end])
        for start, end in links
        if picture.boxes[start][0] == "op"
    )
    targets = [edge[2] if len(edge) == 3 else i // 2 + 2 for i, edge in enumerate(edges)]
    assert seen == Counter((short(e[1]), e[0], short(target)) for e, target in zip(edges, targets, strict=True))
    outputs = [labels[start] for start, end in links if labels[end] == "ck"]
    assert Counter(outputs) == Counter(short(state) for state in concat)
    assert len(links) == 2 * len(edges) + len(concat)


@every_cell
def test_nothing_overlaps_and_everything_is_inside(edges, concat):
    picture = Picture(draw_cell(edges, concat, "cell"))
    _, _, width, height = (float(n) for n in picture.root.get("viewBox").split())
    for index, (_, label, left, top, right, bottom) in enumerate(picture.boxes):
        assert 0 <= left < right <= width and 20 < top < bottom <= height  # the title has the first 20
        assert right - left >= 7.2 * len(label)  # a 12 px monospace letter is 7.2 px wide
        for _, _, l2, t2, r2, b2 in picture.boxes[:index]:
            assert right <= l2 or r2 <= left or bottom <= t2 or b2 <= top
    for line, link in zip(picture.lines, picture.links(), strict=True):
        for x, y in trace(line.get("d")):
            assert 0 <= x <= width and 20 < y <= height
            for index, (_, _, left, top, right, bottom) in enumerate(picture.boxes):
                assert index in link or not (left < x < right and top < y < bottom)


def test_lines_cross_no_more_than_they_must():
    assert crossings(draw_cell(*CELLS["AmoebaNet-normal"], "")) <= 4
    # A chain can be drawn without any crossing.
    chain = [("sep_conv_3x3", 0), ("skip_connect", 1), ("sep_conv_3x3", 2), ("dil_conv_3x3", 2)]
    assert crossings(draw_cell(chain, [3], "")) == 0


def crossings(svg):
    """How often two lines change sides, looked at in slices 4 px wide."""
    tracks = [trace(line.get("d")) for line in Picture(svg).lines]
    heights = []
    for track in tracks:
        heights.append({round(x / 4): y for x, y in track})
    count = 0
    for i, one in enumerate(heights):
        for other in heights[:i]:
            gaps = [one[x] - other[x] for x in sorted(one.keys() & other.keys()) if abs(one[x] - other[x]) > 1]
            count += sum(a * b < 0 for a, b in pairwise(gaps))
    return count


def test_a_drawing_needs_nothing_and_repeats():
    edges, concat = CELLS["NASNet-reduce"]
    svg = draw_cell(edges, concat, "cell")
    assert svg == draw_cell(list(edges), list(concat), "cell")
    assert svg.count("http") == 1  # the name space
    assert not re.search(r"\bid=|href|url\(|<style|<script", svg)  # several in one page cannot interfere


def test_text_from_outside_is_escaped():
    edges = [('<b>&"op', 0), ("x\x00y", 1)]
    root = ET.fromstring(draw_cell(edges, [2], '</title><script>alert("1")</script>'))
    assert root.find(f"{SVG}title").text == '</title><script>alert("1")</script>'
    assert [label for kind, label, *_ in Picture(ET.tostring(root)).boxes if kind == "op"] == [
        '<b>&"op',
        "x�y",
    ]


def test_the_description_says_the_cell_in_words():
    root = ET.fromstring(draw_cell([("sep_conv_3x3", 0), ("skip_connect", 1)], [2], "normal"))
    assert root.get("role") == "img"
    assert root.find(f"{SVG}desc").text == ("node 0 = sep_conv_3x3(cₖ₋₂) + skip_connect(cₖ₋₁); cₖ = concat(0)")


def test_states_are_written_as_people_write_them():
    assert subscripted("c_{k-2} → 0") == "cₖ₋₂ → 0" and subscripted("h_{t-1}") == "hₜ₋₁"
    assert subscripted("sep_conv_3x3 a_b x_{Q}") == "sep_conv_3x3 a_b x_{Q}"  # no such letter: as it is


def test_operations_may_have_other_colours_in_a_page():
    edges = [("sep_conv_3x3", 0), ("mine", 1)]
    fills = {g.find(f"{SVG}text").text: g.find(f"{SVG}rect").get("fill") for g in ET.fromstring(
        draw_cell(edges, [2], "", colours={"mine": "#123456"})
    ).iter(f"{SVG}g") if g.get("class") == "op"}  # fmt: skip
    assert fills == {"sep_conv_3x3": CANDIDATES["sep_conv_3x3"], "mine": "#123456"}


def test_cell_text():
    edges = [("sep_conv_3x3", 0), ("none", 1), ("skip_connect", 2), ("dil_conv_5x5", 1)]
    assert cell_text(edges, [2, 3], "normal cell") == (
        "normal cell\n"
        "\n"
        "  c_{k-2} ── sep_conv_3x3 ──┐\n"
        "  c_{k-1} ── none ──────────┴─▶ 0\n"
        "        0 ── skip_connect ──┐\n"
        "  c_{k-1} ── dil_conv_5x5 ──┴─▶ 1\n"
        "\n"
        "  0, 1 ── concat ──▶ c_{k}\n"
    )


def test_cells_of_triples_show_the_nodes_that_exist():
    edges = [("sep_conv_3x3", 0, 2), ("none", 0, 4), ("skip_connect", 1, 4), ("none", 2, 4), ("none", 1, 5)]
    assert cell_text(edges, [1, 4, 5], "normal cell") == (
        "normal cell\n"
        "\n"
        "  c_{k-2} ── sep_conv_3x3 ────▶ 0\n"
        "  c_{k-2} ── none ──────────┐\n"
        "  c_{k-1} ── skip_connect ──┤\n"
        "        0 ── none ──────────┴─▶ 2\n"
        "  c_{k-1} ── none ────────────▶ 3\n"
        "\n"
        "  c_{k-1}, 2, 3 ── concat ──▶ c_{k}\n"
    )
    labels = [label for kind, label, *_ in Picture(draw_cell(edges, [1, 4, 5], "")).boxes if kind == "state"]
    assert sorted(labels) == ["0", "2", "3", "ck", "ck-1", "ck-2"]


@pytest.mark.parametrize("draw", [draw_cell, cell_text])
@pytest.mark.parametrize(
    ("edges", "concat", "complaint"),
    [
        ([("none", 0), ("none", 2)], [2], "none from state 2"),
        ([("none", 0), ("none", -1)], [2], "none from state -1"),
        ([("none", 0)], [2], "1 edges"),
        ([("none", 0), ("none", 1)], [3], r"states \[3\]"),
        ([("none", 0), ("none", 1)], [], r"states \[\]"),
        ([], [2], "0 edges"),
        ([("none", 2, 2)], [2], "none from state 2"),
        ([("none", 0, 2)], [3], r"states \[3\]"),
        ([("none", 3, 4)], [4], "none takes state 3, but no edge leads into that node"),
    ],
)
def test_impossible_cells_are_refused(draw, edges, concat, complaint):
    with pytest.raises(FastdartsError, match=complaint):
        draw(edges, concat, "cell")


def test_a_cell_of_the_most_nodes_is_drawn_before_anyone_loses_patience():
    nodes = 100
    edges = [("skip_connect", source % (node + 2)) for node in range(nodes) for source in (7 * node, 3 * node + 1)]
    start = time.process_time()
    root = ET.fromstring(draw_cell(edges, range(2, nodes + 2), "large"))
    assert time.process_time() - start < 10  # it took a minute
    assert sum(group.get("class") == "op" for group in root.iter(f"{SVG}g")) == 2 * nodes
