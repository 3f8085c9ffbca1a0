"""The table of every method under one budget: means, differences by seed, and no line for what was not evaluated."""

from benchmarks.every_method_page import every_method, families

HEAD = "group,method,seed,test,valid,skips,parameters,macs,seconds,memory,evaluations,folder\n"


def test_lines_are_ordered_by_their_error_and_paired_by_seed(tmp_path):
    base = [(f"darts (unrolled False),darts,{seed},{20 + seed},9,2,1000,5,10,1048576,1,a") for seed in (0, 1, 2)]
    other = [f"gdas,gdas,{seed},{error},9,1,2000,5,30,2097152,1,b" for seed, error in ((0, 19), (1, 18), (2, 20))]
    path = tmp_path / "found.csv"
    path.write_text(HEAD + "\n".join([*base, *other, "blank,blank,0,,9,2,,,5,1048576,0,c"]), encoding="utf-8")
    first, second = every_method(path).splitlines()[2:]
    # -1, -3 and -2: t of two degrees of freedom is 4.303, and 4.303 / sqrt(3) is 2.48
    assert first == "| gdas | 3 | 19.00 ± 1.00 | -2.00 [-4.48, +0.48] | 1.0 | 2,000 | 30 | 2 |"
    assert second == "| darts first order | 3 | 21.00 ± 1.00 | – | 2.0 | 1,000 | 10 | 1 |"


def test_nothing_is_shown_before_it_was_measured(tmp_path):
    assert every_method(tmp_path / "none.csv") == "Not measured yet."
    assert families(tmp_path / "none.csv") == "Not measured yet."


def test_families_are_beside_random_search(tmp_path):
    rows = [(f"{name},{name},{seed},{error + seed},9,2,1000,5,10,1048576,1,a") for seed in (0, 1, 2)
            for name, error in (("random", 20), ("darts", 21))]  # fmt: skip
    path = tmp_path / "found.csv"
    path.write_text(HEAD + "\n".join(rows), encoding="utf-8")
    head, _, first, second = families(path).splitlines()
    assert "| beside random search, points |" in head
    assert first == "| random | 3 | 21.00 ± 1.00 | – | 2.0 | 1,000 | 10 | 1 |"
    assert second == "| darts | 3 | 22.00 ± 1.00 | +1.00 [+1.00, +1.00] | 2.0 | 1,000 | 10 | 1 |"
