"""Pictures of supernet cells: every candidate of every edge, as SVG for pages."""

from collections.abc import Iterator

from fastdarts.report.colours import LABEL, candidate_colours
from fastdarts.report.drawing import drawing, subscripted
from fastdarts.report.markup import Html, element
from fastdarts.spaces import Table
from fastdarts.spaces.topology import DARTS_CELL, Topology

_STEP, _BASE = 120, 215  # pixels between states, where they stand


def draw_supernet_cell(table: Table, title: str, cell: Topology = DARTS_CELL, reduction: bool = False) -> Html:
    """An SVG of a supernet cell: each edge an arc of one strand per primitive, dashed at stride 2.

    table: the primitives of each edge, node after node, sources ascending.
    cell: the kind of cell; its number of nodes is that of the table.
    """
    primitives = list(dict.fromkeys(name for edge in table for name in edge))
    colours = candidate_colours(primitives)
    cell = cell.holding(len(table))
    names = [*map(cell.name, range(cell.states)), cell.output]
    x = [60 + _STEP * index for index in range(len(names))]
    below = _BASE + 16 * (cell.states - 1)
    width, height = x[-1] + 60, below + 18 * ((len(primitives) + 3) // 4) + 10

    def arc(start: float, end: float, depth: float, **style: object) -> Html:
        curve = f"M{start:g} {_BASE} C{start:g} {depth:g} {end:g} {depth:g} {end:g} {_BASE}"
        return element("path", d=curve, fill="none", **style)

    def arcs() -> Iterator[Html]:
        for (target, source, reduces), offered in zip(cell.edges, table, strict=True):
            dash = "5 3" if reduction and reduces else None
            for k, name in enumerate(offered):
                shift = 2.0 * k - (len(offered) - 1)
                depth = _BASE - 42 * (target - source) + shift
                style = {"stroke": colours[name], "stroke_width": 1.4, "stroke_dasharray": dash}
                yield arc(x[source] + shift, x[target] - shift, depth, **style)
        for state in cell.outputs:
            yield arc(x[state], x[-1], _BASE + 16 * (cell.states + 1 - state), stroke=LABEL)

    def states() -> Iterator[Html]:
        for centre, name in zip(x, names, strict=True):
            yield element("rect", x=centre - 29, y=_BASE - 15, width=58, height=30, rx=8, fill=LABEL)
            yield element("text", subscripted(name), x=centre, y=_BASE + 4, text_anchor="middle", fill="#fff")

    def legend() -> Iterator[Html]:
        for k, name in enumerate(primitives):
            left, line = 31 + 190 * (k % 4), below + 18 * (k // 4)
            yield element("rect", x=left, y=line - 9, width=10, height=10, fill=colours[name])
            yield element("text", name, x=left + 16, y=line, fill=LABEL)

    each = "each" if len(set(table)) == 1 else "together"
    about = f"{len(table)} edges, {each} mixing {', '.join(primitives)}" + ("; dashed: stride 2" if reduction else "")
    heading = element("text", title, x=10, y=18, fill=LABEL, font_size=13, font_weight=600)
    shapes = element("title", title), element("desc", about), heading, *arcs(), *states(), *legend()
    return drawing(shapes, width, height, "ui-monospace, monospace")
