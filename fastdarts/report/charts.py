"""Charts of the report as inline SVG: lines over epochs, small multiples, spans. No identifiers, no scripts.

Colours of data are fixed and readable on light and dark pages; axes and text take the page's colours through
the style classes `grid`, `tick` and `note`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fastdarts.report.drawing import FAMILIES, drawing
from fastdarts.report.markup import EMPTY, Html, element, joined

Points = Sequence[tuple[float, float]]

PRIMITIVE_COLOURS = {  # the colour of the family; its second member gets a neighbouring hue
    "none": FAMILIES["none"],
    "max_pool_3x3": FAMILIES["max_pool"],
    "avg_pool_3x3": "#b7791f",
    "skip_connect": FAMILIES["skip_connect"],
    "sep_conv_3x3": FAMILIES["sep_conv"],
    "sep_conv_5x5": "#0891b2",
    "dil_conv_3x3": FAMILIES["dil_conv"],
    "dil_conv_5x5": "#c026d3",
}
_MORE_COLOURS = ("#be123c", "#4d7c0f", "#0f766e", "#854d0e", "#6366f1", "#9f1239", "#475569")
WIDTH, HEIGHT = 460, 230
MARGINS = 44, 12, 10, 26  # left, right, top, bottom
_DRAWING_STYLE = (
    ".grid{stroke:#8a94a6;stroke-opacity:.35;fill:none}.line{fill:none;stroke-linejoin:round}"
    ".tick{fill:#6b7586;font-size:11px}.title{fill:#6b7586;font-size:14px;font-weight:600}"
)
_MANY = 200  # points of a line that a chart of this size can show


@dataclass(frozen=True)
class Line:
    """A line of a chart: `points` (x, y) by ascending x, faint if one of many, a band (x, low, high)."""

    name: str
    colour: str
    points: Points
    faint: bool = False
    band: Sequence[tuple[float, float, float]] = ()


def primitive_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each primitive; custom ones get those that are left, in the order they come."""
    custom = [name for name in dict.fromkeys(names) if name not in PRIMITIVE_COLOURS]
    more = {name: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, name in enumerate(custom)}
    return PRIMITIVE_COLOURS | more


def line_chart(
    title: str, lines: Sequence[Line], unit: str = "", axis: str = "epoch", marker: float | None = None
) -> Html:
    """A figure: caption, legend with the last values, chart; empty if no line has a point.

    marker: where along the axis a movable line stands; its place is data-start + data-step * position.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return EMPTY
    legend = (
        element("span", patch(line.colour), f"{line.name} ", element("b", number(line.points[-1][1]), unit))
        for line in lines
        if line.name
    )
    caption = element("strong", title), element("span", *legend, class_="legend")
    plot = _plot(lines, axis, marker)
    box = f"0 0 {WIDTH} {HEIGHT}"
    svg = element("svg", plot, viewBox=box, role="img", aria_label=f"{title} over {axis}s")
    return element("figure", element("figcaption", *caption), svg)


def patch(colour: str) -> Html:
    """The colour in front of a name in a legend."""
    return element("i", style=f"background:{colour}")


def drawing_of_charts(title: str, charts: Sequence[tuple[str, Sequence[Line]]]) -> Html:
    """A self-contained SVG of charts over epochs side by side, (caption, lines) each, for light and dark pages; every
    line has a point."""
    head = 22 + 16 * max(sum(bool(line.name) for line in lines) for _, lines in charts)
    width, height = len(charts) * WIDTH, head + HEIGHT
    shapes = []
    for column, (caption, lines) in enumerate(charts):
        texts = [element("text", caption, class_="title", x=MARGINS[0], y=16)]
        for row, line in enumerate(line for line in lines if line.name):
            y = 34 + 16 * row
            texts.append(element("path", d=f"M{MARGINS[0]} {y - 4}h14", stroke=line.colour, stroke_width=3))
            text = f"{line.name}: {number(line.points[-1][1])} at the end"
            texts.append(element("text", text, class_="tick", x=MARGINS[0] + 20, y=y))
        plot = element("g", _plot(lines, "epoch"), transform=f"translate(0 {head})")
        shapes.append(element("g", *texts, plot, transform=f"translate({column * WIDTH} 0)"))
    heading = element("title", title), element("style", Html(_DRAWING_STYLE))
    return drawing((*heading, *shapes), width, height, "system-ui, 'DejaVu Sans', sans-serif")


def _plot(lines: Sequence[Line], axis: str, marker: float | None = None) -> Html:
    """Axes, bands, lines and marker, WIDTH by HEIGHT; every line has a point."""
    left, right, top, bottom = MARGINS
    width, height = WIDTH, HEIGHT
    xs = [x for line in lines for x, _ in line.points] + [marker] * (marker is not None)
    ys = [y for line in lines for _, y in line.points]
    ys += [y for line in lines for _, low, high in line.band for y in (low, high)]
    # A range below a twentieth of the values would only magnify noise, and need long tick labels.
    slack = max((0.05 * max(map(abs, ys)) or 1.0) - (max(ys) - min(ys)), 0) / 2
    low = min(ys) - slack if min(ys) < 0 else max(min(ys) - slack, 0)
    x_ticks = _ticks(min(xs), max(xs), 8, whole=True)
    y_ticks = _ticks(low, max(ys) + slack, 5)
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def at(x: float, y: float) -> tuple[float, float]:
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
        if len(line.band) > 1:
            outline = [at(x, high) for x, _, high in line.band] + [at(x, low) for x, low, _ in line.band[::-1]]
            shapes.append(element("path", d=f"{_path(outline)}Z", fill=line.colour, opacity=".18"))
        shapes.append(_draw_line([at(*point) for point in line.points], line.colour, line.faint, dots=True))
    if marker is not None:
        start, step = at(0, y_low)[0], at(1, y_low)[0] - at(0, y_low)[0]
        place = {"transform": f"translate({start + step * marker:.1f} 0)", "data_start": f"{start:.3f}"}
        stroke = element("path", d=f"M0 {top}V{height - bottom}")
        shapes.append(element("g", stroke, class_="marker", **place, data_step=f"{step:.4f}"))
    return joined(shapes)


def _tick(text: object, x: object, y: object, anchor: str = "middle") -> Html:
    return element("text", text, class_="tick", x=x, y=y, text_anchor=anchor)


def small_chart(lines: Sequence[Line], x_range: tuple[float, float], y_range: tuple[float, float]) -> Html:
    """One of many charts with common ranges: the lines without axes."""
    width, height = 190, 76
    shapes = [element("path", class_="grid", d=f"M0 {height - 1}H{width}M0 1H{width}")]
    for line in lines:
        points = [(_scale(x, *x_range, 3, width - 3), _scale(y, *y_range, height - 4, 4)) for x, y in line.points]
        shapes.append(_draw_line(points, line.colour, line.faint, dots=False))
    return element("svg", *shapes, viewBox=f"0 0 {width} {height}", aria_hidden="true")


def span_chart(title: str, rows: Sequence[tuple[str, Sequence[str]]], colours: dict[str, str], first: int) -> Html:
    """What each row was epoch by epoch, from `first` on: a run of equal values is one bar, "" is a blank."""
    count = max((len(values) for _, values in rows), default=0)
    if not count:
        return EMPTY
    left, width, pitch = 104, 960, 24
    step = (width - left) / count
    shapes = []
    for row, (label, values) in enumerate(rows):
        y = row * pitch
        shapes.append(_tick(label, left - 8, y + 15, "end"))
        shapes.append(element("path", class_="grid", d=f"M{left} {y + 11}H{width}"))
        for start, end in _runs(values):
            name, x, span = values[start], left + start * step, (end - start) * step
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
    return element("figure", element("figcaption", element("strong", title)), svg)


def number(value: float) -> str:
    """A number with the digits a reader needs: 3, 0.0123, 3.14, 27.1 as 27.10, 1,234."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """About `count` round numbers that span low to high (whole ones stay inside)."""
    span = high - low or 1.0
    size = 10.0 ** math.floor(math.log10(span / count))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor * count >= span)
    if whole:
        step = max(round(step), 1)
        return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [float(f"{k * step:.12g}") for k in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _draw_line(points: Points, colour: str, faint: bool, dots: bool) -> Html:
    stride = -(-len(points) // _MANY)
    points = [*points[:-1:stride], points[-1]]
    look = {"stroke_width": 1 if faint else 2, "opacity": 0.35 if faint else 1}
    line = [element("path", class_="line", d=_path(points), stroke=colour, **look)] * (len(points) > 1)
    marked = points if dots and not faint and len(points) <= 12 else points[-1:]
    radius = 3 if dots and not faint else 1.8
    look = {"r": radius, "fill": colour, "opacity": 0.5 if faint else 1}
    return joined((*line, *(element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", **look) for x, y in marked)))


def _path(points: Points) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _runs(values: Sequence[str]) -> list[tuple[int, int]]:
    cuts = [0, *(i for i, (a, b) in enumerate(pairwise(values), start=1) if a != b), len(values)]
    return list(pairwise(cuts))
