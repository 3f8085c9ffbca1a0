"""The page on collapse: its claims and tables say what the rows say."""

import sys

from benchmarks.robustness_page import claims, differences, read, section
from tests.support.paths import ROOT


def row(method, seed, weak, error, note="", space="s2"):
    return {
        "setting": "published", "space": space, "method": method, "seed": str(seed), "weak": str(weak),
        "eigenvalue": "0.5", "valid_error": "30.0", "test_error": str(error), "note": note,
    }  # fmt: skip


ROWS = [
    *(row("darts", seed, weak, 20 + seed) for seed, weak in enumerate((1, 2, 4))),
    *(row("darts-es", seed, 0, 19 + seed, note) for seed, note in enumerate(("back to epoch 4", "never", "never"))),
    *(row("lambda-darts-kept-kinks", seed, 0, 21 + seed) for seed in range(3)),
]


def test_claims_are_those_of_the_rows():
    found = {claim.claim: claim for claim in claims(ROWS) if claim.where == "120 steps"}
    assert found["DARTS ends in operations without weights"].measured == "half of a cell or more: 2 of 3"
    assert found["The largest eigenvalue rises"].measured == "detected: 1 of 3"
    assert found["DARTS-ES finds better cells than DARTS"].verdict == "confirmed"  # by 1 with every seed
    assert found["Λ-DARTS finds better cells than DARTS"].verdict == "refuted"  # by its exact gradient
    assert (
        differences(ROWS, "published")["darts-es"].mean == -1 and found["DARTS-PT finds better cells than DARTS"].n == 0
    )


def test_the_script_writes_what_the_page_reads(tmp_path):
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import robustness
    finally:
        sys.path.remove(str(ROOT / "examples"))
    facts = {"genotype": {}, "weak": 2, "valid_error": 35.25, "test_error": 24.966}
    made = [
        robustness.Row("published", "s2", "darts", 1, eigenvalue=0.41234, **facts),
        robustness.Row("published", "s2", "darts-pt", 1, eigenvalue=None, note="a, b", **facts),
    ]
    path = tmp_path / "table.csv"
    path.write_text(robustness.comma_separated(made), encoding="utf-8")
    first, second = read(path)
    assert first == row("darts", 1, 2, "24.97") | {"eigenvalue": "0.412", "valid_error": "35.2"}
    assert (second["eigenvalue"], second["note"], first.keys()) == ("", "a, b", read()[0].keys())


def test_published_numbers_are_those_of_the_file():
    rows = read()
    assert len(rows) == 2 * 3 * 6 * 3
    text = section(rows)
    assert "| S3 | DARTS | 3 | 3.0 ± 1.7 | 0.323 ± 0.032 | 44.0 ± 2.7 | 25.50 ± 1.65 |" in text
    assert "| S4 | DARTS-PT | 3 | 0.3 ± 0.6 | – | 71.6 ± 5.0 | 26.97 ± 1.23 |" in text
    assert "| S2 | DARTS-ADA | 2 | 3 | 0.331 | 35.9 | 24.97 | back to epoch 6, 8 |" in text
