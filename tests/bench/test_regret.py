"""Regret against trained tables: pieces are made once, and their numbers are those of the table."""

import json

import pytest

from benchmarks import regret
from benchmarks.regret import Store, fill_sample, names, sampled, settings_of, take_study, title, work
from benchmarks.regret_page import Result, agreement, claims, figures, method_table, results, section
from fastdarts.errors import FastdartsError
from fastdarts.study.tiny import architectures, operations

WANTED = "dataset", "image_size", "samples", "test_samples", "channels", "layers", "epochs", "seeds"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The same settings on so few images that a piece takes seconds, and few methods; returns the folder of runs."""
    whole = regret.SETTINGS
    images = {"samples": 64, "image_size": 8}
    settings = whole | {
        "shared": whole["shared"] | {"dataset": "digits", "channels": 4, "batch_size": 32},
        "search": whole["search"] | {"epochs": 1, "seeds": [0]},
        "tiny": whole["tiny"] | images,
        "nasbench201": whole["nasbench201"] | images | {
            "sample": {"cells": 3, "seed": 0, "twice": 2},
            "train": whole["nasbench201"]["train"] | images | {"epochs": 1},
        },
    }  # fmt: skip
    monkeypatch.setattr(regret, "SETTINGS", settings)
    monkeypatch.setattr(regret, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(regret, "names", lambda: ["darts", "darts-pt", "sgas"])
    monkeypatch.setattr(regret, "facts", lambda: {"cpu": "x", "isa": "avx2"})
    monkeypatch.setattr(regret, "CHUNK", 2)
    return tmp_path / "runs"


def test_every_method_that_trains_a_supernet_is_asked():
    assert {"darts", "gdas", "darts-pt", "random-ws", "darts-second-order"} <= {*names()}
    assert {"random", "blank", "evolution"}.isdisjoint(names())
    found = settings_of("tiny", "pc-darts")
    assert found["arch_learning_rate"] == 6e-3 and found["warmup"] == 7 and found["space"] == "tiny"  # ten times 6e-4
    assert "arch_learning_rate" not in settings_of("nasbench201", "random-ws")
    assert "resource_weight" not in settings_of("nasbench201", "darts")


def test_the_sample_is_trained_once_and_what_is_found_alike(small):
    work("nasbench201", small)
    store = Store("nasbench201")
    cells = [title(cell) for cell in sampled()]
    assert len({*cells}) == 3 and [row["architecture"] for row in store.found["table"]][:3] == cells
    assert [len(store.errors(cell)) for cell in cells] == [2, 2, 1]
    assert [(one["method"], one["seed"]) for one in store.found["searches"]] == [("darts", 0), ("darts-pt", 0)]
    assert all(len(store.errors(one["architecture"])) >= 1 for one in store.found["searches"])
    assert "sgas" in store.found["refused"] and store.found["core_seconds"] > 0
    alone = regret.trained(small / "again", sampled()[2:], 0)
    assert alone == store.errors(cells[2])  # a cell learns the same alone and after others
    before = store.path.read_bytes()
    fill_sample(store, small)
    assert store.path.read_bytes() == before


def study(folder, error=lambda n: 20.0 + n, **other):
    """A finished study of all architectures, whose n-th one has an error of 20 + n."""
    folder.mkdir()
    settings = {name: regret.SETTINGS["tiny"]["study"][name] for name in WANTED} | other
    rows = [{"operations": operations(g), "test_errors": [error(n)] * 3} for n, g in enumerate(architectures())]
    searches = [{"regrets": [3.0] * 10 + [4.0 + seed], "valid_errors": [50.0] * 10 + [20.0]} for seed in range(3)]
    found = {"settings": settings, "architectures": rows, "searches": searches}
    text = json.dumps(found | {"training_seconds": 60, "search_seconds": 30})
    (folder / "study.json").write_text(text, encoding="utf-8")
    return folder


def test_what_is_found_in_tiny_is_looked_up_in_the_study(small):
    work("tiny", small, study(small.parent / "study"))
    found = Store("tiny").found
    assert len(found["table"]) == 81 and found["core_seconds_of_study"] == 90
    texts = [json.dumps(operations(genotype)) for genotype in architectures()]
    assert [row["architecture"] for row in found["table"]] == texts
    number = texts.index(found["searches"][0]["architecture"])
    assert results(found)["darts"][0] == Result(number, pytest.approx(100 * number / 81))
    rows = {claim.claim: claim for claim in claims({"tiny": found})}
    # 1, 2 and 3 points more: 4.303 / sqrt(3) is 2.48
    assert rows["The derived cell gets worse"].measured == "epoch 50 − 10: +2.00\u00a0[-0.48,\u00a0+4.48]"
    assert rows["The supernet's validation error falls meanwhile"].verdict == "confirmed"


def test_a_study_that_somebody_else_makes_is_waited_for(small, monkeypatch):
    monkeypatch.setattr(regret, "names", list)
    with pytest.raises(FastdartsError, match="is not finished: call this again when it is, or leave --study out"):
        work("tiny", small, small.parent / "study")
    assert not (small.parent / "study").exists()


def test_a_study_with_other_settings_is_refused(small):
    with pytest.raises(FastdartsError, match=r"other settings than regret.toml \(epochs\): name another one"):
        take_study(Store("tiny"), study(small.parent / "study", epochs=9))


FOUND = {
    "space": "nasbench201", "machines": [{"cpu": "x", "isa": "avx2"}], "core_seconds": 1800.0,
    "refused": {"a": "b | c"},
    "table": [
        {"architecture": "p", "sampled": True, "test_errors": [10.0, 11.0]},
        {"architecture": "q", "sampled": True, "test_errors": [12.0, 15.0]},
        {"architecture": "r", "sampled": True, "test_errors": [14.0, 13.0]},
        {"architecture": "s", "sampled": True, "test_errors": [20.0]},
        {"architecture": "t", "sampled": False, "test_errors": [9.0]},
    ],
    "searches": [
        {"method": "darts", "seed": 0, "architecture": "r"}, {"method": "darts", "seed": 1, "architecture": "s"},
        {"method": "gdas", "seed": 0, "architecture": "t"}, {"method": "gdas", "seed": 1, "architecture": "p"},
        {"method": "snas", "seed": 0, "architecture": "not trained yet"},
    ],
}  # fmt: skip


def test_regret_is_that_beside_the_best_random_cell():
    assert results(FOUND) == {
        "darts": {0: Result(4.0, 50.0), 1: Result(10.0, 75.0)},
        "gdas": {0: Result(-1.0, 0.0), 1: Result(0.0, 0.0)},  # a method may find a better one than the sample has
    }
    assert agreement(FOUND) == (pytest.approx(1 / 3), 3)  # of three pairs two are in the same order
    lines = method_table(FOUND).splitlines()[2:]
    assert lines[0].startswith("| gdas | 2 | -0.50 ± 0.71 | 0 | -7.50 [-39.27, +24.27] |")
    assert lines[1].startswith("| *best of 4 random ones* | – | 0.00 |")
    assert lines[2].startswith("| *one random architecture* | – | 4.00 |")  # 0, 2, 4 and 10
    text = section({"nasbench201": FOUND})
    assert "τ = 0.33" in text and "0.5 hours" in text and "| a | b \\| c |" in text
    assert "best of 4 random" in figures({"nasbench201": FOUND})["nasbench201"]


def test_the_page_says_what_regret_waits_for():
    assert section({}) == "No search is finished yet." and figures({}) == {} and [*claims({})] == []
    half = FOUND | {"table": []}
    assert "5 searches are finished, and 0 architectures" in section({"nasbench201": half})
    assert figures({"nasbench201": half}) == {} and [*claims({"nasbench201": half})] == []
