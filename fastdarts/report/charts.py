"""Charts of the report as inline SVG: lines over epochs, small multiples, spans. No identifiers, no scripts.

Colours of data are fixed and readable on light and dark pages; axes and text take the page's colours through
the style classes `grid`, `tick` and `note`. A chart names its scale, by which the script of the page reads values back
from the lines.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fastdarts.report.drawing import drawing
from fastdarts.report.markup import EMPTY, Html, element, joined
from fastdarts.report.page import help_mark

Points = Sequence[tuple[float, float]]
Size = tuple[int, int]

WIDTH, HEIGHT = 360, 200
MARGINS = 44, 12, 10, 26  # left, right, top, bottom
_FIGURE = 460, 230  # of a chart in a file of its own
_DRAWING_STYLE = (
    ".grid{stroke:#8a94a6;stroke-opacity:.35;fill:none}.line{fill:none;stroke-linejoin:round}"
    ".tick{fill:#6b7586;font-size:11px}.title{fill:#6b7586;font-size:14px;font-weight:600}"
)
_MANY, _FEW = 200, 60  # points of a line that a chart can show, and those of one of many
_SPANS = 200  # epochs that a chart of spans tells apart


@dataclass(frozen=True)
class Line:
    """A line of a chart: `points` (x, y) by ascending x, faint if one of many, a band (x, low, high).

    dashed: of a line that is no measurement, as a level to compare with. loose: points that no line joins; the band is
        a bar at each.
    """

    name: str
    colour: str
    points: Points
    faint: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    dashed: bool = False
    loose: bool = False


def line_chart(
    title: str,
    lines: Sequence[Line],
    unit: str = "",
    axis: str = "epoch",
    marker: tuple[float, float] | None = None,
    about: str = "",
    note: str = "",
) -> Html:
    """A figure: caption, legend with the last values, chart; empty if no line has a point.

    marker: the least position of a movable line along the axis, and where it stands; its place is data-start +
        data-step * position.
    about: what the "?" of the chart explains. note: what stands at the end of the legend.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return EMPTY
    legend = [
        element(
            "span", patch(line.colour, line.dashed), f"{line.name} ", element("b", number(line.points[-1][1]), unit)
        )
        for line in lines
        if line.name
    ]
    legend += [element("span", note)] * bool(note)
    caption = element("strong", title), help_mark(title, about), element("span", *legend, class_="legend")
    plot, scale = _plot(lines, axis, (WIDTH, HEIGHT), unit, marker)
    look = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria_label": f"{title} over {axis}s", "tabindex": 0}
    svg = element("svg", plot, **look, data_scale=scale, data_axis=axis, data_unit=unit or None)
    return element("figure", element("figcaption", *caption), svg)


def patch(colour: str, dashed: bool = False) -> Html:
    """The colour in front of a name in a legend."""
    look = f"border-top:3px dashed {colour};height:0" if dashed else f"background:{colour}"
    return element("i", class_="patch", style=look)


def drawing_of_charts(title: str, charts: Sequence[tuple[str, str, Sequence[Line]]], axis: str = "epoch") -> Html:
    """A self-contained SVG of charts side by side, (caption, unit, lines) each, for light and dark pages.

    Every line has a point.
    """
    head = 22 + 16 * max(sum(bool(line.name) for line in lines) for _, _, lines in charts)
    width, height = len(charts) * _FIGURE[0], head + _FIGURE[1]
    shapes = []
    for column, (caption, unit, lines) in enumerate(charts):
        texts = [element("text", caption, class_="title", x=MARGINS[0], y=16)]
        for row, line in enumerate(line for line in lines if line.name):
            y = 34 + 16 * row
            texts.append(element("path", d=f"M{MARGINS[0]} {y - 4}h14", stroke=line.colour, stroke_width=3))
            text = line.name if line.loose else f"{line.name}: {number(line.points[-1][1])}{unit} at the end"
            texts.append(element("text", text, class_="tick", x=MARGINS[0] + 20, y=y))
        plot = element("g", _plot(lines, axis, _FIGURE, unit)[0], transform=f"translate(0 {head})")
        shapes.append(element("g", *texts, plot, transform=f"translate({column * _FIGURE[0]} 0)"))
    heading = element("title", title), element("style", Html(_DRAWING_STYLE))
    return drawing((*heading, *shapes), width, height, "system-ui, 'DejaVu Sans', sans-serif")


def _range(lines: Sequence[Line], unit: str) -> tuple[float, float, bool]:
    """The lowest and the highest value that a chart must hold, and whether its ticks are whole numbers."""
    ys = [y for line in lines for _, y in line.points]
    bands = [y for line in lines for _, low, high in line.band for y in (low, high)]
    least, most = min(ys), max(ys)
    counted = all(y == int(y) for y in ys) and not bands and unit not in (" %", " points")
    if counted:
        low, high = (least, most) if most > least else (max(least - 1, 0) if least >= 0 else least - 1, most + 1)
    else:
        # A range below a twentieth of the values would only magnify noise, and need long tick labels.
        low, high = min(ys + bands), max(ys + bands)
        slack = max((0.05 * max(abs(low), abs(high)) or 1.0) - (high - low), 0) / 2
        low, high = low - slack, high + slack
    # What is never negative has no axis below 0, and a share none above 100 %: neither has a spread.
    low = max(low, 0) if least >= 0 else low
    return low, min(high, 100) if unit == " %" and most <= 100 else high, counted


def _plot(
    lines: Sequence[Line], axis: str, size: Size, unit: str = "", marker: tuple[float, float] | None = None
) -> tuple[Html, str]:
    """Axes, bands, lines and marker, and the scale: x and y of the ends of both axes with their places. Every line has
    a point."""
    left, right, top, bottom = MARGINS
    width, height = size
    xs = [x for line in lines for x, _ in line.points] + [*(marker or ())]
    low, high, counted = _range(lines, unit)
    x_ticks = _ticks(min(xs), max(xs), 8, whole=True)
    y_ticks = _ticks(low, high, 5, least=1.0 if counted else 0.0)
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(y_ticks[0], low), max(y_ticks[-1], high)

    def at(x: float, y: float) -> tuple[float, float]:
        y = min(max(y, y_low), y_high)
        return _scale(x, x_low, x_high, left, width - right), _scale(y, y_low, y_high, height - bottom, top)

    shapes = []
    for tick in y_ticks:
        y = at(x_low, tick)[1]
        shapes.append(element("path", class_="grid", d=f"M{left} {y:.1f}H{width - right}"))
        shapes.append(_tick(f"{tick:g}", left - 6, f"{y + 3.5:.1f}", "end"))
    shapes.append(_tick(axis, left - 10, height - 8, "end"))
    for tick in x_ticks:
        x = at(tick, y_low)[0]
        shapes.append(_tick(f"{tick:g}", f"{x:.1f}", height - 8))
    for line in sorted(lines, key=lambda line: not line.faint):
        if line.loose:
            bars = [f"M{at(x, low)[0]:.1f} {at(x, low)[1]:.1f}V{at(x, high)[1]:.1f}" for x, low, high in line.band]
            shapes += [element("path", d="".join(bars), stroke=line.colour, opacity=".4")] * bool(bars)
        elif len(line.band) > 1:
            band = _thinned(line.band, _MANY)
            outline = [at(x, high) for x, _, high in band] + [at(x, low) for x, low, _ in band[::-1]]
            shapes.append(element("path", d=f"{_path(outline)}Z", fill=line.colour, opacity=".18"))
        points = [at(*point) for point in _thinned(line.points, _FEW if line.faint else _MANY)]
        shapes.append(_draw_line(line, points, dots=True))
    if marker is not None:
        start, step = at(0, y_low)[0], at(1, y_low)[0] - at(0, y_low)[0]
        place = {"transform": f"translate({start + step * marker[1]:.1f} 0)", "data_start": f"{start:.3f}"}
        stroke = element("path", d=f"M0 {top}V{height - bottom}")
        shapes.append(element("g", stroke, class_="marker", **place, data_step=f"{step:.4f}"))
    return joined(shapes), _named_scale((x_low, x_high), (left, width - right), (y_low, y_high), (height - bottom, top))


def _named_scale(*pairs: tuple[float, float]) -> str:
    return " ".join(f"{value:.8g}" for pair in pairs for value in pair)


def _tick(text: object, x: object, y: object, anchor: str = "middle") -> Html:
    return element("text", text, class_="tick", x=x, y=y, text_anchor=anchor)


def small_chart(lines: Sequence[Line], x_range: tuple[float, float], y_range: tuple[float, float]) -> Html:
    """One of many charts with common ranges: the lines, and the ends of both axes."""
    left, right, top, bottom = 40, 186, 8, 72
    shapes = [element("path", class_="grid", d=f"M{left} {bottom}H{right}M{left} {top}H{right}")]
    shapes += [_tick(_short(y), left - 4, at + 4, "end") for y, at in zip(y_range, (bottom, top), strict=True)]
    shapes.append(_tick(f"{x_range[0]:g}", left, 86, "start"))
    shapes += [_tick(f"{x_range[1]:g}", right, 86, "end")] * (x_range[1] > x_range[0])
    for line in lines:
        thin = _thinned(line.points, _FEW)
        points = [(_scale(x, *x_range, left, right), _scale(y, *y_range, bottom, top)) for x, y in thin]
        shapes.append(_draw_line(line, points, dots=False))
    scale = _named_scale(x_range, (left, right), y_range, (bottom, top))
    return element("svg", *shapes, viewBox="0 0 190 90", aria_hidden="true", data_scale=scale, data_axis="epoch")


def _short(value: float) -> str:
    """A number of at most five letters."""
    return f"{value:.0f}" if value == int(value) else f"{value:.3f}"[:5] if abs(value) < 10 else f"{value:.4g}"


def span_chart(title: str, rows: Sequence[tuple[str, Sequence[str]]], colours: dict[str, str], first: int) -> Html:
    """What each row was epoch by epoch, from `first` on: a run of equal values is one bar, "" is a blank.

    Of very many epochs it shows every second, every third, ... one, and says so."""
    count = max((len(values) for _, values in rows), default=0)
    if not count:
        return EMPTY
    each = -(-count // _SPANS)
    left, width, pitch = 104, 960, 24
    step = (width - left) / count
    shapes = []
    for row, (label, values) in enumerate(rows):
        y = row * pitch
        shapes.append(_tick(label, left - 8, y + 15, "end"))
        shapes.append(element("path", class_="grid", d=f"M{left} {y + 11}H{width}"))
        for start, end in _runs(values[::each]):
            name, start, end = values[start * each], start * each, min(end * each, count)
            x, span = left + start * step, (end - start) * step
            if not name:
                continue
            epochs = f"epoch {first + start}" + (f" to {first + end - 1}" if end - start > 1 else "")
            size = {"width": f"{max(span - 1, 0.5):.1f}", "height": 18, "rx": 3}
            bar = [element("rect", x=f"{x + 0.5:.1f}", y=y + 2, **size, fill=colours[name])]
            if span > 7 * len(name) + 8:
                bar.append(element("text", name, class_="bar", x=f"{x + 7:.1f}", y=y + 15))
            shapes.append(element("g", element("title", f"{label}: {name}, {epochs}"), *bar))
    base = len(rows) * pitch + 14
    shapes.append(_tick("epoch", left - 8, base, "end"))
    for tick in _ticks(first, first + count - 1, 10, whole=True):
        x = left + (tick - first + 0.5) * step
        shapes.append(_tick(f"{tick:g}", f"{x:.1f}", base))
    svg = element("svg", *shapes, viewBox=f"0 0 {width} {base + 6}", role="img", aria_label=title)
    note = element("span", f"every {each}th epoch of {count}", class_="legend") if each > 1 else EMPTY
    caption = element("figcaption", element("strong", title), note)
    return element("figure", caption, element("div", svg, class_="scroll"))


def number(value: float) -> str:
    """A number with the digits a reader needs: 3, 0.0123, 3.14, 27.1 as 27.10, 1,234."""
    size = abs(value)
    value = value or 0  # without the sign of -0.0
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def amount(value: float) -> str:
    """A count with three digits: 640, 12.3 k, 3.35 M, 1.20 G."""
    for name, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            part = value / size
            return f"{part:.{2 if part < 9.995 else 1 if part < 99.95 else 0}f}\u00a0{name}"
    return f"{value:,.0f}"


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _ticks(low: float, high: float, count: int, whole: bool = False, least: float = 0.0) -> list[float]:
    """About `count` round numbers, at least `least` apart, that span low to high (whole ones stay inside)."""
    span = high - low or 1.0
    size = 10.0 ** math.floor(math.log10(span / count))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor * count >= span)
    if whole:
        step = max(round(step), 1)
        return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    step = max(step, least)
    ends = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(ends[0], ends[1] + 1)]


def _thinned(points: Sequence[Any], most: int) -> Sequence[Any]:
    """At most about so many of the points, the last one among them."""
    stride = -(-len(points) // most)
    return [*points[:-1:stride], points[-1]]


def _draw_line(line: Line, points: Points, dots: bool) -> Html:
    """The line through `points`, which are places in the chart; whatever has a name can be read back from it."""
    look = {"stroke_width": 1 if line.faint else 2, "opacity": 0.35 if line.faint else 1}
    dash = "5 4" if line.dashed else None
    name = line.name or None
    path = len(points) > 1 and not line.loose
    shape = {"d": _path(points), "stroke": line.colour, "stroke_dasharray": dash, "data_name": name}
    drawn = [element("path", class_="line", **shape, **look)] * path
    few = dots and not line.faint and not line.dashed and len(points) <= 12
    marked = points if few or line.loose else points[-1:]
    radius = 3 if dots and not line.faint else 1.8
    look = {"r": radius, "fill": line.colour, "opacity": 0.5 if line.faint else 1}
    look |= {"data_name": None if path else name}
    return joined((*drawn, *(element("circle", cx=f"{x:.1f}", cy=f"{y:.2f}", **look) for x, y in marked)))


def _path(points: Points) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.2f}" for x, y in points)


def _runs(values: Sequence[str]) -> list[tuple[int, int]]:
    cuts = [0, *(i for i, (a, b) in enumerate(pairwise(values), start=1) if a != b), len(values)]
    return list(pairwise(cuts))
