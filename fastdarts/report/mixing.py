"""The mixing weights of a search, edge by edge."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from fastdarts.report.charts import Line, patch, small_chart
from fastdarts.report.colours import BLUE
from fastdarts.report.drawing import subscripted
from fastdarts.report.markup import EMPTY, Html, element, joined
from fastdarts.report.page import sortable_table
from fastdarts.report.reader import Records
from fastdarts.spaces.topology import Entry, Topology


def by_edge(entries: Sequence[Entry], cell: Topology) -> dict[tuple[int, int], str]:
    """By target and source what a derived cell has on that edge: an operation, or several as a sum."""
    found = defaultdict(list)
    for op, source, target in cell.place(entries):
        found[target, source].append(op)
    return {edge: " + ".join(ops) for edge, ops in found.items()}


def mixing(run: Records, kind: str, colours: Mapping[str, str]) -> Html:
    """One small chart per edge, with a line per candidate: a row of charts per node, a column per source. Below, the
    last weights as a table."""
    weights = run.weights(kind)
    if not weights or not any(weights[0][1]):
        return EMPTY
    epochs = [epoch for epoch, _ in weights]
    names = run.primitives(kind, weights[0][1])
    cell = run.space.cell_of(kind).holding(len(names))
    every = [weight for _, table in weights for edge in table for weight in edge]
    lowest, highest = min(every), max(every)
    kept = by_edge(run.cells(run.genotype)[kind][0], cell) if run.genotype else {}
    betas = run.edge_weights(kind)
    betas = betas if betas and len(betas[0][1]) == len(names) else []
    charts, lines = [], []
    for edge, ((target, source, _), primitives) in enumerate(zip(cell.edges, names, strict=False)):
        arrow, op = subscripted(cell.arrow(source, target)), kept.get((target, source))
        drawn = [
            Line(name, colours[name], [(epoch, table[edge][k]) for epoch, table in weights])
            for k, name in enumerate(primitives)
        ]
        chosen = element("b", patch(colours[op]) if op in colours else EMPTY, op) if op else EMPTY
        beta = ()
        if betas:
            line = Line("weight of the edge", BLUE, [(epoch, table[edge]) for epoch, table in betas])
            text = element("span", f"weight of the edge {betas[-1][1][edge]:.3f}")
            beta = text, small_chart([line], (epochs[0], epochs[-1]), (0.0, 1.0))
        heading = element("span", arrow, " ", chosen)
        chart = small_chart(drawn, (epochs[0], epochs[-1]), (lowest, highest))
        look = {"class": "kept" if op else "left", "style": f"grid-column:{source + 1}"}
        charts.append(element("div", heading, chart, *beta, **look))
        lines.append((arrow.replace(" ", "\u00a0"), op or "", *_last(weights[-1][1][edge], primitives)))
    used = dict.fromkeys(name for edge in names for name in edge)
    legend = (element("span", patch(colours[name]), name) for name in used)
    columns = f"grid-template-columns:repeat({cell.states - 1}, minmax(150px, 1fr))"
    about = (
        f"Every chart: epochs {epochs[0]} to {epochs[-1]}, weights {lowest:.4g} to {highest:.4g}. Framed: edges of the "
        "derived cell, with what they keep."
        f"{' Below: the weight of the edge among those of its node, 0 to 1.' if betas else ''}"
    )
    most = max(map(len, names))
    head = ("Edge", "Keeps", "Strongest", "Its weight", *(["Second", "Its weight"] if most > 1 else []))
    return joined(
        (
            element("h3", run.space.kinds[kind].capitalize()),
            element("p", about),
            element("p", *legend, class_="legend"),
            element("div", element("div", *charts, class_="edges", style=columns), class_="wide"),
            sortable_table(head, lines),
        )
    )


def _last(weights: Sequence[float], names: Sequence[str]) -> list[str]:
    """The two strongest candidates of an edge with their weights."""
    ranked = sorted(zip(weights, names, strict=True), reverse=True)[:2]
    return [text for weight, name in ranked for text in (name, f"{weight:.4f}")]
