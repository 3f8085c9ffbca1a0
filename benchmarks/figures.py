"""Figures of docs/results.md that are no curves: differences with their intervals, one row each.

They are vector drawings, and are read on light and on dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastdarts.report.colours import GREEN, GREY, LABEL, ORANGE
from fastdarts.report.drawing import drawing
from fastdarts.report.markup import Html, element

LEFT, WIDTH, ROW, TOP, BOTTOM = 190, 760, 20, 48, 40
FONT = "system-ui, 'DejaVu Sans', sans-serif"


class Interval(NamedTuple):
    """A row: its name, a number, and the ends of its interval where it has one."""

    name: str
    mean: float
    low: float | None
    high: float | None


def intervals(title: str, axis: str, rows: Sequence[Interval], ends: tuple[str, str]) -> str:
    """A drawing of ``rows`` from the lowest number to the highest. Those whose interval lies below 0 are green, those
    above orange, and those that hold 0 grey. ``ends`` says what lies on both sides of 0."""
    rows = sorted(rows, key=lambda row: row.mean)
    values = [v for row in rows for v in (row.mean, row.low, row.high) if v is not None]
    low, high = min(0.0, *values), max(0.0, *values)
    height = TOP + ROW * len(rows) + BOTTOM

    def x(value: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - 20) * (value - low) / ((high - low) or 1):.1f}"

    def text(content: str, at: object, y: float, **look: object) -> Html:
        return element("text", content, x=at, y=y, **{"fill": LABEL, "font_size": 12} | look)

    base = TOP + ROW * len(rows)
    shapes = [
        element("title", title),
        text(title, 0, 16, font_size=14, font_weight=600),
        text(f"← {ends[0]}", float(x(0)) - 8, 38, text_anchor="end"),
        text(f"{ends[1]} →", float(x(0)) + 8, 38),
        element("path", d=f"M{x(0)} {TOP - 6}V{base}", stroke=LABEL, stroke_width=1),
    ]
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if (high - low) / s <= 10)
    for tick in range(int(low / step) - (low < 0), int(high / step) + 1):
        if low <= tick * step <= high:
            shapes.append(text(f"{tick * step:g}", x(tick * step), base + 16, text_anchor="middle", font_size=11))
    shapes.append(text(axis, (LEFT + WIDTH) / 2, base + 34, text_anchor="middle"))
    for number, row in enumerate(rows):
        y = TOP + ROW * number + ROW / 2
        shapes.append(text(row.name, LEFT - 12, y + 4, text_anchor="end"))
        colour = GREY
        if row.low is not None:
            colour = GREEN if row.high < 0 else ORANGE if row.low > 0 else GREY
            shapes.append(
                element("path", d=f"M{x(row.low)} {y}H{x(row.high)}", stroke=colour, stroke_width=3, opacity=0.5)
            )
        shapes.append(element("circle", cx=x(row.mean), cy=y, r=4.5, fill=colour))
    return str(drawing(shapes, WIDTH, height, FONT)) + "\n"
