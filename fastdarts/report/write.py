"""The report of a run: its folder told in one self-contained page, most important things first."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastdarts.report.charts import Line, line_chart, number, patch, primitive_colours, small_chart, span_chart
from fastdarts.report.drawing import draw, draw_cell
from fastdarts.report.markup import EMPTY, Html, element, joined
from fastdarts.report.page import fact_tables, html_page, table_row
from fastdarts.report.player import SCRIPT, eigenvalue_player
from fastdarts.report.reader import Records, Row, last, points, read_records
from fastdarts.runs.stored import is_number
from fastdarts.runs.writer import METRICS, atomic_write
from fastdarts.spaces import Architecture
from fastdarts.spaces.topology import Entry, Topology
from fastdarts.tasks.task import find_task

BLUE, VIOLET, ORANGE, GREEN = "#2563eb", "#8b3fe0", "#d97706", "#15803d"


def write_report(run: Path) -> Path:
    """Write report.html into the folder `run` of a search or an evaluation, finished or not; return its path.

    Raises FastdartsError when `run` is not such a folder or when one of its files is damaged.
    """
    records = read_records(run)
    path = run / "report.html"
    body = _body(records)
    script = SCRIPT if 'class="player"' in body else ""
    atomic_write(path, html_page(f"{run.resolve().name}: fastdarts report", body, script).encode())
    return path


def _body(run: Records) -> Html:
    about = ["evaluation" if run.is_evaluation else "search"]
    about += [run.config.get("method"), run.config.get("dataset"), run.environment.get("started")]
    sections = {
        "Cells": _cells(run),
        "Curves": _curves(run),
        "Candidates": _candidates(run),
        "Decisions": _decisions(run),
        "Mixing weights": joined(_mixing(run, kind) for kind in run.space.kinds),
        "Eigenvalue and genotype": _player(run),
        "The genotype over the epochs": _history(run),
        "Settings and environment": _tables(run),
    }
    about = element("p", joined((part for part in about if part), " · "))
    header = element("header", element("h1", run.folder.resolve().name), " ", _status(run), "\n", about)
    cards = element("div", *_cards(run), class_="cards")
    found = (element("section", element("h2", title), content) for title, content in sections.items() if content)
    return joined((header, cards, *found), "\n")


def _status(run: Records) -> Html:
    if run.result:
        return element("span", "finished", class_="badge good")
    done = "no epoch is complete yet"
    if run.rows:
        part, rows = list(run.trainings().items())[-1]
        done = f"{len(rows)} of {run.config.get('epochs', '?')} epochs"
        done = f"{run.parts} {part}, {done}" if run.parts else done
    return element("span", f"unfinished: {done}", class_="badge")


def _cards(run: Records) -> Iterator[Html]:
    def card(label: str, value: str, note: str = "") -> Html:
        value, note = (text.replace(" %", "\u00a0%") for text in (value, note))
        return element("div", element("span", label), element("strong", value), element("small", note))

    yield from (card(*facts) for facts in (_test_error(run) if run.is_evaluation else _valid_error(run)))
    rows = _ending(run)
    if gaps := points(rows, "discretisation_gap"):
        error = last(rows, "discretised_error")
        note = "" if error is None else f"discretised error {number(error)} %"
        yield card("Discretisation gap", f"{number(gaps[-1][1])} points", note)
    if run.genotype and not run.space.cell.made_of:  # a cell for images, which may skip
        skips = [sum(op == "skip_connect" for op, *_ in edges) for edges, _ in run.cells(run.genotype).values()]
        yield card("Skip connections", " + ".join(map(str, skips)), _kinds(run, " + "))
    entropies = [value for kind in run.space.kinds if (value := last(rows, f"entropy_{kind}")) is not None]
    if entropies:
        yield card("Mean entropy", " / ".join(map(number, entropies)), f"nats, {_kinds(run, ' / ')}")
    for event in run.result.get("rollbacks", ()):
        note = f"the eigenvalue's rise was seen in epoch {event['detected']}"
        yield card("Went back", f"to epoch {event['epoch']}", note)
    if changes := [change for change in _changes(run) if change[0] <= rows[-1]["epoch"]]:
        count = len(changes) - 1
        note = f"the last in epoch {changes[-1][0]}" if count else ""
        yield card("Genotype", f"{count or 'no'} change{'s' * (count != 1)}", note)
    size = run.environment | run.result
    if is_number(size.get("parameters")):
        yield card("Parameters", f"{size['parameters'] / 1e6:.2f} M")
    if is_number(size.get("macs")):
        yield card("Multiply-adds", f"{size['macs'] / 1e6:.0f} M", "for one image")
    if times := points(run.rows, "seconds"):
        seconds = sum(value for _, value in times)
        yield card("Time", _duration(seconds), f"{_duration(seconds / len(times))} per epoch")


def _ending(run: Records) -> list[Row]:
    """The rows up to that of the result, which a search that went back to end there has in an epoch before the last."""
    events = run.result.get("rollbacks")
    if not events or "weight_decay" in events[-1]:  # none, or it went on from there with more L2
        return run.rows
    return [row for row in run.rows if row["epoch"] <= events[-1]["epoch"]]


def _kinds(run: Records, separator: str) -> str:
    """normal + reduction cell"""
    return separator.join(title.removesuffix(" cell") for title in run.space.kinds.values()) + " cell" * (
        len(run.space.kinds) > 1
    )


def _test_error(run: Records) -> Iterator[tuple[str, ...]]:
    error, spread = run.result.get("test_error"), run.result.get("test_error_std")
    if error is not None:
        each = [number(value) for value in run.result.get("test_errors", ())]
        note = "seeds: " + ", ".join(each) if len(each) > 1 else ""
        yield "Test error", f"{error:.2f}" + (f" ± {spread:.2f}" if spread is not None else "") + " %", note
    elif (error := last(run.rows, "test_error")) is not None:
        yield "Test error so far", f"{number(error)} %"
    elif perplexity := run.result.get("test_perplexity"):
        valid = run.result.get("valid_perplexity")
        yield "Test perplexity", number(perplexity), "" if valid is None else f"valid {number(valid)}"
    else:
        yield from _valid_error(run)


def _valid_error(run: Records) -> Iterator[tuple[str, ...]]:
    if run.parts and (ranking := run.ranking()):
        (best, sample), (worst, _) = ranking[0], ranking[-1]
        note = f"of {len(ranking)} candidates number {sample}; worst {number(worst)} %"
        yield "Best valid error", f"{number(best)} %", note
        return
    name, title, unit = find_task(run.space.task).metric
    if found := points(run.rows, name):
        epoch, lowest = min(found, key=lambda point: point[1])
        ending = last(_ending(run), name)
        yield title.capitalize(), f"{number(ending)}{unit}", f"lowest {number(lowest)}{unit} in epoch {epoch}"


def _cells(run: Records) -> Html:
    if not run.genotype:
        return EMPTY
    drawings = (
        draw_cell(*cell, run.space.kinds[kind].capitalize(), run.space.cell)
        for kind, cell in run.cells(run.genotype).items()
    )
    note = EMPTY if run.result or run.is_evaluation else element("p", "As they would be derived now.")
    shown = element("div", *(element("div", drawing) for drawing in drawings), class_="drawings")
    return joined((note, shown, element("pre", run.genotype, title="A click selects it")))


def _curves(run: Records) -> Html:
    # what is tested at the end only is judged on validation data before
    test = "test" if points(run.rows, "test_loss") and not points(run.rows, "valid_loss") else "valid"
    kinds = [(kind, title.removesuffix(" cell")) for kind, title in run.space.kinds.items()]
    metric, title, unit = (text.removeprefix("valid") for text in find_task(run.space.task).metric)
    wanted = (
        ("Loss", "", ("train_loss", "train"), (f"{test}_loss", test), ("arch_loss", "alpha steps")),
        (
            title.strip().capitalize(),
            unit,
            (f"train{metric}", "train"),
            (f"{test}{metric}", test),
            ("discretised_error", "discretised"),
            ("supernet_error_batch_stats", "batch statistics"),
        ),
        ("Discretisation gap", " points", ("discretisation_gap", "discretised − supernet")),
        ("Mean entropy of an edge", " nats", *((f"entropy_{kind}", name) for kind, name in kinds)),
        ("Skip connections", "", *((f"skip_{kind}", name) for kind, name in kinds)),
        ("Layer alignment", "", ("alignment", "cosine"), ("alignment_signed", "signed")),
        ("Finite-difference product", "", ("product_cosine", "cosine with the exact one")),
        ("Its relative error", "", ("product_error", "‖difference − exact‖ / ‖exact‖")),
        ("Learning rate", "", ("lr", "weights")),
        ("L2 on the weights", "", ("weight_decay", "weight decay")),
        ("Drop path", "", ("drop_path_prob", "probability")),
    )
    charts = []
    for title, unit, *curves in wanted:
        lines = [
            line
            for (key, name), colour in zip(curves, (BLUE, ORANGE, GREEN, VIOLET), strict=False)
            for line in _lines(run, key, name, colour)
        ]
        charts.append(line_chart(title, lines, unit))
    keys = dict.fromkeys(key for _, _, *curves in wanted for key, _ in curves)
    others = dict.fromkeys(key for row in run.rows for key in row if is_number(row[key]) and key not in keys)
    for key in others:  # what a monitor of a plug-in measures
        if key not in ("epoch", "seconds", "eigenvalue", run.parts):
            charts.append(line_chart(key.replace("_", " ").capitalize(), _lines(run, key, key, BLUE)))
    strange = [key for key in keys if any(row.get(key) is not None and not is_number(row[key]) for row in run.rows)]
    text = f"Left out, as some values in {METRICS} are no usable numbers: {', '.join(strange)}."
    note = element("p", text) if strange else EMPTY
    return joined((note, element("div", *charts, class_="charts") if any(charts) else EMPTY))


def _lines(run: Records, key: str, name: str, colour: str) -> list[Line]:
    """The line of a number; of several trainings a faint one each and the best candidate's or the mean."""
    each = {part: points(rows, key) for part, rows in run.trainings().items()}
    each = {part: line for part, line in each.items() if line}
    longest = max(each.values(), key=len, default=[])
    if all(line == longest[: len(line)] for line in each.values()):  # one training, or a schedule all share
        return [Line(name, colour, longest)]
    faint = [Line("", colour, line, faint=True) for line in each.values()]
    if run.parts == "sample":
        best = [sample for _, sample in run.ranking()[:1] if sample in each]
        return faint + [Line(f"{name}, candidate {sample}", colour, each[sample]) for sample in best]
    at = defaultdict(list)
    for epoch, value in (point for line in each.values() for point in line):
        at[epoch].append(value)
    means = [(epoch, statistics.fmean(at[epoch])) for epoch in sorted(at)]
    spreads = [(epoch, mean, statistics.stdev(at[epoch])) for epoch, mean in means if len(at[epoch]) > 1]
    band = [(epoch, mean - spread, mean + spread) for epoch, mean, spread in spreads]
    return [*faint, Line(f"{name}, mean ± std", colour, means, band=band)]


def _candidates(run: Records) -> Html:
    if run.parts != "sample":
        return EMPTY
    trainings, lines = run.trainings(), []
    for error, sample in run.ranking():
        found = run.cells(trainings[sample][-1].get("genotype"))
        cells = [_formulas(found[kind][0], run.space.cell) if found else "" for kind in run.space.kinds]
        lines.append((sample, f"{number(error)} %", *cells))
    return _wide(("Candidate", "Valid error", *map(str.capitalize, run.space.kinds.values())), lines)


def _wide(head: Iterable[object], lines: Sequence[Iterable[object]]) -> Html:
    """A table that scrolls where it is too wide; empty without lines."""
    rows = (table_row(head, "th"), *map(table_row, lines))
    return element("div", element("table", *rows, class_="candidates"), class_="wide") if lines else EMPTY


def _decisions(run: Records) -> Html:
    """What stayed: of a projection with the supernet's error and loss without each of those that could, of greedy
    decisions with the scores of the edge."""
    lines, cell, events = [], run.space.cell, run.result.get("decisions", ())
    scored = any("scores" in event for event in events)
    for event in events:
        kept = event["keeps"]
        if "edge" in event:
            where, name = _edge_name(cell, event["edge"]), str
        else:
            where, name = f"node {event['node']}", cell.name
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
    return _wide(("Epoch", "Cell", "Decided", "Keeps" if scored else "Valid error (loss) without"), lines)


def _edge_name(cell: Topology, row: int) -> str:
    edge = cell.holding(row + 1).edges[row]
    return cell.arrow(edge.source, edge.target)


def _formulas(entries: Sequence[Entry], cell: Topology) -> Html:
    """A line of HTML per node: sep_conv_3x3(c_{k-2}) + skip_connect(0)."""
    terms = defaultdict(list)
    for op, source, target in cell.place(entries):
        terms[target].append(f"{op}({cell.name(source)})")
    return joined(map(" + ".join, terms.values()), element("br"))


def _by_edge(entries: Sequence[Entry], cell: Topology) -> dict[tuple[int, int], str]:
    """By target and source what a derived cell has on that edge: an operation, or several as a sum."""
    found = defaultdict(list)
    for op, source, target in cell.place(entries):
        found[target, source].append(op)
    return {edge: " + ".join(ops) for edge, ops in found.items()}


def _mixing(run: Records, kind: str) -> Html:
    """One small chart per edge, with a line per primitive: a row of charts per node, a column per source."""
    weights = run.weights(kind)
    if not weights or not any(weights[0][1]):
        return EMPTY
    epochs = [epoch for epoch, _ in weights]
    names = _primitives(run, kind, weights[0][1])
    cell = run.space.cell.holding(len(names))
    colours = primitive_colours([name for edge in names for name in edge])
    every = [weight for _, table in weights for edge in table for weight in edge]
    lowest, highest = min(every), max(every)
    kept = _by_edge(run.cells(run.genotype)[kind][0], cell) if run.genotype else {}
    betas = run.edge_weights(kind)
    betas = betas if betas and len(betas[0][1]) == len(names) else []
    charts = []
    for edge, ((target, source, _), primitives) in enumerate(zip(cell.edges, names, strict=False)):
        lines = [
            Line(name, colours[name], [(epoch, table[edge][k]) for epoch, table in weights])
            for k, name in enumerate(primitives)
        ]
        op = kept.get((target, source))
        chosen = element("b", op, style=f"color:{colours.get(op, 'inherit')}") if op else EMPTY
        beta = ()
        if betas:
            line = Line("", BLUE, [(epoch, table[edge]) for epoch, table in betas])
            text = element("span", f"weight of the edge {betas[-1][1][edge]:.3f}")
            beta = text, small_chart([line], (epochs[0], epochs[-1]), (0.0, 1.0))
        heading = element("span", cell.arrow(source, target), chosen)
        chart = small_chart(lines, (epochs[0], epochs[-1]), (lowest, highest))
        look = {"class": "kept" if op else "left", "style": f"grid-column:{source + 1}"}
        charts.append(element("div", heading, chart, *beta, **look))
    legend = (element("span", patch(colours[name]), name) for name in dict.fromkeys(n for edge in names for n in edge))
    columns = f"grid-template-columns:repeat({cell.states - 1}, minmax(130px, 1fr))"
    about = (
        f"Every chart: epochs {epochs[0]} to {epochs[-1]}, weights {lowest:.4g} to {highest:.4g}. Framed: edges of the "
        "derived cell, with what they keep."
        f"{' Below: the weight of the edge among those of its node, 0 to 1.' if betas else ''}"
    )
    return joined(
        (
            element("h3", run.space.kinds[kind].capitalize()),
            element("p", about),
            element("p", *legend, class_="legend"),
            element("div", element("div", *charts, class_="edges", style=columns), class_="wide"),
        )
    )


def _primitives(run: Records, cell: str, table: list[list[float]]) -> list[list[str]]:
    names = run.environment.get("primitives")
    names = names.get(cell) if isinstance(names, dict) else None
    known = isinstance(names, list) and all(isinstance(edge, list) for edge in names)
    if known and [len(edge) for edge in names] == [len(edge) for edge in table]:
        return [[str(name) for name in edge] for edge in names]
    return [[f"primitive {k}" for k in range(len(edge))] for edge in table]


def _derived(run: Records) -> list[Row]:
    """The rows of a search whose genotype was derived from the weights of that epoch."""
    return [row for row in run.rows if "genotype" in row and not run.parts]


def _changes(run: Records) -> list[tuple[int, Any]]:
    """(epoch, genotype) of the first derived genotype and of each that differs from the one before."""
    changes: list[tuple[int, Any]] = []
    for row in _derived(run):
        if not changes or row["genotype"] != changes[-1][1]:
            changes.append((row["epoch"], row["genotype"]))
    return changes


def _player(run: Records) -> Html:
    eigenvalues, changes = points(run.rows, "eigenvalue"), _changes(run)
    if not eigenvalues or not changes:
        return EMPTY
    drawn = [(epoch, draw(Architecture(run.space, genotype))) for epoch, genotype in changes]
    return eigenvalue_player(eigenvalues, drawn, BLUE, run.rows[-1]["epoch"], _ending(run)[-1]["epoch"])


def _history(run: Records) -> Html:
    rows, charts, cell = _derived(run), [], run.space.cell
    for kind, title in run.space.kinds.items() if rows else ():
        edges = defaultdict(lambda: [""] * len(rows))
        for column, row in enumerate(rows):
            for edge, op in _by_edge(run.cells(row["genotype"])[kind][0], cell).items():
                edges[edge][column] = op
        bars = [(cell.arrow(source, target), edges[target, source]) for target, source in sorted(edges)]
        colours = primitive_colours([name for _, values in bars for name in values])
        charts.append(span_chart(title.capitalize(), bars, colours, first=rows[0]["epoch"]))
    return element("div", *charts, class_="spans") if charts else EMPTY


def _tables(run: Records) -> Html:
    environment = {key: value for key, value in run.environment.items() if key != "primitives"}
    return fact_tables({"config.toml": run.config, "environment.json": environment})


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{number(seconds)} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
