"""The page of results: measured claims stand beside each other, the others wait, and the newest figure is on top."""

from benchmarks.claims import NONE_YET, Claim
from benchmarks.results_page import claims_section, hero

ROWS = [
    Claim("one", "A", "here", "–", 0, "–", "undecided", NONE_YET),
    Claim("two", "A", "here", "1", 3, "5", "confirmed", "above 0"),
    Claim("one", "A", "there", "2", 3, "5", "undecided", "holds 0"),
    Claim("two", "A", "there", "–", 0, "–", "undecided", "no rise detected"),
]


def test_claims_are_grouped_and_counted():
    text = claims_section(ROWS)
    assert text.startswith("**So far: 1 confirmed, 0 in part, 0 refuted, 2 undecided.**")
    assert [line.split(" | ")[0] for line in text.splitlines() if "**" in line][1:] == ["| one", "| two", "| "]
    assert "<summary>1 more wait" in text and "- one (here)." in text


def test_the_figure_on_top_is_that_of_full_length_once_there_is_one():
    assert "(tiny-regret.svg)" in hero([])
    piece = {"variant": "darts", "space": "s2", "machine": {"cpu": "x", "isa": "avx2"}, "result": {"seconds": 7200.0}}
    assert "(full-length-s2.svg)" in hero([piece | {"derived": []}]) and "2.0 hours" in hero([piece | {"derived": []}])
    assert "(tiny-regret.svg)" in hero([piece | {"space": "s1"}])
