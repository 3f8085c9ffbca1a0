"""The report of a run: its folder told in one self-contained page, most important things first."""

import time
from collections.abc import Iterator
from pathlib import Path

from fastdarts.nn.operations import SKIP_CONNECTIONS
from fastdarts.report.charts import amount, number
from fastdarts.report.colours import candidate_colours
from fastdarts.report.curves import curves
from fastdarts.report.derived import candidates, cells, decisions, history, operations, player
from fastdarts.report.findings import findings, findings_block
from fastdarts.report.markup import EMPTY, Html, element, joined
from fastdarts.report.mixing import mixing
from fastdarts.report.page import card, fact_tables, html_page, section
from fastdarts.report.queries import best_so_far, is_queries, queries
from fastdarts.report.queries import title as title_of_metric
from fastdarts.report.reader import Records, last, points, read_records
from fastdarts.report.tested import read_tested, tested_section
from fastdarts.report.words import CARDS, SECTIONS
from fastdarts.runs.stored import is_number
from fastdarts.runs.writer import atomic_write

_PAUSE, _PATIENCE = 20, 3600
"""Seconds between two looks of the page at a run at work, and without news after which it no longer looks, unless one
epoch takes longer."""


def write_report(run: Path) -> Path:
    """Write report.html into the folder `run` of a search or an evaluation, finished or not; return its path.

    Raises FastdartsError when `run` is not such a folder or when one of its files is damaged.
    """
    records = read_records(run)
    path = run / "report.html"
    atomic_write(path, html_page(_title(records), _body(records)).encode())
    return path


def _title(run: Records) -> str:
    """What a browser's tab shows: the run, and how far it is."""
    state = "" if run.result else " (unfinished)"
    return f"{run.folder.resolve().name}{state}: {_kind(run)} · fastdarts"


def _kind(run: Records) -> str:
    return "evaluation" if run.is_evaluation else "projection" if "supernet" in run.config else "search"


def _body(run: Records) -> Html:
    about = [_kind(run)]
    learned_from = "table" if "table" in run.config else "dataset"
    about += [run.config.get("method"), run.config.get(learned_from), run.environment.get("started")]
    colours = candidate_colours(operations(run))
    sections = {
        "Cells": cells(run, colours),
        "Curves": curves(run),
        "Queries": queries(run),
        "Test images": tested_section(read_tested(run.folder)) if run.is_evaluation else EMPTY,
        "Candidates": candidates(run),
        "Decisions": decisions(run),
        "Mixing weights": joined(mixing(run, kind, colours) for kind in run.space.kinds),
        "Eigenvalue and genotype": player(run, colours),
        "The genotype over the epochs": history(run, colours),
        "Settings and environment": _tables(run),
    }
    about = element("p", joined((part for part in about if part), " · "))
    header = element("header", element("h1", run.folder.resolve().name), " ", _status(run), "\n", about, _follow(run))
    cards = element("div", *_cards(run), class_="cards")
    says = "What this says"
    found = section(says, findings_block(findings(run)), SECTIONS[says])
    others = (section(title, content, SECTIONS[title]) for title, content in sections.items())
    return joined((header, cards, *filter(None, (found, *others))), "\n")


def _status(run: Records) -> Html:
    if run.result:
        return element("span", "finished", class_="badge good")
    done = "no epoch is complete yet"
    if run.rows:
        part, rows = list(run.trainings().items())[-1]
        done = f"{len(rows)} of {run.config.get('epochs', '?')} epochs"
        if is_queries(run):
            done = f"{len(rows)} of {run.config.get('queries', '?')} queries"
        done = f"{run.parts} {part}, {done}" if run.parts else done
    return element("span", f"unfinished: {done}", class_="badge")


def _follow(run: Records) -> Html:
    """What makes the page of an unfinished run look for news."""
    if run.result:
        return EMPTY
    slowest = max((value for _, value in points(run.rows, "seconds")), default=0.0)
    when = {"data_written": int(time.time()), "data_pause": _PAUSE, "data_patience": int(max(_PATIENCE, 3 * slowest))}
    text = "This page is written after every epoch and follows the run while it is open."
    return element("p", text, class_="follow", **when)


def _cards(run: Records) -> Iterator[Html]:
    def one(label: str, value: str, note: str = "", exact: str | None = None) -> Html:
        return card(label, value, note, CARDS.get(label, ""), exact)

    yield from (one(*facts) for facts in (_test_error(run) if run.is_evaluation else _valid_error(run)))
    rows = run.ending()
    if gaps := points(rows, "discretisation_gap"):
        error = last(rows, "discretised_error")
        note = "" if error is None else f"discretised error {number(error)} %"
        yield one("Discretisation gap", f"{number(gaps[-1][1])} points", note)
    if run.genotype and not run.space.cell.made_of:  # a cell for images, which may skip
        skips = [sum(op in SKIP_CONNECTIONS for op, *_ in edges) for edges, _ in run.cells(run.genotype).values()]
        yield one("Skip connections", " + ".join(map(str, skips)), _kinds(run, " + "))
    entropies = [value for kind in run.space.kinds if (value := last(rows, f"entropy_{kind}")) is not None]
    if entropies:
        yield one("Mean entropy", " / ".join(map(number, entropies)), f"nats, {_kinds(run, ' / ')}")
    for event in run.result.get("rollbacks", ()):
        note = f"the eigenvalue's rise was seen in epoch {event['detected']}"
        yield one("Went back", f"to epoch {event['epoch']}", note)
    if changes := [change for change in run.changes() if change[0] <= rows[-1]["epoch"]]:
        count = len(changes) - 1
        note = f"the last in epoch {changes[-1][0]}" if count else ""
        yield one("Genotype", f"{count or 'no'} change{'s' * (count != 1)}", note)
    size = run.environment | run.result
    if is_number(size.get("parameters")):
        yield one("Parameters", amount(size["parameters"]), exact=f"{size['parameters']:,}")
    if is_number(size.get("macs")):
        yield one("Multiply-adds", amount(size["macs"]), "for one image", exact=f"{size['macs']:,}")
    if times := points(run.rows, "seconds"):
        seconds = sum(value for _, value in times)
        each = "query" if is_queries(run) else "epoch"
        yield one("Time", _duration(seconds), f"{_duration(seconds / len(times))} per {each}")


def _kinds(run: Records, separator: str) -> str:
    """normal + reduction cell"""
    return separator.join(title.removesuffix(" cell") for title in run.space.kinds.values()) + " cell" * (
        len(run.space.kinds) > 1
    )


def _test_error(run: Records) -> Iterator[tuple[str, ...]]:
    error, spread = run.result.get("test_error"), run.result.get("test_error_std")
    _, title, unit = metric = run.task.metric
    title = f"Test {title.removeprefix('valid ')}"
    if error is not None:
        each = run.result.get("test_errors", ())
        alone = [metric.number(value).removesuffix(unit) for value in each]
        note = f"errors of the {len(each)} seeds: {', '.join(alone)}{unit}" if len(each) > 1 else ""
        around = f" ± {metric.number(spread).removesuffix(unit)}" if spread is not None else ""
        yield title, metric.number(error).removesuffix(unit) + around + unit, note
    elif (error := last(run.rows, "test_error")) is not None:
        yield f"{title} so far", f"{number(error)}{unit}"
    elif perplexity := run.result.get("test_perplexity"):
        valid = run.result.get("valid_perplexity")
        yield "Test perplexity", number(perplexity), "" if valid is None else f"valid {number(valid)}"
    else:
        yield from _valid_error(run)


def _valid_error(run: Records) -> Iterator[tuple[str, ...]]:
    name, title, unit = run.task.metric
    if run.parts and (ranking := run.ranking()):
        (best, sample), (worst, _) = ranking[0], ranking[-1]
        note = f"candidate {sample} of {len(ranking)}; the worst has {number(worst)}{unit}"
        yield f"Best {title}", f"{number(best)}{unit}", note
        return
    if is_queries(run):
        if best := best_so_far(run):
            query = next(query for query, metric in best if metric == best[-1][1])
            yield "Best metric", number(best[-1][1]), f"{title_of_metric(run)} of query {query} of {len(run.rows)}"
        return
    if found := points(run.rows, name):
        epoch, lowest = min(found, key=lambda point: point[1])
        ending = last(run.ending(), name)
        yield title.capitalize(), f"{number(ending)}{unit}", f"lowest {number(lowest)}{unit} in epoch {epoch}"


def _tables(run: Records) -> Html:
    environment = {key: value for key, value in run.environment.items() if key != "primitives"}
    return fact_tables({"config.toml": run.config, "environment.json": environment})


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{number(seconds)} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
