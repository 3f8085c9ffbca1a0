"""The page on collapse: its claims and tables say what the rows say."""

from benchmarks.robustness_page import claims, differences, read, section


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


def test_published_numbers_are_those_of_the_file():
    rows = read()
    assert len(rows) == 2 * 3 * 6 * 3
    text = section(rows)
    assert "| S3 | DARTS | 3 | 3.0 ± 1.7 | 0.323 ± 0.032 | 44.0 ± 2.7 | 25.50 ± 1.65 |" in text
    assert "| S4 | DARTS-PT | 3 | 0.3 ± 0.6 | – | 71.6 ± 5.0 | 26.97 ± 1.23 |" in text
    assert "| S2 | DARTS-ADA | 2 | 3 | 0.331 | 35.9 | 24.97 | back to epoch 6, 8 |" in text
