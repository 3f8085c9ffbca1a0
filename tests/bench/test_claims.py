"""Verdicts on claims, and how many pairs would decide them, from differences worked out by hand."""

import pytest

from benchmarks.claims import beside, chance, claims_table, compared, counted, needed, said, spread, verdict
from benchmarks.figures import Interval, intervals
from fastdarts.compare.statistics import Difference, paired


@pytest.mark.parametrize(
    ("found", "claimed", "margin", "says"),
    [
        (Difference(-1.0, -1.5, -0.5, 3), -1, 0.0, ("confirmed", "below 0")),
        (Difference(-1.0, -1.5, -0.5, 3), +1, 0.0, ("refuted", "below 0")),
        (Difference(-1.0, -2.5, 0.5, 3), -1, 0.0, ("undecided", "holds 0")),
        (Difference(0.1, -0.2, 0.4, 3), -1, 0.0, ("undecided", "holds 0, but not 0.5")),
        (Difference(-1.0, None, None, 1), -1, 0.0, ("undecided", "no interval")),
        (None, 1, 0.0, ("undecided", "no search is finished yet")),
        # "at most half a point better": the error lies above -0.5
        (Difference(0.1, -0.2, 0.4, 3), +1, 0.5, ("confirmed", "above -0.5")),
        (Difference(-1.0, -1.3, -0.7, 3), +1, 0.5, ("refuted", "below -0.5")),
        (Difference(-0.4, -0.8, 0.0, 3), +1, 0.5, ("undecided", "holds -0.5")),
        # "at most half a point worse": the error lies below 0.5
        (Difference(0.1, -0.2, 0.4, 3), -1, 0.5, ("confirmed", "below +0.5")),
    ],
)
def test_a_verdict_is_that_of_the_interval(found, claimed, margin, says):
    assert verdict(found, claimed, margin) == says


def test_the_spread_gives_the_number_of_pairs():
    # 2, 1 and 3: their standard deviation is 1, half a point is half of it, and tables give 34 pairs for that
    found = paired({1: 3.0, 2: 5.0, 3: 10.0}, {1: 1.0, 2: 4.0, 3: 7.0})
    assert spread(found) == pytest.approx(1.0) and needed(found) == "34"
    assert needed(None) == needed(Difference(1.0, None, None, 1)) == "–"
    assert needed(paired({1: 0.0, 2: 100.0}, {1: 0.0, 2: 0.0})) == "over 10,000"


def test_claims_of_two_methods_are_asked_where_both_are():
    errors = {"darts": {1: 10.0, 2: 11.0, 3: 12.0}, "joint": {1: 12.0, 2: 13.5, 3: 14.0}, "darts-pt": {}}
    found = {claim.claim: claim for claim in beside("here", errors)}
    # 2, 2.5 and 2: their standard deviation is 0.289, and 4.303 * 0.289 / sqrt(3) is 0.717
    single = found["A single level finds worse cells than two"]
    assert single[2:5] == ("here", "+2.17\u00a0[+1.45,\u00a0+2.88]", 3) and single.verdict == "confirmed"
    assert found["DARTS-PT finds better cells than DARTS"].n == 0 and len(found) == 2
    assert chance("here", errors["darts"], errors["joint"]).verdict == "refuted"


def test_counts_and_rows_of_a_table():
    one = counted("It rises", "A", "here", "detected", 2, 3)
    assert one[3:] == ("detected: 2 of 3", 3, "–", "confirmed", "more than half")
    assert counted("It rises", "A", "here", "detected", 1, 2).verdict == "in part"
    assert counted("It rises", "A", "here", "detected", 0, 2).verdict == "refuted"
    two = compared("It rises", "A", "there", 1, "late − early", {"a": 1.0}, {"a": 0.5})
    lines = claims_table([one, two]).splitlines()[2:]
    assert lines[0] == "| It rises | A | here | detected: 2 of 3 | 3 | – | **confirmed** | more than half |"
    assert lines[1] == "|  |  | there | late − early: +0.50 | 1 | – | **undecided** | no interval |"
    assert said(None) == "–"


def test_intervals_are_drawn_from_the_lowest_to_the_highest_and_coloured_by_their_side():
    rows = [Interval("c", 2.0, 1.0, 3.0), Interval("a <b>", -2.0, -3.0, -1.0), Interval("b", 0.0, -1.0, 1.0)]
    drawing = intervals("A title", "points", [*rows, Interval("d", 2.5, None, None)], ("better", "worse"))
    assert drawing.index("a &lt;b&gt;") < drawing.index(">b<") < drawing.index(">c<") < drawing.index(">d<")
    # 0 lies in the middle of 190 to 740, and 1 at a third of what is right of it
    assert 'd="M465.0 42V128"' in drawing and 'd="M556.7 98.0H740.0" stroke="#d97706"' in drawing
    assert 'd="M190.0 58.0H373.3" stroke="#15803d"' in drawing and drawing.count("<circle") == 4
