"""What a run has derived: its cells, the candidates of a random search, decisions, and the genotype over the epochs."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from fastdarts.report.charts import number, span_chart
from fastdarts.report.colours import BLUE
from fastdarts.report.drawing import draw, draw_cell, subscripted
from fastdarts.report.markup import EMPTY, Html, element, joined
from fastdarts.report.mixing import by_edge
from fastdarts.report.page import sortable_table
from fastdarts.report.player import eigenvalue_player
from fastdarts.report.reader import Records, points
from fastdarts.spaces import Architecture
from fastdarts.spaces.topology import Entry, Topology

Colours = Mapping[str, str]
_LISTED = 200  # candidates in the table
_DRAWN = 40  # genotypes that the player has drawings of


def operations(run: Records) -> Iterator[str]:
    """The names of all operations that the page shows, some of them many times."""
    for kind in run.space.kinds:
        for _, table in run.weights(kind)[:1]:
            yield from (name for edge in run.primitives(kind, table) for name in edge)
    for genotype in [run.genotype, *(genotype for _, genotype in run.changes())]:
        for entries, _ in run.cells(genotype).values():
            yield from (entry[0] for entry in entries)


def cells(run: Records, colours: Colours) -> Html:
    """Drawings of the derived cells, and the genotype to copy."""
    if not run.genotype:
        return EMPTY
    drawings = (
        draw_cell(*cell, run.space.kinds[kind].capitalize(), run.space.cell_of(kind), colours)
        for kind, cell in run.cells(run.genotype).items()
    )
    note = EMPTY if run.result or run.is_evaluation else element("p", "As they would be derived now.")
    shown = element("div", *(element("div", drawing) for drawing in drawings), class_="drawings")
    return joined((note, shown, element("pre", run.genotype, title="A click selects it")))


def candidates(run: Records) -> Html:
    """A table of the candidates of a random search, best first."""
    if run.parts != "sample":
        return EMPTY
    trainings, ranking, lines = run.trainings(), run.ranking(), []
    for error, sample in ranking[:_LISTED]:
        found = run.cells(trainings[sample][-1].get("genotype"))
        cells = [_formulas(found[kind][0], run.space.cell_of(kind)) if found else "" for kind in run.space.kinds]
        lines.append((sample, f"{number(error)} %", *cells))
    left = len(ranking) - len(lines)
    note = element("p", f"The best {len(lines)} of {len(ranking)}.") if left > 0 else EMPTY
    titles = map(str.capitalize, run.space.kinds.values())
    return joined((note, sortable_table(("Candidate", "Valid error", *titles), lines, "candidates")))


def decisions(run: Records) -> Html:
    """What stayed: of a projection with the supernet's error and loss without each of those that could, of greedy
    decisions with the scores of the edge."""
    lines, events = [], run.result.get("decisions", ())
    scored = any("scores" in event for event in events)
    for event in events:
        kept, cell = event["keeps"], run.space.cell_of(event["cell"])
        if "edge" in event:
            where, name = _edge_name(cell, event["edge"]), str
        else:
            where, name = f"node {event['node']}", lambda source, cell=cell: subscripted(cell.name(source))
        if "scores" in event:
            about = [f"{name} {number(score)}" for name, score in event["scores"].items()]
            about += [f"prunes {_edge_name(cell, row)}" for row in event["prunes"]]
            what = joined((element("b", ", ".join(map(str, kept))), *about), ", ")
            lines.append((event["epoch"], run.space.kinds[event["cell"]], where, what))
            continue
        losers = [
            (choice in kept, f"{name(choice)} {number(error)} % ({number(loss)})")
            for choice, error, loss in zip(event["without"], event["errors"], event["losses"], strict=True)
        ]
        losers = joined((element("b", text) if stays else text for stays, text in losers), ", ")
        lines.append((event["epoch"], run.space.kinds[event["cell"]], where, losers))
    return sortable_table(("Epoch", "Cell", "Decided", "Keeps" if scored else "Valid error (loss) without"), lines)


def _edge_name(cell: Topology, row: int) -> str:
    edge = cell.holding(row + 1).edges[row]
    return subscripted(cell.arrow(edge.source, edge.target))


def _formulas(entries: Sequence[Entry], cell: Topology) -> Html:
    """A line of HTML per node: sep_conv_3x3(cₖ₋₂) + skip_connect(0)."""
    terms = defaultdict(list)
    for op, source, target in cell.place(entries):
        terms[target].append(f"{op}({subscripted(cell.name(source))})")
    return joined(map(" + ".join, terms.values()), element("br"))


def player(run: Records, colours: Colours) -> Html:
    """The eigenvalue over the epochs beside the cells derived at each of them."""
    eigenvalues, changes = points(run.rows, "eigenvalue"), run.changes()
    if not eigenvalues or not changes:
        return EMPTY
    each = -(-len(changes) // _DRAWN)
    shown = [*changes[:-1:each], changes[-1]]
    drawn = [(epoch, draw(Architecture(run.space, genotype), colours)) for epoch, genotype in shown]
    last = run.rows[-1]["epoch"]
    found = eigenvalue_player(eigenvalues, drawn, BLUE, last, run.ending()[-1]["epoch"])
    note = element("p", f"Drawn: {len(shown)} of {len(changes)} genotypes.") if each > 1 else EMPTY
    return joined((note, found))


def history(run: Records, colours: Colours) -> Html:
    """What every edge of the derived cells was, epoch by epoch."""
    rows, charts = run.derived(), []
    for kind, title in run.space.kinds.items() if rows else ():
        cell = run.space.cell_of(kind)
        edges = defaultdict(lambda: [""] * len(rows))
        for column, row in enumerate(rows):
            for edge, op in by_edge(run.cells(row["genotype"])[kind][0], cell).items():
                edges[edge][column] = op
        bars = [(subscripted(cell.arrow(source, target)), edges[target, source]) for target, source in sorted(edges)]
        known = {name: colours.get(name.partition(" + ")[0], BLUE) for _, values in bars for name in values}
        charts.append(span_chart(title.capitalize(), bars, known, first=rows[0]["epoch"]))
    return element("div", *charts, class_="spans") if charts else EMPTY
