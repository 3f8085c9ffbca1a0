"""The page on searches of full length: outcomes, differences by seed and verdicts from pieces written by hand."""

import pytest

from benchmarks.full_length_page import Outcome, claims, figures, method_table, outcomes, section, verdict
from fastdarts.compare.statistics import Difference


def cell(skips, error, epoch="result"):
    normal = [["skip_connect" if n < skips else "sep_conv_3x3", n % 2] for n in range(8)]
    return {"epoch": epoch, "genotype": {"normal": normal}, "test_error": error}


def piece(variant, seed, skips, errors, *, stop=None, projection=None):
    """A search in S2 whose cell of each tenth epoch has one of the five errors, and whose result is the last one."""
    derived = [cell(skips, error, 10 * n + 9) for n, error in enumerate(errors)]
    if stop:
        derived.append(cell(0, 5.0, stop[1]))
    rows = [
        {"epoch": epoch, "valid_error": 60.0 - epoch, "eigenvalue": 0.1, "genotype": cell(skips, 0)["genotype"]}
        for epoch in range(50)
    ]
    found = {"piece": f"s2-{variant}-{seed}", "variant": variant, "space": "s2", "seed": seed, "stop": stop}
    found |= {"rows": rows, "derived": [*derived, cell(skips, errors[-1])], "machine": {"cpu": "x", "isa": "avx2"}}
    return found | ({"projection": cell(1, projection)} if projection else {})


DARTS = [
    piece("darts", 0, 8, [10.0, 11.0, 12.0, 13.0, 14.0], projection=10.0, stop=[30, 18]),
    piece("darts", 1, 6, [10.0, 11.0, 12.0, 13.0, 15.0], projection=11.5),
    piece("darts", 2, 3, [10.0, 11.0, 12.0, 13.0, 14.5], projection=10.5),
]


def test_outcomes_are_read_from_pieces():
    by = outcomes(DARTS)
    assert by["darts"]["s2", 0] == Outcome(14.0, 8, 8) and by["darts-pt"]["s2", 1] == Outcome(11.5, 1, 8)
    assert by["darts-es"]["s2", 0] == Outcome(5.0, 0, 8)  # the epoch to which the search returns
    assert by["darts-es"]["s2", 1] == by["darts"]["s2", 1]  # nothing was detected, so it is DARTS
    assert ("s2", 0) not in by["darts-ada"] and by["darts-ada"]["s2", 2] == by["darts"]["s2", 2]


@pytest.mark.parametrize(
    ("found", "claimed", "says"),
    [
        (Difference(-1.0, -1.5, -0.5, 3), -1, "confirmed"),
        (Difference(-1.0, -1.5, -0.5, 3), +1, "refuted"),
        (Difference(-1.0, -2.5, 0.5, 3), -1, "undecided: the interval holds 0"),
        (Difference(-1.0, None, None, 1), -1, "undecided: too few pieces are finished"),
        (None, 1, "undecided: too few pieces are finished"),
    ],
)
def test_a_verdict_is_that_of_the_interval(found, claimed, says):
    assert verdict(found, claimed) == says


def test_claims_have_their_numbers():
    rows = {claim: (measured, pairs, state) for claim, _, measured, pairs, state in claims(DARTS)}
    assert rows["DARTS ends in operations without weights"][1:] == ("3", "confirmed")
    assert rows["The largest eigenvalue rises"][0].endswith("in 1 of 3 searches")
    # 4, 5 and 4.5 more: t of two degrees of freedom is 4.303, and 4.303 * 0.5 / sqrt(3) is 1.24
    assert "+4.50 [+3.26, +5.74]" in rows["The derived cell gets worse"][0]
    assert rows["The derived cell gets worse"][2] == "confirmed"
    assert rows["DARTS-PT finds better cells than DARTS"][1:] == ("3", "confirmed")  # by 4, 3.5 and 4
    assert rows["A single level finds worse cells than two"][2].startswith("undecided")


def test_the_page_says_what_is_missing_and_shows_what_is_there():
    assert section([]).startswith("0 of ") and "|" not in section([])
    text = section(DARTS)
    assert text.startswith("3 of ") and "(full-length-s2.svg)" in text and list(figures(DARTS)) == ["s2"]
    assert "| s2 | DARTS-PT | 3 | 10.67 ± 0.76 | 1.0 of 8 | -3.83 [-4.55, -3.12] |" in method_table(DARTS)
