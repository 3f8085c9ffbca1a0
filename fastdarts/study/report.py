"""The page and the figure of a study, from its study.json alone."""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypedDict

from fastdarts.errors import FastdartsError
from fastdarts.report.charts import Line, drawing_of_charts, line_chart
from fastdarts.report.drawing import draw_cell
from fastdarts.report.markup import Html, element, joined
from fastdarts.report.page import fact_tables, html_page, table_row
from fastdarts.runs.stored import check, read_table
from fastdarts.runs.writer import atomic_write
from fastdarts.spaces.cells.robust import TINY

STUDY, FIGURE = "study.json", "regret.svg"
BLUE, ORANGE, GREY = "#2563eb", "#d97706", "#64748b"
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
    charts = [("Test regret of the architecture derived now, points", _regret(found))]
    charts.append(("Validation error of the supernet, %", _errors(found)))
    figure, page = drawing_of_charts(title, charts), html_page(f"{title}: fastdarts study", _body(found, title))
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
    lines, at = [], defaultdict(list)
    for search in found["searches"]:
        points = list(zip(search["epochs"], search[key], strict=True))
        lines.append(Line("", colour, points, faint=True))
        for epoch, value in points:
            at[epoch].append(value)
    means = [(epoch, statistics.fmean(at[epoch])) for epoch in sorted(at)]
    band = [(e, m - (s := statistics.stdev(at[e])), m + s) for e, m in means if len(at[e]) > 1]
    if len(found["searches"]) == 1:
        return [Line(name, colour, means)]
    return [*lines, Line(f"{name}, mean ± std of {len(lines)} searches", colour, means, band=band)]


def _regret(found: Found) -> list[Line]:
    ends = sorted({epoch for search in found["searches"] for epoch in search["epochs"]})
    ends = ends[:1] + ends[-1:]
    chance = Line("an architecture at random", GREY, [(epoch, found["mean_regret"]) for epoch in ends])
    return [*_over_seeds(found, "regrets", "regret", ORANGE), chance]


def _errors(found: Found) -> list[Line]:
    return _over_seeds(found, "valid_errors", "validation error", BLUE)


def _body(found: Found, title: str) -> Html:
    settings = found["settings"]
    about = f"{len(found['architectures'])} architectures, {settings['seeds']} trainings each, and "
    about += f"{settings['search_seeds']} searches by {settings['method']}"
    sections = {
        "The search": element("div", _search_charts(found), class_="charts"),
        "All architectures": joined((element("div", _rank_charts(found), class_="charts"), _table(found))),
        "Best and worst": _drawings(found),
        "Searches": _searches(found),
        "Settings and environment": fact_tables({title: found[title] for title in ("settings", "environment")}),
    }
    header = element("header", element("h1", title), element("p", about))
    cards = element("div", *_cards(found), class_="cards")
    sections = (element("section", element("h2", heading), content) for heading, content in sections.items())
    return joined((header, cards, *sections), "\n")


def _cards(found: Found) -> Iterator[Html]:
    def card(label: str, value: str, note: str = "") -> Html:
        return element("div", element("span", label), element("strong", value), element("small", note))

    for name, architecture in extremes(found).items():
        errors = spread(architecture["test_errors"])
        yield card(f"{name.capitalize()} test error", f"{errors}\u00a0%", spelled(architecture))
    final, lowest = _regrets(found)
    yield card("Regret at the end", f"{spread(final)} points", f"an architecture at random: {found['mean_regret']:.2f}")
    yield card("Lowest on the way", f"{spread(lowest)} points")
    if taus := correlations(found):
        yield card("One-shot ranking", f"τ = {spread(taus)}", "Kendall, one-shot against trained error")
    if found["seeds_tau"] is not None:
        yield card("Trained ranking", f"τ = {found['seeds_tau']:.2f}", "Kendall, one seed against another, mean")
    seconds = found["training_seconds"] + found["search_seconds"]
    yield card("Time", f"{seconds / 60:.1f} min", "of all processes together, validation included")


def _search_charts(found: Found) -> Html:
    regret = line_chart("Test regret of the architecture derived now", _regret(found), " points")
    return joined((regret, line_chart("Validation error of the supernet", _errors(found), " %")))


def _rank_charts(found: Found) -> Html:
    ranked = found["architectures"]
    trained = [(rank, a["test_error"]) for rank, a in enumerate(ranked, 1)]
    band = [
        (rank, a["test_error"] - a["test_error_std"], a["test_error"] + a["test_error_std"])
        for rank, a in enumerate(ranked, 1)
        if a["test_error_std"] is not None
    ]
    shared = [(rank, statistics.fmean(a["one_shot_errors"])) for rank, a in enumerate(ranked, 1)]
    name = "mean ± std" if band else "error"
    chart = line_chart("Test error, trained from scratch", [Line(name, ORANGE, trained, band=band)], " %", "rank")
    title = "One-shot error, with the weights of the supernets"
    return joined((chart, line_chart(title, [Line("mean of the searches", BLUE, shared)], " %", "rank")))


def _table(found: Found) -> Html:
    titles = [f"{title.capitalize()}, c_{{k-2}} + c_{{k-1}}" for title in TINY.kinds.values()]
    rows = [table_row(["Rank", "Test error, %", "One-shot error, %", *titles], "th")]
    for rank, a in enumerate(found["architectures"], 1):
        cells = [" + ".join(operations) for operations in a["operations"]]
        rows.append(table_row([rank, spread(a["test_errors"]), spread(a["one_shot_errors"]), *cells]))
    return element("div", element("table", *rows, class_="candidates"), class_="wide")


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
    rows = [table_row(heads, "th")]
    for search in found["searches"]:
        rank, architecture = by_number[search["architecture"]]
        lowest = min(search["regrets"])
        when = search["epochs"][search["regrets"].index(lowest)]
        tau = "" if search["one_shot_tau"] is None else f"{search['one_shot_tau']:.2f}"
        regret = f"{search['regret']:.2f}"
        lowest = f"{lowest:.2f} in epoch {when}"
        rows.append(table_row([search["folder"], regret, lowest, rank, tau, spelled(architecture)]))
    return element("div", element("table", *rows), class_="wide")
