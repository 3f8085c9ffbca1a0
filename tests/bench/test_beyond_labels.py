"""Searches beyond class labels: pieces hold what their parts say, and the page follows from pieces written by hand."""

import json

import pytest

from benchmarks import beyond_labels
from benchmarks.beyond_labels import Piece, pieces, work
from benchmarks.beyond_labels_page import claims, correlation, equal, figure, section
from fastdarts.compare.statistics import Difference


def cell(error, real=None):
    maps = {"real": {"epe": real, "bad3": 50.0}, "drawn": {"epe": error, "bad3": 50.0}} if real is not None else {}
    return {"genotype": {}, "test_error": error, "parameters": 1000, "macs": 9000} | maps


def piece(what, number, **cells):
    machine = {"cpu": "x", "isa": "avx2"}
    return {"what": what, "number": number, "machine": machine, "stop": [6, 4] if number else None, "cells": cells}


def random_cells(first, second):
    return {"random 0": first, "random 1": second}


FOUND = [
    *(
        piece("stereo-darts", seed, **{"darts": cell(4.0 + seed, 3.0 + gain), "darts-es": cell(4.0 + seed, 3.0)})
        for seed, gain in enumerate((0.0, 0.1, 0.2))
    ),
    *(piece("stereo-random", seed, **random_cells(cell(5.0 + seed, 3.5), cell(7.0 + seed, 4.5))) for seed in range(3)),
    *(piece("images-labels", seed, labels=cell(20.0 + seed)) for seed in range(3)),
    *(piece("images-rotation", seed, rotation=cell(20.0 + seed + 0.1 * (seed - 1))) for seed in range(3)),
    *(piece("sampled", k, images=cell(k), rotation=cell(10 - k), jigsaw=cell((2 * k) % 5)) for k in range(5)),
]


def test_claims_follow_from_the_differences_of_each_seed():
    rows = {claim: tuple(row) for claim, _, *row in claims(FOUND)}
    # random cells of a seed count as their mean: 6, 7, 8 drawn and 4 real ones
    assert rows["Disparity: DARTS finds cells better than random cells, on drawn pairs"] == (
        "EPE − that of random cells: -2.00 [-2.00, -2.00] px", "3", "confirmed", "below 0",
    )  # fmt: skip
    stopped = rows["Disparity: DARTS-ES finds better cells than DARTS, on real pairs"]
    assert stopped[0].startswith("EPE − that of DARTS: -0.10") and stopped[2:] == ("undecided", "holds 0, but not 0.5")
    assert rows["Disparity: published cells are better than random cells, on real pairs"][1:] == (
        "0", "undecided", "no search is finished yet",
    )  # fmt: skip
    same = rows["Cells found by rotation are as good as those found by labels, within 1 point"]
    assert same == ("difference of the test errors: +0.00 [-0.25, +0.25] points", "3", "confirmed", "within 1")
    assert rows["Cells that learn rotation well learn labels well"][0].endswith("-1.00 [-1.00, -1.00]")
    assert rows["Cells that learn rotation well learn labels well"][2] == "refuted"
    assert rows["Cells that learn jigsaw well learn labels well"][2:] == ("undecided", "holds 0")


def test_a_rank_correlation_has_the_interval_of_its_definition():
    r, low, high = correlation([1, 2, 3, 4, 5, 6, 7], [2, 1, 4, 3, 7, 5, 6])
    assert r == pytest.approx(1 - 6 * (1 + 1 + 1 + 1 + 4 + 1 + 1) / (7 * 48))
    # tanh(1.161 ± 1.96 sqrt(1.06 / 4)), of which 1.161 is the half of log(10.2)
    assert (low, high) == pytest.approx((0.151, 0.974), abs=1e-3)
    assert correlation([1, 2, 3], [1, 2, 3]) is None


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Difference(0.2, -0.5, 0.9, 3), ("confirmed", "within 1")),
        (Difference(2.0, 1.2, 2.8, 3), ("refuted", "above 1")),
        (Difference(0.2, -1.5, 1.9, 3), ("undecided", "wider than 1")),
        (Difference(0.2, None, None, 1), ("undecided", "no interval")),
        (None, ("undecided", "no search is finished yet")),
    ],
)
def test_equal_errors_are_those_within_the_margin(found, says):
    assert equal(found, 1.0) == says


def test_the_page_says_what_is_missing_and_shows_what_is_there():
    assert section([]).startswith("0 of ") and "|" not in section([])
    text = section(FOUND)
    assert f"{len(FOUND)} of {len(pieces())} pieces are finished" in text
    assert "DARTS-ES ends its search with seed 0: never; with seed 1: after epoch 7, back to epoch 5" in text
    assert "| found by rotation | 3 | 21.00 ± 1.10 | +0.00 [-0.25, +0.25] | 9,000 | 1,000 |" in text
    assert "| random cells | 6 | 4.00 ± 0.55 | 7.00 ± 1.41 |" in text and "(pretext.svg)" in text
    assert figure(FOUND).count("<circle") == 10 and figure(FOUND[:3]) is None


def test_a_piece_holds_errors_on_real_and_on_drawn_pairs(tmp_path, monkeypatch):
    data = {"dataset": "synthetic", "crop_height": 16, "crop_width": 32, "max_disparity": 6, "threads": 1}
    sizes = {"channels": 2, "layers": 2, "pairs": 4, "epochs": 1, "batch_size": 2}
    settings = {"stereo": {"data": data, "evaluate": sizes}, "random_cells": 1}
    monkeypatch.setattr(beyond_labels, "SETTINGS", settings)
    monkeypatch.setattr(beyond_labels, "RESULTS", tmp_path / "results")
    one = Piece("stereo-random", 1)
    work(one, tmp_path / "runs")
    found = json.loads(one.path.read_text(encoding="utf-8"))
    made = found["cells"]["random 0"]
    # the test of a drawn dataset is the drawn test
    assert made["drawn"]["epe"] == pytest.approx(made["real"]["epe"], rel=1e-5)
    assert made["real"]["epe"] == made["test_error"] and set(made["genotype"]) >= {"normal", "reduce", "upsample"}
    median = beyond_labels.of_the_median()
    assert 0 < median["median"] <= 6 and median["drawn"]["epe"] == median["real"]["epe"]
