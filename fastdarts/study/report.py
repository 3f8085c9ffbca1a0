"""The page and the figure of a study, from its study.json alone."""

import statistics
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypedDict

from fastdarts.errors import FastdartsError
from fastdarts.report.charts import Line, drawing_of_charts, line_chart
from fastdarts.report.colours import BLUE, GREY, ORANGE
from fastdarts.report.curves import mean_line
from fastdarts.report.drawing import draw_cell, subscripted
from fastdarts.report.findings import Finding, findings_block
from fastdarts.report.markup import Html, element, joined
from fastdarts.report.page import card, fact_tables, html_page, section, sortable_table
from fastdarts.report.words import CARDS, CHARTS, SECTIONS
from fastdarts.runs.stored import check, read_table
from fastdarts.runs.writer import atomic_write
from fastdarts.spaces.cells.robust import TINY
from fastdarts.tasks.commands import command

STUDY, FIGURE = "study.json", "regret.svg"
FOLLOWS = 0.3
"""Kendall's tau from which on a one-shot ranking says something about the trained one; 0 is chance."""
LATER = 0.5
"""Points by which the regret at the end may be above the lowest on the way."""
Found = dict[str, Any]


class _Settings(TypedDict):
    dataset: str
    seeds: int
    search_seeds: int
    method: str


_Some = range(1, 10**6)
_Errors = Annotated[list[float], _Some]


class _Architecture(TypedDict):
    number: int
    operations: Annotated[list[Annotated[list[str], range(2, 3)]], range(len(TINY.kinds), len(TINY.kinds) + 1)]
    test_errors: _Errors
    test_error: float
    test_error_std: float | None
    one_shot_errors: _Errors


class _Search(TypedDict):
    folder: str
    epochs: Annotated[list[Annotated[int, range(10**9)]], _Some]
    regrets: _Errors
    valid_errors: _Errors
    architecture: int
    regret: float
    one_shot_tau: float | None


class _Study(TypedDict):
    settings: _Settings
    environment: dict[str, Any]
    architectures: Annotated[list[_Architecture], _Some]
    searches: Annotated[list[_Search], _Some]
    mean_regret: float
    seeds_tau: float | None
    training_seconds: float
    search_seconds: float


def write_study(folder: Path) -> Path:
    """Write regret.svg and report.html of the study in ``folder``; return the path of the latter.

    Raises :class:`FastdartsError` if study.json is missing or damaged.
    """
    found = _read(folder / STUDY)
    title = f"The tiny space on {found['settings']['dataset']}"
    charts = [("Test regret of the architecture derived now, points", " points", _regret(found))]
    charts.append(("Validation error of the supernet, %", " %", _errors(found)))
    page = html_page(f"{title}: study · fastdarts", _body(found, title, folder))
    figure = drawing_of_charts(title, charts)
    atomic_write(folder / FIGURE, figure.encode())
    atomic_write(folder / "report.html", page.encode())
    return folder / "report.html"


def _read(path: Path) -> Found:
    found = read_table(path)
    if found is None:
        raise FastdartsError(f"cannot read {path} (No such file or directory): finish the study first")
    check(found, _Study, path, "run the study again")
    numbers = {architecture["number"] for architecture in found["architectures"]}
    for search in found["searches"]:
        if search["architecture"] not in numbers:
            raise FastdartsError(
                f"{path} is damaged: no architecture has number {search['architecture']}: run the study again"
            )
        if len({len(search[key]) for key in ("epochs", "regrets", "valid_errors")}) > 1:
            raise FastdartsError(
                f"{path} is damaged: a search has another number of epochs than of errors: run the study again"
            )
        if any(after <= before for before, after in pairwise(search["epochs"])):
            raise FastdartsError(f"{path} is damaged: the epochs of a search do not ascend: run the study again")
        search["epochs"] = [epoch + 1 for epoch in search["epochs"]]  # as people count
    return found


def extremes(found: Found) -> dict[str, Found]:
    """The best, the median and the worst of the architectures."""
    ranked = found["architectures"]
    return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, or the only value."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def spelled(architecture: Found) -> str:
    """normal: sep_conv_3x3, skip_connect; reduction: ..., the sources c_{k-2} and c_{k-1} in this order."""
    names = (title.removesuffix(" cell") for title in TINY.kinds.values())
    return "; ".join(f"{n}: {', '.join(o)}" for n, o in zip(names, architecture["operations"], strict=True))


def study_text(found: Found) -> str:
    """What a terminal shows of a study."""
    lines = [f"{name:7} {spread(a['test_errors'])} %  {spelled(a)}" for name, a in extremes(found).items()]
    final, lowest = _regrets(found)
    regret = f"regret  {spread(final)} points at the end, {spread(lowest)} at its lowest, "
    lines.append(f"{regret}{found['mean_regret']:.2f} of an architecture at random")
    if taus := correlations(found):
        lines.append(f"tau     {spread(taus)} between one-shot and test error")
    if found["seeds_tau"] is not None:
        lines.append(f"tau     {found['seeds_tau']:.2f} between the test errors of two seeds")
    return "\n".join(lines)


def _regrets(found: Found) -> tuple[list[float], list[float]]:
    """Of each search, the regret of its result and the lowest on the way."""
    return [search["regret"] for search in found["searches"]], [min(search["regrets"]) for search in found["searches"]]


def correlations(found: Found) -> list[float]:
    """Of each search, Kendall's tau between one-shot error and test error, where there is one."""
    return [search["one_shot_tau"] for search in found["searches"] if search["one_shot_tau"] is not None]


def _over_seeds(found: Found, key: str, name: str, colour: str) -> list[Line]:
    """A faint line per search and the mean of those that have the epoch, with their standard deviation."""
    each = [list(zip(search["epochs"], search[key], strict=True)) for search in found["searches"]]
    faint = [Line("", colour, line, faint=True) for line in each] if len(each) > 1 else []
    return faint + mean_line(each, name, colour)


def _regret(found: Found) -> list[Line]:
    ends = sorted({epoch for search in found["searches"] for epoch in search["epochs"]})
    ends = ends[:1] + ends[-1:]
    chance = Line("an architecture at random", GREY, [(epoch, found["mean_regret"]) for epoch in ends], dashed=True)
    return [*_over_seeds(found, "regrets", "regret", ORANGE), chance]


def _errors(found: Found) -> list[Line]:
    return _over_seeds(found, "valid_errors", "validation error", BLUE)


def _body(found: Found, title: str, folder: Path) -> Html:
    settings = found["settings"]
    about = f"{len(found['architectures'])} architectures, {settings['seeds']} trainings each, and "
    about += f"{settings['search_seeds']} searches by {settings['method']}"
    sections = {
        "What this says": findings_block(_findings(found, folder)),
        "The search": element("div", _search_charts(found), class_="charts"),
        "All architectures": joined((element("div", _rank_charts(found), class_="charts"), _table(found))),
        "Best and worst": _drawings(found),
        "Searches": _searches(found),
        "Settings and environment": fact_tables({title: found[title] for title in ("settings", "environment")}),
    }
    header = element("header", element("h1", title), element("p", about))
    cards = element("div", *_cards(found), class_="cards")
    found_sections = (section(heading, content, SECTIONS.get(heading, "")) for heading, content in sections.items())
    return joined((header, cards, *found_sections), "\n")


def _findings(found: Found, folder: Path) -> Iterator[Finding]:
    """What the numbers of the study say."""
    settings = found["settings"]
    again = command("study", "tiny", "--resume", folder)
    final, lowest = map(statistics.fmean, _regrets(found))
    chance, taus = found["mean_regret"], correlations(found)
    if final >= chance:
        yield Finding(
            "warning",
            f"The searches are no better than chance: their regret is {final:.2f} points, and that of an architecture "
            f"at random {chance:.2f}.",
            "Search for another number of epochs or with another method, in a folder of its own.",
            "The mean regret at the end is at least the mean over all architectures.",
            command("study", "tiny", "--config", folder / "config.toml", "--run", "NEW", "--search-epochs", "100"),
        )
    if final - lowest >= LATER:
        yield Finding(
            "warning",
            f"The searches went past their best: their regret was {lowest:.2f} points at its lowest, and is "
            f"{final:.2f} at the end.",
            "Stop earlier: the chart of the regret shows where.",
            f"The mean regret at the end is at least {LATER:g} points above the mean of the lowest ones.",
        )
    if taus and statistics.fmean(taus) < FOLLOWS:
        yield Finding(
            "note",
            f"The supernet ranks architectures hardly as training does (tau {statistics.fmean(taus):.2f}): its errors "
            "do not tell which one is good.",
            "Train more than one architecture from scratch before you choose.",
            f"The mean of Kendall's tau is below {FOLLOWS:g}.",
        )
    if settings["seeds"] > 1 and found["seeds_tau"] is not None and found["seeds_tau"] < FOLLOWS:
        yield Finding(
            "note",
            f"Two trainings of the same architectures rank them hardly alike (tau {found['seeds_tau']:.2f}): noise "
            "hides the differences.",
            "Train for more epochs, on more images, or with more seeds. What is done already is not done again.",
            f"Kendall's tau between the seeds is below {FOLLOWS:g}.",
            again,
        )


def _cards(found: Found) -> Iterator[Html]:
    for name, architecture in extremes(found).items():
        errors = spread(architecture["test_errors"])
        label = f"{name.capitalize()} test error"
        yield card(label, f"{errors} %", spelled(architecture), CARDS[label])
    final, lowest = _regrets(found)
    yield card(
        "Regret at the end",
        f"{spread(final)} points",
        f"an architecture at random: {found['mean_regret']:.2f}",
        CARDS["Regret at the end"],
    )
    yield card("Lowest on the way", f"{spread(lowest)} points", "", CARDS["Lowest on the way"])
    if taus := correlations(found):
        yield card(
            "One-shot ranking",
            f"τ = {spread(taus)}",
            "Kendall, one-shot against trained error",
            CARDS["One-shot ranking"],
        )
    if found["seeds_tau"] is not None:
        yield card(
            "Trained ranking",
            f"τ = {found['seeds_tau']:.2f}",
            "Kendall, one seed against another, mean",
            CARDS["Trained ranking"],
        )
    seconds = found["training_seconds"] + found["search_seconds"]
    yield card("Time", f"{seconds / 60:.1f} min", "of all processes together, validation included")


def _search_charts(found: Found) -> Html:
    charts = (
        ("Test regret of the architecture derived now", _regret(found), " points"),
        ("Validation error of the supernet", _errors(found), " %"),
    )
    return joined(line_chart(title, lines, unit, about=CHARTS[title]) for title, lines, unit in charts)


def _rank_charts(found: Found) -> Html:
    ranked = found["architectures"]
    trained = [(rank, a["test_error"]) for rank, a in enumerate(ranked, 1)]
    band = [
        (rank, a["test_error"] - a["test_error_std"], a["test_error"] + a["test_error_std"])
        for rank, a in enumerate(ranked, 1)
        if a["test_error_std"] is not None
    ]
    shared = [(rank, statistics.fmean(a["one_shot_errors"])) for rank, a in enumerate(ranked, 1)]
    charts = (
        # dots, as neighbours in the ranking have nothing else in common
        (
            "Test error, trained from scratch",
            Line("mean ± std" if band else "error", ORANGE, trained, band=band, loose=True),
        ),
        (
            "One-shot error, with the weights of the supernets",
            Line("mean of the searches", BLUE, shared, loose=True),
        ),
    )
    return joined(line_chart(title, [line], " %", "rank", about=CHARTS[title]) for title, line in charts)


def _table(found: Found) -> Html:
    head = subscripted("c_{k-2} + c_{k-1}")
    titles = [f"{title.capitalize()}, {head}" for title in TINY.kinds.values()]
    rows = [
        (rank, spread(a["test_errors"]), spread(a["one_shot_errors"]), *map(" + ".join, a["operations"]))
        for rank, a in enumerate(found["architectures"], 1)
    ]
    return sortable_table(["Rank", "Test error, %", "One-shot error, %", *titles], rows, "candidates")


def _drawings(found: Found) -> Html:
    shown = []
    for name, architecture in extremes(found).items():
        for title, operations in zip(TINY.kinds.values(), architecture["operations"], strict=True):
            edges = [(op, source) for source, op in enumerate(operations)]
            shown.append(element("div", draw_cell(edges, [2], f"{name.capitalize()}: {title}")))
    return element("div", *shown, class_="drawings")


def _searches(found: Found) -> Html:
    by_number = {a["number"]: (rank, a) for rank, a in enumerate(found["architectures"], 1)}
    heads = ["Search", "Regret, points", "Lowest on the way", "Rank", "One-shot τ", "Architecture at the end"]
    rows = []
    for search in found["searches"]:
        rank, architecture = by_number[search["architecture"]]
        lowest = min(search["regrets"])
        when = search["epochs"][search["regrets"].index(lowest)]
        tau = "" if search["one_shot_tau"] is None else f"{search['one_shot_tau']:.2f}"
        regret = f"{search['regret']:.2f}"
        lowest = f"{lowest:.2f} in epoch {when}"
        rows.append((search["folder"], regret, lowest, rank, tau, spelled(architecture)))
    return sortable_table(heads, rows)
