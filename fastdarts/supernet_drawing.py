"""Pictures of supernet cells: every candidate of every edge, as SVG for pages."""

from collections.abc import Iterator

from fastdarts.drawing import family_colour, state_name, xml_text
from fastdarts.spaces import Table

_STEP, _BASE, _GREY = 120, 215, "#64748b"  # pixels between states, where they stand, a grey for any page


def draw_supernet_cell(table: Table, title: str, inputs: int = 2, reduction: bool = False) -> str:
    """An SVG of a supernet cell: each edge an arc of one strand per primitive, dashed at stride 2.

    table: the primitives of each edge, node after node, sources ascending. The output of a cell of two inputs is made
        of all nodes, that of a cell of one input of the last.
    """
    primitives = list(dict.fromkeys(name for edge in table for name in edge))
    edges = [(target, source) for target in range(inputs, len(table) + inputs) for source in range(target)][
        : len(table)
    ]
    states_in_all = edges[-1][0] + 1
    names = [state_name(state, inputs) for state in range(states_in_all)] + ["c_{k}"]
    x = [60 + _STEP * index for index in range(len(names))]
    below = _BASE + 16 * (states_in_all - 1)
    width, height = x[-1] + 60, below + 18 * ((len(primitives) + 3) // 4) + 10

    def arc(start: float, end: float, depth: float, style: str) -> str:
        curve = f"M{start:g} {_BASE} C{start:g} {depth:g} {end:g} {depth:g} {end:g} {_BASE}"
        return f'<path d="{curve}" fill="none" {style}/>'

    def arcs() -> Iterator[str]:
        for (target, source), offered in zip(edges, table, strict=True):
            dash = ' stroke-dasharray="5 3"' if reduction and source < 2 else ""
            for k, name in enumerate(offered):
                shift = 2.0 * k - (len(offered) - 1)
                depth = _BASE - 42 * (target - source) + shift
                style = f'stroke="{family_colour(name)}" stroke-width="1.4"{dash}'
                yield arc(x[source] + shift, x[target] - shift, depth, style)
        for target in range(inputs, states_in_all) if inputs == 2 else [states_in_all - 1]:
            yield arc(x[target], x[-1], _BASE + 16 * (states_in_all + 1 - target), f'stroke="{_GREY}"')

    def states() -> Iterator[str]:
        for centre, name in zip(x, names, strict=True):
            yield f'<rect x="{centre - 29}" y="{_BASE - 15}" width="58" height="30" rx="8" fill="{_GREY}"/>'
            yield f'<text x="{centre}" y="{_BASE + 4}" text-anchor="middle" fill="#fff">{name}</text>'

    def legend() -> Iterator[str]:
        for k, name in enumerate(primitives):
            left, line = 31 + 190 * (k % 4), below + 18 * (k // 4)
            yield f'<rect x="{left}" y="{line - 9}" width="10" height="10" fill="{family_colour(name)}"/>'
            yield f'<text x="{left + 16}" y="{line}" fill="{_GREY}">{xml_text(name)}</text>'

    each = "each" if len(set(table)) == 1 else "together"
    about = f"{len(edges)} edges, {each} mixing {', '.join(primitives)}" + ("; dashed: stride 2" if reduction else "")
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="ui-monospace, monospace" font-size="12">',
            f"<title>{xml_text(title)}</title>",
            f"<desc>{xml_text(about)}</desc>",
            f'<text x="10" y="18" fill="{_GREY}" font-size="13" font-weight="600">{xml_text(title)}</text>',
            *arcs(),
            *states(),
            *legend(),
            "</svg>\n",
        )
    )
