"""Contrast of the report's colours, on light and on dark pages (WCAG 2.1 AA: 4.5 for text, 3 for lines)."""

import pytest

from fastdarts.report import colours
from fastdarts.report.colours import BADGES, CANDIDATES, DARK, LIGHT, OTHERS, candidate_colour, candidate_colours
from tests.support.colours import contrast

LINES = ("BLUE", "ORANGE", "GREEN", "VIOLET", "GREY")
THEMES = {"light": LIGHT, "dark": DARK}


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)  # a known border case


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("text", ["ink", "soft"])
@pytest.mark.parametrize("behind", ["page", "card"])
def test_text_is_legible(theme, text, behind):
    assert contrast(THEMES[theme][text], THEMES[theme][behind]) >= 4.5


@pytest.mark.parametrize("colour", [*BADGES.values(), *CANDIDATES.values(), *OTHERS, colours.STATE])
def test_white_text_is_legible_on_badges_boxes_and_bars(colour):
    assert contrast("#ffffff", colour) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("colour", [*CANDIDATES.values(), *OTHERS, *(getattr(colours, name) for name in LINES)])
def test_lines_are_visible_on_the_cards_of_both_pages(theme, colour):
    assert contrast(colour, THEMES[theme]["card"]) >= 3


def test_text_in_drawings_that_stand_alone():
    assert contrast(colours.LABEL, "#ffffff") >= 4.5
    assert contrast(colours.LABEL, DARK["page"]) >= 3 and contrast(colours.EDGE, "#ffffff") >= 3


def test_a_candidate_has_one_colour_wherever_it_stands():
    assert candidate_colour("sep_conv_3x3") == CANDIDATES["sep_conv_3x3"] != candidate_colour("sep_conv_5x5")
    assert candidate_colours(["b_op", "a_op"]) == candidate_colours(["a_op", "b_op", "a_op"])
    many = candidate_colours(f"op{k}" for k in range(len(OTHERS)))
    assert len({*many.values()}) == len(OTHERS)  # as many as there are
    darts = [name for name in CANDIDATES if name.startswith(("none", "skip", "max", "avg", "sep", "dil"))]
    assert len({CANDIDATES[name] for name in darts}) == len(darts)
