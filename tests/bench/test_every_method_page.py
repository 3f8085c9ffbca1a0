"""The table of every method under one budget: means, differences by seed, and no line for what was not evaluated."""

from benchmarks.every_method_page import claims, every_method, figure, read, section

HEAD = "group,method,seed,test,valid,skips,parameters,macs,seconds,memory,evaluations,folder\n"


def test_lines_are_ordered_by_their_error_and_paired_by_seed(tmp_path):
    base = [(f"darts (unrolled False),darts,{seed},{20 + seed},9,2,1000,5,10,1048576,1,a") for seed in (0, 1, 2)]
    other = [f"gdas,gdas,{seed},{error},9,1,2000,5,30,2097152,1,b" for seed, error in ((0, 19), (1, 18), (2, 20))]
    path = tmp_path / "found.csv"
    path.write_text(HEAD + "\n".join([*base, *other, "blank,blank,0,,9,2,,,5,1048576,0,c"]), encoding="utf-8")
    first, second = every_method(read(path)).splitlines()[2:]
    # -1, -3 and -2: t of two degrees of freedom is 4.303, and 4.303 / sqrt(3) is 2.48
    assert first == "| gdas | 3 | 19.00 ± 1.00 | -2.00 [-4.48, +0.48] | 34 | 1.0 | 2,000 | 30 | 2 |"
    assert second == "| darts first order | 3 | 21.00 ± 1.00 | – | – | 2.0 | 1,000 | 10 | 1 |"


def test_nothing_is_shown_before_it_was_measured(tmp_path):
    found = read(tmp_path / "none.csv")
    assert section(found) == "Not measured yet." and [*claims(found)] == []


def test_claims_and_the_figure_have_the_names_of_methods(tmp_path):
    rows = [f"{name},darts,{seed},{error},9,2,1,5,360,1,1,a" for name, error in (
        ("darts (unrolled False)", 20), ("darts (unrolled True)", 21), ("random", 20)) for seed in (0, 1)]  # fmt: skip
    path = tmp_path / "found.csv"
    path.write_text(HEAD + "\n".join(rows), encoding="utf-8")
    found = {claim.claim: claim.verdict for claim in claims(read(path))}
    assert found["The second order finds better cells than the first"] == "refuted"
    assert found["Random search is at most 0.5 points worse than DARTS"] == "confirmed"
    assert "darts second order" in figure(read(path)) and "6 searches" in section(read(path))
    assert "0.6 hours" in section(read(path))
