"""The curves of a run over its epochs, with what they are to be compared with."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate

from fastdarts.report.charts import Line, Points, line_chart
from fastdarts.report.colours import BLUE, GREEN, GREY, ORANGE, VIOLET
from fastdarts.report.markup import EMPTY, Html, element, joined
from fastdarts.report.queries import SHOWN, is_queries
from fastdarts.report.reader import Records, points
from fastdarts.report.words import CHARTS
from fastdarts.runs.stored import is_number
from fastdarts.runs.writer import METRICS

_NEAR = 0.6  # of guessing: a level far above all curves would only press them together
_FAINT = 40  # trainings that are drawn one by one


def guessing(run: Records) -> float | None:
    """The error in percent of who guesses one of the classes; None if the run has no classes."""
    classes = run.number("classes")
    return 100 * (1 - 1 / classes) if classes is not None and classes >= 2 else None


def curves(run: Records) -> Html:
    """All charts of what the rows hold."""
    # what is tested at the end only is judged on validation data before
    test = "test" if points(run.rows, "test_loss") and not points(run.rows, "valid_loss") else "valid"
    kinds = [(kind, title.removesuffix(" cell")) for kind, title in run.space.kinds.items()]
    metric, title, unit = (text.removeprefix("valid") for text in run.task.metric)
    headline = title.strip().capitalize()
    wanted = (
        ("Loss", "", ("train_loss", "train"), (f"{test}_loss", test), ("arch_loss", "alpha steps")),
        (
            headline,
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
    for title, unit, *named in wanted:
        lines = [
            line
            for (key, name), colour in zip(named, (BLUE, ORANGE, GREEN, VIOLET), strict=False)
            for line in _lines(run, key, name, colour)
        ]
        levels, note = _levels(run, lines, test) if title == headline else ([], "")
        charts.append(line_chart(title, [*lines, *levels], unit, about=CHARTS.get(title, ""), note=note))
    keys = dict.fromkeys(key for _, _, *named in wanted for key, _ in named)
    others = dict.fromkeys(key for row in run.rows for key in row if is_number(row[key]) and key not in keys)
    for key in others:  # what a monitor of a plug-in measures
        if key not in ("epoch", "seconds", "eigenvalue", run.parts, *SHOWN * is_queries(run)):
            charts.append(line_chart(key.replace("_", " ").capitalize(), _lines(run, key, key, BLUE)))
    strange = [key for key in keys if any(row.get(key) is not None and not is_number(row[key]) for row in run.rows)]
    text = f"Left out, as some values in {METRICS} are no usable numbers: {', '.join(strange)}."
    note = element("p", text) if strange else EMPTY
    return joined((note, element("div", *charts, class_="charts") if any(charts) else EMPTY))


def _levels(run: Records, lines: Sequence[Line], test: str) -> tuple[list[Line], str]:
    """What the headline of a run is to be compared with: its best so far, and guessing, in words if it is far off."""
    judged = next((line for line in reversed(lines) if line.name.partition(",")[0] == test and line.points), None)
    if judged is None:
        return [], ""
    found, note = [], ""
    if len(judged.points) > 1:
        best = accumulate((value for _, value in judged.points), min)
        steps = [(epoch, value) for (epoch, _), value in zip(judged.points, best, strict=True)]
        if steps != [*judged.points]:
            found.append(Line("best so far", judged.colour, steps, dashed=True))
    chance = guessing(run)
    if chance is not None and run.task.metric.name.endswith("_error"):
        most = max(value for line in lines for _, value in line.points)
        ends = [judged.points[0][0], judged.points[-1][0]]
        if most >= _NEAR * chance:
            found.append(Line("guessing", GREY, [(epoch, chance) for epoch in dict.fromkeys(ends)], dashed=True))
        else:
            note = f"guessing: {chance:.4g} %"
    return found, note


def _lines(run: Records, key: str, name: str, colour: str) -> list[Line]:
    """The line of a number; of several trainings a faint one each and the best candidate's or the mean."""
    each = {part: points(rows, key) for part, rows in run.trainings().items()}
    each = {part: line for part, line in each.items() if line}
    longest = max(each.values(), key=len, default=[])
    if all(line == longest[: len(line)] for line in each.values()):  # one training, or a schedule all share
        return [Line(name, colour, longest)]
    faint = [Line("", colour, line, faint=True) for line in list(each.values())[:_FAINT]]
    if run.parts == "sample":
        best = [sample for _, sample in run.ranking()[:1] if sample in each]
        return faint + [Line(f"{name}, candidate {sample}", colour, each[sample]) for sample in best]
    return faint + mean_line(each.values(), name, colour)


def mean_line(each: Iterable[Points], name: str, colour: str) -> list[Line]:
    """The mean of those lines that are as long as the longest, with the standard deviation as its band.

    One that has not come as far is left out: the mean would jump where it ends.
    """
    each = list(each)
    whole = [line for line in each if len(line) == max(map(len, each))]
    if len(whole) == 1:
        return [Line(name, colour, whole[0])]
    at = defaultdict(list)
    for epoch, value in (point for line in whole for point in line):
        at[epoch].append(value)
    means = [(epoch, statistics.fmean(at[epoch])) for epoch in sorted(at)]
    band = [(e, m - (s := statistics.stdev(at[e])), m + s) for e, m in means if len(at[e]) > 1]
    return [Line(f"{name}, mean ± std", colour, means, band=band)]
