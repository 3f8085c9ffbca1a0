"""The page on searches of full length: outcomes, differences by seed and claims from pieces written by hand."""

from benchmarks.full_length_page import Outcome, claims, figures, hours, method_table, outcomes, section


def cell(skips, error, epoch="result"):
    normal = [["skip_connect" if n < skips else "sep_conv_3x3", n % 2] for n in range(8)]
    return {"epoch": epoch, "genotype": {"normal": normal, "first": error}, "test_error": error, "seconds": 360.0}


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
    found |= {"result": {"seconds": 1440.0}}
    return found | ({"projection": cell(1, projection)} if projection else {})


def random_cells(*errors):
    """As many cells as there are errors; each takes a quarter of the time of a search."""
    facts = {"piece": "s2-random-0", "variant": "random", "space": "s2", "seed": 0, "machine": DARTS[0]["machine"]}
    return facts | {"derived": [cell(2, error) for error in errors]}


DARTS = [
    piece("darts", 0, 8, [10.0, 11.0, 12.0, 13.0, 14.0], projection=10.0, stop=[30, 18]),
    piece("darts", 1, 6, [10.0, 11.0, 12.0, 13.0, 15.0], projection=11.5),
    piece("darts", 2, 3, [10.0, 11.0, 12.0, 13.0, 14.5], projection=10.5),
]


def test_outcomes_are_read_from_pieces():
    by = outcomes(DARTS)
    assert by["darts"]["s2", 0] == Outcome(14.0, 8, 8, 1440.0)
    assert by["darts-pt"]["s2", 1] == Outcome(11.5, 1, 8, 1440.0 + 360.0)  # that of its supernet comes first
    # the epoch to which the search returns; it ends after 31 epochs of 50
    assert by["darts-es"]["s2", 0] == Outcome(5.0, 0, 8, 1440.0 * 31 / 50)
    assert by["darts-es"]["s2", 1] == by["darts"]["s2", 1]  # nothing was detected, so it is DARTS
    assert ("s2", 0) not in by["darts-ada"] and by["darts-ada"]["s2", 2] == by["darts"]["s2", 2]


def test_claims_have_their_numbers():
    rows = {claim.claim: claim for claim in claims(DARTS)}
    ends = rows["DARTS ends in operations without weights"]
    assert (ends.n, ends.verdict, ends.measured) == (3, "confirmed", "half of a cell or more: 2 of 3")
    assert rows["The largest eigenvalue rises"].measured == "detected: 1 of 3"
    # it is detected after epoch 30, and the second cell, after epoch 19, is worse than the first
    assert rows["It rises before the derived cell gets worse"].verdict == "refuted"
    # 4, 5 and 4.5 more: t of two degrees of freedom is 4.303, and 4.303 * 0.5 / sqrt(3) is 1.24
    worse = rows["The derived cell gets worse"]
    assert worse.measured == "epoch 50 − 10: +4.50\u00a0[+3.26,\u00a0+5.74]" and worse.verdict == "confirmed"
    assert worse.needed == "10"  # half a point is one standard deviation
    better = rows["DARTS-PT finds better cells than DARTS"]
    assert (better.n, better.verdict) == (3, "confirmed")  # by 4, 3.5 and 4
    assert rows["A single level finds worse cells than two"].n == 0


def test_a_rise_comes_before_the_next_derived_cell_after_the_best_one():
    late = piece("darts", 3, 2, [12.0, 11.0, 10.0, 13.0, 14.0], stop=[34, 24])
    early = {claim.claim: claim for claim in claims([late])}["It rises before the derived cell gets worse"]
    assert early.measured == "it does: 1 of 1"  # the best one is derived after epoch 29, the next one after 39
    better = piece("darts", 3, 2, [12.0, 11.0, 13.0, 10.0, 10.0], stop=[34, 24])
    never = {claim.claim: claim for claim in claims([better])}["It rises before the derived cell gets worse"]
    assert never.verdict == "refuted"  # the last cell is the best one
    none = {claim.claim: claim for claim in claims(DARTS[1:])}["It rises before the derived cell gets worse"]
    assert (none.n, none.why) == (0, "no rise detected")


def test_chance_is_the_mean_of_the_random_cells_of_the_space():
    found = [*DARTS, random_cells(14.0, 16.0, 18.0)]
    row = {claim.claim: claim for claim in claims(found)}["DARTS finds cells at most 0.5 points better than chance"]
    # 14, 15 and 14.5 beside 16
    assert row.measured == "-1.50\u00a0[-2.74,\u00a0-0.26]" and (row.verdict, row.why) == ("undecided", "holds -0.5")


def test_the_page_says_what_is_missing_and_shows_what_is_there():
    assert section([]).startswith("0 of ") and "|" not in section([])
    text = section(DARTS)
    assert text.startswith("3 of ") and "(full-length-s2.svg)" in text and list(figures(DARTS)) == ["s2"]
    # 5 cells and that of DARTS-ES of six minutes, the search of 24, the projection of six
    assert hours(DARTS[0]) == (6 * 360 + 1440 + 360) / 3600 and "3.1 hours" in text
    row = "| s2 | DARTS-PT | 3 | 10.67 ± 0.76 | 1.0 of 8 | -3.83 [-4.55, -3.12] | 5 | – |"
    assert row in method_table(DARTS)


def test_the_best_of_random_cells_has_the_time_of_the_search():
    table = method_table([*DARTS, random_cells(14.0, 16.0, 18.0, 20.0, 22.0)])
    # a search takes the time of 4 trainings: of the five draws of four cells four hold 14, and one has 16 as its best
    assert "| s2 | DARTS | 3 | 14.50 ± 0.50 | 5.7 of 8 | – | – | 14.40 of 4 |" in table
    # with its projection it takes that of 5, which are all there are
    assert table.splitlines()[4].endswith("| 14.00 of 5 |") and "DARTS-PT" in table.splitlines()[4]
    short = method_table([*DARTS, random_cells(14.0, 16.0)])
    assert "| 14.00 of 2 (4 would be equal) |" in short
