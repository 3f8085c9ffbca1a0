"""Pictures of derived cells: SVG for pages and plain text for terminals.

The SVG is a layered drawing from left to right: the inputs, then alternating columns of operations and nodes,
then the output. An edge that passes a column gets a lane of its own there and bends only between columns, so
that edges never run through a box and boxes never overlap, whatever the cell.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby, pairwise
from operator import attrgetter
from statistics import fmean

from fastdarts.errors import FastdartsError
from fastdarts.report.colours import EDGE, LABEL, STATE, candidate_colour
from fastdarts.report.markup import Html, element, joined
from fastdarts.spaces import Architecture
from fastdarts.spaces.topology import DARTS_CELL, Entry, Placed, Topology

_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_LETTER = 7.3  # width of a 12 px monospace letter
_GUTTER = 52  # between columns: the room in which edges bend
_GAP = 12  # between boxes of a column
_PORT = 14  # between edges that enter the same box
_MARGIN = 10
_HEADING = 34
_MANY = 500  # boxes beyond which swaps of neighbours would take longer than anyone waits


def subscripted(text: str) -> str:
    """``text`` as people write it: c_{k-2} → 0 as cₖ₋₂ → 0, h_{t} as hₜ."""
    return re.sub(r"_\{([^{}]*)\}", _lowered, text)


def _lowered(found: re.Match[str]) -> str:
    low = [_SUBSCRIPTS.get(letter) for letter in found[1]]
    return "".join(map(str, low)) if all(low) else found[0]


_SUBSCRIPTS = dict(zip("0123456789-+aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₋₊ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))


def draw_cell(
    entries: Sequence[Entry],
    concat: Sequence[int],
    title: str,
    cell: Topology = DARTS_CELL,
    colours: Mapping[str, str] | None = None,
) -> Html:
    """A self-contained SVG of a derived cell, for light and dark pages.

    entries: (operation, source) pairs or (operation, source, target) triples, the states numbered as in a genotype.
    concat: the states that make the output.
    cell: the kind of cell; its number of nodes does not matter.
    colours: those of operations that have other colours in this page.
    Raises FastdartsError when an edge or an output refers to a state that does not exist yet.
    """
    edges = _checked(entries, concat, cell)
    boxes, routes = _layout(edges, concat, cell, colours or {})
    width = boxes[-1].x + boxes[-1].width + _MARGIN
    height = max(box.y + box.height / 2 for box in boxes) + _MARGIN
    shapes = (
        element("title", title),
        element("desc", subscripted("; ".join(_sentences(edges, concat, cell)))),
        element("text", title, class_="heading", x=_MARGIN, y=18, fill=LABEL, font_weight="bold"),
        *map(_draw_route, routes),
        *(_draw_box(box) for box in boxes if box.kind != "lane"),
    )
    return drawing(shapes, f"{width:.0f}", f"{height:.0f}", _FONT)


def draw(architecture: Architecture, colours: Mapping[str, str] | None = None) -> dict[str, Html]:
    """An SVG of each kind of cell of ``architecture``."""
    space, genotype = architecture
    cells = space.cells(genotype).items()
    return {kind: draw_cell(*cell, space.kinds[kind], space.cell_of(kind), colours) for kind, cell in cells}


def drawing(shapes: Iterable[Html], width: object, height: object, font: str) -> Html:
    """A self-contained SVG of these `shapes`, one a line."""
    content = joined(("", *shapes, ""), "\n")
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    return joined((element("svg", content, **box, role="img", font_family=font, font_size=12), "\n"))


def cell_text(entries: Sequence[Entry], concat: Sequence[int], title: str, cell: Topology = DARTS_CELL) -> str:
    """The same cell drawn with characters, one line per edge, for a terminal."""
    edges = _checked(entries, concat, cell)
    longest = max(len(edge.op) for edge in edges)
    lines = [title, ""]
    nodes = [edge.target for edge in edges]
    for (op, source, node), before, after in zip(edges, [-1, *nodes], [*nodes[1:], -1], strict=False):
        bar = "─" * (longest - len(op))
        corner = "─" if before != node != after else "┐" if before != node else "┤" if node == after else "┴"
        end = f"{corner}─▶ {cell.name(node)}" if node != after else corner
        lines.append(f"  {cell.name(source):>7} ── {op} {bar}──{end}")
    lines += ["", f"  {', '.join(map(cell.name, concat))} ── {cell.how} ──▶ {cell.output}"]
    return "\n".join(lines) + "\n"


def _checked(entries: Sequence[Entry], concat: Sequence[int], cell: Topology) -> list[Placed]:
    edges = cell.place(entries)
    known = {*range(len(cell.inputs)), *(edge.target for edge in edges)}
    if not concat or not known.issuperset(concat):
        nodes = len(known) - len(cell.inputs)
        raise FastdartsError(f"the output of a cell of {nodes} nodes cannot be made of states {list(concat)}")
    if lost := [edge for edge in edges if edge.source not in known]:
        raise FastdartsError(f"{lost[0].op} takes state {lost[0].source}, but no edge leads into that node")
    return edges


def _sentences(edges: Sequence[Placed], concat: Sequence[int], cell: Topology) -> Iterator[str]:
    for node, group in groupby(edges, key=attrgetter("target")):
        yield f"node {cell.name(node)} = {' + '.join(f'{edge.op}({cell.name(edge.source)})' for edge in group)}"
    yield f"{cell.output} = {cell.how}({', '.join(map(cell.name, concat))})"


# ---- layout: columns, order inside a column, then heights -------------------------------------------------


@dataclass(eq=False)
class _Box:
    kind: str  # "state", "op" or "lane" (where an edge passes a column)
    label: str
    column: int
    width: float
    height: float
    colour: str = EDGE
    note: str = ""
    x: float = 0.0  # left side
    y: float = 0.0  # middle
    inputs: list["_Box"] = field(default_factory=list)
    outputs: list["_Box"] = field(default_factory=list)


@dataclass(frozen=True)
class _Route:
    path: list[_Box]  # from box to box, lanes in between
    colour: str
    arrow: bool


def _layout(
    edges: Sequence[Placed], concat: Sequence[int], cell: Topology, colours: Mapping[str, str]
) -> tuple[list[_Box], list[_Route]]:
    # Of a state: inputs 0, state 0 of a recurrent cell 1, a node one more than its deepest source.
    depth = dict.fromkeys(range(len(cell.inputs)), int(bool(cell.made_of)))
    for edge in edges:
        depth[edge.target] = max(depth.get(edge.target, 0), 1 + depth[edge.source])
    # Column 0 holds the inputs, 2d the nodes of depth d, 2d - 1 the operations that lead to them.
    fan = Counter(edge.target for edge in edges)
    states = {
        i: _Box("state", cell.name(i), 2 * d, 34 if d else 58, max(34, _PORT * fan[i] - 8)) for i, d in depth.items()
    }
    pill = 22 + _LETTER * max(len(edge.op) for edge in edges)
    boxes, routes = list(states.values()), []

    def connect(source: _Box, target: _Box, colour: str, arrow: bool) -> None:
        lanes = [_Box("lane", "", column, 0, 2) for column in range(source.column + 1, target.column)]
        path = [source, *lanes, target]
        for a, b in pairwise(path):
            a.outputs.append(b)
            b.inputs.append(a)
        boxes.extend(lanes)
        routes.append(_Route(path, colour, arrow))

    for name in cell.made_of:
        boxes.append(_Box("state", name, 0, 58, 34))
        connect(boxes[-1], states[0], EDGE, arrow=True)
    for op, source, node in edges:
        target = states[node]
        colour = colours.get(op) or candidate_colour(op)
        box = _Box("op", op, target.column - 1, pill, 26, colour, f"{op}: {subscripted(cell.arrow(source, node))}")
        boxes.append(box)
        connect(states[source], box, colour, arrow=False)
        connect(box, target, colour, arrow=True)
    output = _Box("state", cell.output, 2 * max(depth.values()) + 1, 46, max(34, _PORT * len(concat) + 6))
    for state in concat:
        connect(states[state], output, EDGE, arrow=True)
    boxes.append(output)

    columns = [[box for box in boxes if box.column == column] for column in range(output.column + 1)]
    _order(columns)
    _place(columns)
    return boxes, routes


def _order(columns: list[list[_Box]]) -> None:
    """Sort each column so that few edges cross: barycentre sweeps, then swaps of neighbours that help."""
    best, fewest = [list(column) for column in columns], _crossings(columns)
    for sweep in range(24):
        forward = sweep % 2 == 0
        for column in columns if forward else reversed(columns):
            rank = _ranks(columns)
            middle = {}
            for box in column:
                neighbours = box.inputs if forward else box.outputs
                middle[box] = fmean(rank[other] for other in neighbours) if neighbours else rank[box]
            column.sort(key=middle.__getitem__)
        if (crossings := _crossings(columns)) < fewest:
            best, fewest = [list(column) for column in columns], crossings
    columns[:] = best
    improved = sum(map(len, columns)) <= _MANY
    while improved:
        improved = False
        for column in columns:
            for i in range(len(column) - 1):
                column[i : i + 2] = column[i + 1], column[i]
                if (crossings := _crossings(columns)) < fewest:
                    fewest, improved = crossings, True
                else:
                    column[i : i + 2] = column[i + 1], column[i]


def _ranks(columns: list[list[_Box]]) -> dict[_Box, int]:
    return {box: rank for column in columns for rank, box in enumerate(column)}


def _crossings(columns: list[list[_Box]]) -> int:
    rank = _ranks(columns)
    count = 0
    for column in columns:
        links = [(rank[box], rank[other]) for box in column for other in box.outputs]
        count += sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(links, 2))
    return count


def _place(columns: list[list[_Box]]) -> None:
    """Set every box's x and y: columns side by side, and boxes near the mean height of their neighbours."""
    x = float(_MARGIN)
    for column in columns:
        width = max(box.width for box in column)
        for box in column:
            if box.kind == "lane":
                box.width = width
            box.x = x + (width - box.width) / 2
        x += width + _GUTTER
        _stack(column, [0.0] * len(column))
    for sweep in range(40):
        for column in columns if sweep % 2 else reversed(columns):
            _stack(column, [_pull(box) for box in column])
    top = min(box.y - box.height / 2 for column in columns for box in column)
    for column in columns:
        for box in column:
            box.y += _HEADING - top


def _pull(box: _Box) -> float:
    near = box.inputs + box.outputs or [box]
    # Lanes hold on to each other, so that an edge that passes several columns stays straight.
    return fmean((b.y for b in near), [8.0 if box.kind == b.kind == "lane" else 1.0 for b in near])


def _stack(column: list[_Box], wanted: list[float]) -> None:
    """Heights closest to `wanted` (least squares) that keep the order and leave gaps: isotonic regression."""
    offsets = [0.0]
    for above, below in pairwise(column):
        offsets.append(offsets[-1] + (above.height + below.height) / 2 + _GAP)
    blocks: list[list[float]] = []  # runs of boxes that touch: each sits at the mean of what its members want
    for want, offset in zip(wanted, offsets, strict=True):
        blocks.append([want - offset])
        while len(blocks) > 1 and fmean(blocks[-2]) >= fmean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    shifts = (shift for block in blocks for shift in [fmean(block)] * len(block))
    for box, offset, shift in zip(column, offsets, shifts, strict=True):
        box.y = shift + offset


# ---- shapes ---------------------------------------------------------------------------------------------


def _port(box: _Box, other: _Box) -> float:
    """Where the edge from `other` enters `box`: the edges of a box enter one below the other."""
    above = sum((o.y, o.x) < (other.y, other.x) for o in box.inputs)
    return box.y + _PORT * (above - (len(box.inputs) - 1) / 2)


def _draw_route(route: _Route) -> Html:
    first = route.path[0]
    x, y = first.x + first.width, first.y
    path = f"M{x:.1f} {y:.1f}"
    for a, b in pairwise(route.path):
        to_x, to_y = b.x, _port(b, a) if b.kind == "state" else b.y
        if route.arrow and b is route.path[-1]:
            to_x -= 7
        bend = (x + to_x) / 2
        path += f" C{bend:.1f} {y:.1f} {bend:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
        x, y = to_x, to_y
        if b.kind == "lane":
            x += b.width
            path += f" H{x:.1f}"
    line = element("path", class_="edge", d=path, fill="none", stroke=route.colour, stroke_width=1.8)
    head = [element("path", d=f"M{x + 7:.1f} {y:.1f} l-9 -4.5 v9 z", fill=route.colour)] * route.arrow
    return joined((line, *head))


def _draw_box(box: _Box) -> Html:
    fill, radius = (box.colour, 13) if box.kind == "op" else (STATE, 8)
    top = box.y - box.height / 2
    label: list[object] = [box.label]
    if box.kind == "state" and (found := re.fullmatch(r"(.*)_\{(.*)\}", box.label.replace("-", "−"))):
        label = [found[1], element("tspan", found[2], dy=3, font_size=10)]
    shape = {"width": f"{box.width:.1f}", "height": f"{box.height:.1f}", "rx": radius, "fill": fill, "stroke": EDGE}
    place = {"x": f"{box.x + box.width / 2:.1f}", "y": f"{box.y + 4:.1f}", "text_anchor": "middle", "fill": "#fff"}
    return element(
        "g",
        element("title", box.note or subscripted(box.label)),
        element("rect", x=f"{box.x:.1f}", y=f"{top:.1f}", **shape, stroke_width=int(box.kind == "state")),
        element("text", *label, **place),
        class_=box.kind,
    )
