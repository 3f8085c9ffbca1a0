"""Searches of full length: pieces are made once, say what their parts say, and wait for what they need."""

import json

import pytest

from benchmarks import full_length
from benchmarks.full_length import Piece, is_due, pieces, stop_of, work

TINY = {"dataset": "digits", "samples": 64, "channels": 4, "layers": 3, "batch_size": 32, "threads": 1}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The same settings on so few images that a piece takes seconds; returns the folder of the runs."""
    whole = full_length.SETTINGS
    search = whole["search"] | TINY | {"epochs": 2, "gap_every": 0}
    search.pop("image_size")
    settings = {
        "search": search,
        "evaluate": TINY | {"epochs": 1, "auxiliary": False, "cutout": 0.0, "drop_path_prob": 0.0},
        "derived": {"every": 1},
        "early_stopping": whole["early_stopping"],
        "variants": {name: own | {"cells": 2} if "cells" in own else own for name, own in whole["variants"].items()},
    }
    monkeypatch.setattr(full_length, "SETTINGS", settings)
    monkeypatch.setattr(full_length, "RESULTS", tmp_path / "results")
    return tmp_path / "runs"


def test_every_piece_has_a_name_of_its_own_and_darts_comes_before_what_reads_it():
    names = [piece.name for piece in pieces()]
    assert len(set(names)) == len(names) >= 50
    assert [piece.seed for piece in pieces()] == sorted(piece.seed for piece in pieces())
    assert all(names.index(f"{p.space}-darts-{p.seed}") < names.index(p.name) for p in pieces() if "after" in p.own)


def test_a_piece_holds_its_search_its_projection_and_the_cells_of_every_epoch(small):
    piece = Piece("darts", "s2", 1)
    assert is_due(piece)
    work(piece, small)
    found = piece.found()
    assert not is_due(piece)
    assert [row["epoch"] for row in found["rows"]] == [0, 1] and found["stop"] is None
    assert all({"valid_error", "eigenvalue", "genotype", "weights_normal"} <= row.keys() for row in found["rows"])
    assert [cell["epoch"] for cell in found["derived"]] == [0, 1, "result"]
    for cell, row in zip(found["derived"], found["rows"], strict=False):
        assert cell["genotype"] == row["genotype"] and 0 <= cell["test_error"] <= 100
    assert found["derived"][1]["test_error"] == found["derived"][2]["test_error"]  # one cell is trained once
    assert len(found["projection"]["rows"]) == 17  # 14 edges and 2 more nodes, and an epoch
    assert found["projection"]["genotype"] == found["projection"]["rows"][-1]["genotype"]


def test_random_cells_are_trained_alike(small):
    piece = Piece("random", "s4", 0)
    work(piece, small)
    cells = piece.found()["derived"]
    assert len(cells) == 2 and cells[0]["genotype"] != cells[1]["genotype"]
    assert all(0 <= cell["test_error"] <= 100 for cell in cells)


@pytest.mark.parametrize(("stop", "due"), [([20, 12], True), (None, False)])
def test_adaptive_l2_is_run_where_its_rule_detects(small, stop, due):
    piece = Piece("darts-ada", "s4", 0)
    assert not is_due(piece)  # DARTS is not finished
    full_length.RESULTS.mkdir()
    (full_length.RESULTS / "s4-darts-0.json").write_text(json.dumps({"stop": stop}), encoding="utf-8")
    assert is_due(piece) == due


def test_the_rule_reads_every_second_eigenvalue_of_a_trajectory():
    rows = [{"epoch": e, "eigenvalue": 99.0 if e % 2 else 1.0 if e < 20 else 3.0} for e in range(50)]
    # Of epochs 14 to 22 the mean is 1.8, and four measurements before, in the middle of it epoch 10, it is 1. After
    # epoch 20 it is 1.4 already, but the way back would lead to epoch 8, before the first one allowed.
    assert stop_of(rows) == (22, 10)
