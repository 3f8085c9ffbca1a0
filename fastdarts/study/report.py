"""The page and the figure of a study, from its study.json alone."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastdarts.charts import Line, drawing_of_charts, line_chart
from fastdarts.drawing import draw_cell, xml_text
from fastdarts.errors import FastdartsError
from fastdarts.page import html_page
from fastdarts.recorder import atomic_write
from fastdarts.spaces.robust import TINY

STUDY, FIGURE = "study.json", "regret.svg"
BLUE, ORANGE, GREY = "#2563eb", "#d97706", "#64748b"
Found = dict[str, Any]


def write_study(folder: Path) -> Path:
    """Write regret.svg and report.html of the study in ``folder``; return the path of the latter.

    Raises :class:`FastdartsError` if study.json is missing or damaged.
    """
    path = folder / STUDY
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        title = f"The tiny space on {found['settings']['dataset']}"
        charts = [("Test regret of the architecture derived now, points", _regret(found))]
        charts.append(("Validation error of the supernet, %", _errors(found)))
        figure, page = drawing_of_charts(title, charts), html_page(f"{title}: fastdarts study", _body(found, title))
    except OSError as error:
        raise FastdartsError(f"cannot read {path} ({error.strerror}): finish the study first") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FastdartsError(f"{path} is damaged ({type(error).__name__}: {error}): run the study again") from error
    atomic_write(folder / FIGURE, figure.encode())
    atomic_write(folder / "report.html", page.encode())
    return folder / "report.html"


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


def _body(found: Found, title: str) -> str:
    settings = found["settings"]
    about = f"{len(found['architectures'])} architectures, {settings['seeds']} trainings each, and "
    about += f"{settings['search_seeds']} searches by {settings['method']}"
    sections = {
        "The search": f'<div class="charts">{_search_charts(found)}</div>',
        "All architectures": f'<div class="charts">{_rank_charts(found)}</div>{_table(found)}',
        "Best and worst": _drawings(found),
        "Searches": _searches(found),
        "Settings and environment": _facts(found),
    }
    return "\n".join(
        (
            f"<header><h1>{xml_text(title)}</h1><p>{xml_text(about)}</p></header>",
            f'<div class="cards">{"".join(_cards(found))}</div>',
            *(f"<section><h2>{heading}</h2>{content}</section>" for heading, content in sections.items()),
        )
    )


def _cards(found: Found) -> Iterator[str]:
    def card(label: str, value: str, note: str = "") -> str:
        return f"<div><span>{label}</span><strong>{xml_text(value)}</strong><small>{xml_text(note)}</small></div>"

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


def _search_charts(found: Found) -> str:
    regret = line_chart("Test regret of the architecture derived now", _regret(found), " points")
    return regret + line_chart("Validation error of the supernet", _errors(found), " %")


def _rank_charts(found: Found) -> str:
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
    return chart + line_chart(title, [Line("mean of the searches", BLUE, shared)], " %", "rank")


def _row(cells: list[object], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{xml_text(cell)}</{tag}>" for cell in cells) + "</tr>"


def _table(found: Found) -> str:
    titles = [f"{title.capitalize()}, c_{{k-2}} + c_{{k-1}}" for title in TINY.kinds.values()]
    rows = [_row(["Rank", "Test error, %", "One-shot error, %", *titles], "th")]
    for rank, a in enumerate(found["architectures"], 1):
        cells = [" + ".join(operations) for operations in a["operations"]]
        rows.append(_row([rank, spread(a["test_errors"]), spread(a["one_shot_errors"]), *cells]))
    return f'<div class="wide"><table class="candidates">{"".join(rows)}</table></div>'


def _drawings(found: Found) -> str:
    shown = []
    for name, architecture in extremes(found).items():
        for title, operations in zip(TINY.kinds.values(), architecture["operations"], strict=True):
            edges = [(op, source) for source, op in enumerate(operations)]
            shown.append(f"<div>{draw_cell(edges, [2], f'{name.capitalize()}: {title}')}</div>")
    return f'<div class="drawings">{"".join(shown)}</div>'


def _searches(found: Found) -> str:
    by_number = {a["number"]: (rank, a) for rank, a in enumerate(found["architectures"], 1)}
    heads = ["Search", "Regret, points", "Lowest on the way", "Rank", "One-shot τ", "Architecture at the end"]
    rows = [_row(heads, "th")]
    for search in found["searches"]:
        rank, architecture = by_number[search["architecture"]]
        lowest = min(search["regrets"])
        when = search["epochs"][search["regrets"].index(lowest)]
        tau = "" if search["one_shot_tau"] is None else f"{search['one_shot_tau']:.2f}"
        regret = f"{search['regret']:.2f}"
        rows.append(_row([search["folder"], regret, f"{lowest:.2f} in epoch {when}", rank, tau, spelled(architecture)]))
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _facts(found: Found) -> str:
    tables = ""
    for title in ("settings", "environment"):
        rows = "".join(
            f"<tr><th>{xml_text(key)}</th><td>{xml_text(value)}</td></tr>" for key, value in found[title].items()
        )
        tables += f"<div><h3>{title}</h3><table>{rows}</table></div>"
    return f'<div class="tables">{tables}</div>'
