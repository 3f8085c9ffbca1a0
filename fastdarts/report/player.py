"""The eigenvalue over the epochs beside the cells derived at each of them, to play through in the report."""

import json
from collections.abc import Mapping, Sequence

from fastdarts.report.charts import Line, line_chart, number
from fastdarts.report.markup import Html, element
from fastdarts.report.words import CHARTS

NAME = "Largest eigenvalue of the alphas' Hessian"


def eigenvalue_player(
    eigenvalues: Sequence[tuple[int, float]],
    genotypes: Sequence[tuple[int, Mapping[str, Html]]],
    colour: str,
    last: int,
    shown: int,
) -> Html:
    """A chart with a marker, drawings and what moves both: a button and a slider. The script of the page brings them
    to life.

    eigenvalues: (epoch, value), ascending. genotypes: (first epoch of it, an SVG of each kind of cell), ascending.
    last: the last epoch. shown: the one to begin with.

    Without scripts it shows that one, and no controls.
    """
    first = genotypes[0][0]
    since = max((epoch for epoch, _ in genotypes if epoch <= shown), default=first)
    chart = line_chart(
        NAME, [Line("at the last measurement", colour, eigenvalues)], marker=(first, shown), about=CHARTS[NAME]
    )
    frames = (
        element(
            "div",
            *(element("div", svg) for svg in drawings.values()),
            class_="drawings",
            data_epoch=epoch,
            hidden=True if epoch != since else None,
        )
        for epoch, drawings in genotypes
    )
    values = json.dumps([[epoch, number(value)] for epoch, value in eigenvalues])
    button = element("button", "▶", type="button", aria_label="Play")
    slider = element("input", type="range", min=first, max=last, value=shown, aria_label="Epoch")
    controls = element("div", button, slider, class_="controls", hidden=True)
    now = element("p", _now(shown, eigenvalues, since), class_="now", aria_live="polite")
    return element("div", element("div", chart, controls, now), *frames, class_="player", data_values=values)


def _now(epoch: int, eigenvalues: Sequence[tuple[int, float]], since: int) -> str:
    """What the script says too."""
    measured = max((point for point in eigenvalues if point[0] <= epoch), default=None)
    value = f"eigenvalue {number(measured[1])} (epoch {measured[0]})" if measured else "no eigenvalue yet"
    return f"Epoch {epoch}: {value}, these cells since epoch {since}"
