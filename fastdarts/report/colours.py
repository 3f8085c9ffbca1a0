"""Colours of the report: one for each candidate, the same in cells, charts and bars, and those of the page.

White text has a contrast of 4.5 or more on every colour of a candidate. Every colour of a line has 3 or more on the
cards of light and of dark pages (WCAG 2.1 AA, 1.4.3 and 1.4.11). ``tests/report/test_contrast.py`` computes both.
"""

import zlib
from collections.abc import Iterable

CANDIDATES = {
    "none": "#64748b",
    "skip_connect": "#15803d",
    "identity": "#15803d",
    "max_pool_3x3": "#c2410c",
    "avg_pool_3x3": "#97680c",
    "sep_conv_3x3": "#2563eb",
    "sep_conv_5x5": "#0e77ac",
    "sep_conv_7x7": "#0b7d88",
    "dil_conv_3x3": "#8b3fe0",
    "dil_conv_5x5": "#c026d3",
    "nor_conv_1x1": "#0e77ac",
    "nor_conv_3x3": "#2563eb",
    "noise": "#747409",
    "tanh": "#2563eb",
    "relu": "#c2410c",
    "sigmoid": "#8b3fe0",
}
OTHERS = (
    "#d61184", "#4d7e0a", "#df1245", "#0a8063", "#725fd1", "#8d6c29", "#c5398a", "#267c84", "#c84141", "#5868cf",
    "#a743c9", "#747409",
)  # fmt: skip
"""Of candidates that are not among ``CANDIDATES``."""

BLUE, ORANGE, GREEN, VIOLET, GREY = "#2563eb", "#d97706", "#15803d", "#8b3fe0", "#737e90"
"""Of lines that are no candidates."""

EDGE = "#8a94a6"
"""Of lines in drawings of cells, on any page."""
LABEL = "#6b7586"
"""Of bare text in drawings that stand alone, on any page; the report gives it the colour of its own text."""
STATE = "#334155"

LIGHT = {"page": "#f6f7f9", "card": "#ffffff", "ink": "#1c2430", "soft": "#5b6575", "rule": "#e3e6eb"}
DARK = {"page": "#0f1319", "card": "#181e27", "ink": "#e6e9ee", "soft": "#9aa4b2", "rule": "#2b3340"}
BADGES = {"": "#b45309", "good": "#15803d", "note": "#475569"}
"""Behind white text, by the class of a badge."""


def candidate_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each candidate. It follows from the name; where two would share one, the second gets another."""
    found, taken = {}, set()
    for name in sorted({*names}):
        colour = CANDIDATES.get(name)
        if colour is None:
            first = zlib.crc32(name.encode("utf-8", "replace"))
            order = [OTHERS[(first + k) % len(OTHERS)] for k in range(len(OTHERS))]
            colour = next((c for c in order if c not in taken), order[0])
            taken.add(colour)
        found[name] = colour
    return found


def candidate_colour(name: str) -> str:
    """The colour of a candidate that stands alone."""
    return candidate_colours([name])[name]
