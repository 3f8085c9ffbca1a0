"""Sweeps: the points of a file, searches here and by workers, and searches that diverge."""

import json
import os
import re
import tomllib

import pytest
import tomli_w

import fastdarts
from fastdarts.cli.entry import main
from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.runs.run import Run
from fastdarts.study import sweep as sweeps
from fastdarts.study.sweep import Sweep, read_points, sweep
from fastdarts.study.worker import work
from fastdarts.testing import TINY

COMMON = {name: value for name, value in TINY.items() if name not in ("run", "loggers")} | {
    "space": "tiny",
    "epochs": 1,
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "settings.toml"
    swept = {"method": ["darts", "gdas"], "seed": [1, 2]}
    path.write_text(tomli_w.dumps(COMMON | {"loggers": [], "sweep": swept}), encoding="utf-8")
    return path


def changed(file, **settings):
    values = tomllib.loads(file.read_text(encoding="utf-8")) | settings
    file.write_text(
        tomli_w.dumps({name: value for name, value in values.items() if value is not None}), encoding="utf-8"
    )
    return file


def test_points_are_all_combinations_with_the_settings_of_their_methods(file):
    varied, points = read_points(changed(file, gdas={"tau_start": 3.0}))
    assert varied == {"method": ["darts", "gdas"], "seed": [1, 2]}
    names = ["method_darts-seed_1", "method_darts-seed_2", "method_gdas-seed_1", "method_gdas-seed_2"]
    assert [point.name for point in points] == names
    assert [point.settings["seed"] for point in points] == [1, 2, 1, 2]
    assert [point.settings.get("tau_start") for point in points] == [None, None, 3.0, 3.0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sweep": None}, r"has no values to sweep: expected a table \[sweep\] such as seed"),
        ({"sweep": {"seed": 3}}, "has no values to sweep"),
        ({"sweep": {"seed": []}}, "has no values to sweep"),
        ({"sweep": {"seed": [1, 1]}}, "has seed_1 twice"),
        ({"sweep": {"seed": [1, -1]}}, "--seed is -1: expected 0 or more"),
        ({"sweep": {"method": ["darts", "bogus"]}}, "cannot be used: --method is 'bogus'"),
        ({"run": "here"}, "sets run or resume: each search has a folder in that of the sweep"),
        ({"epoch": 3}, "unknown setting 'epoch'"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_before_any_work(tmp_path, file, settings, words):
    with pytest.raises(FastdartsError, match=words):
        sweep(Sweep(changed(file, **settings), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_searches_are_those_alone_here_and_by_workers(tmp_path, file, capsys, monkeypatch):
    pytest.importorskip("optuna", reason="needs the extra blackbox")
    main(["sweep", str(file), "--run", str(tmp_path / "here")])
    said = capsys.readouterr().out
    assert "gdas" in said and "darts" in said and (tmp_path / "here" / "compare.html").exists()
    found = json.loads((tmp_path / "here" / "sweep.json").read_text(encoding="utf-8"))["points"]
    alone = fastdarts.search(**COMMON, method="gdas", seed=2, run=tmp_path / "alone", loggers=())
    assert found[3]["settings"] == {"method": "gdas", "seed": 2} and found[3]["metric"] == alone["valid_error"]
    monkeypatch.setattr(sweeps, "search", None)  # what is done is not done again
    assert sweep(Sweep(file, tmp_path / "here"))["points"] == found
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    storage = str(tmp_path / "shared.journal")
    shared = Sweep(file, tmp_path / "shared", 0, storage)
    with pytest.raises(SystemExit):
        sweep(shared)
    assert "0 of 4 searches are done; start workers by" in capsys.readouterr().err
    assert work(storage, "shared") == 4
    others = sweep(shared)["points"]
    assert [one["metric"] for one in others] == [one["metric"] for one in found]
    with pytest.raises(FastdartsError, match="the storage has another study shared: choose another --study"):
        sweep(Sweep(changed(file, epochs=2), tmp_path / "other", 0, storage, "shared"))


def test_a_worker_goes_on_with_the_search_of_another_one(tmp_path, file, monkeypatch, capsys):
    pytest.importorskip("optuna", reason="needs the extra blackbox")
    file = changed(file, epochs=2, sweep={"seed": [1]})
    expected = sweep(Sweep(file, tmp_path / "here"))["points"][0]["metric"]
    shared, real, rows = Sweep(file, tmp_path / "shared", 0), Run.record, []

    class Killed(BaseException):
        pass

    def record(*arguments):
        rows.append(arguments[1]["epoch"])
        if len(rows) == 2:
            raise Killed
        return real(*arguments)

    with pytest.raises(SystemExit):
        sweep(shared)
    storage = re.search(r"--storage (\S+)", capsys.readouterr().err)[1]
    monkeypatch.setattr(Run, "record", record)
    with pytest.raises(Killed):
        work(storage, "shared")
    assert work(storage, "shared") == 1 and rows == [0, 1, 1]
    assert sweep(shared)["points"][0]["metric"] == expected


def test_a_search_that_diverges_ends_alone(tmp_path, file, monkeypatch, capsys):
    pytest.importorskip("optuna", reason="needs the extra blackbox")
    real = sweeps.search

    def search(config):
        if config.seed == 1:
            raise NotFinite("loss", float("nan"), "training", "epoch 0, step 1")
        return real(config)

    monkeypatch.setattr(sweeps, "search", search)
    file = changed(file, sweep={"seed": [1, 2]})
    found = sweep(Sweep(file, tmp_path / "here"))["points"]
    assert "the loss is nan" in found[0]["failed"] and found[1]["metric"] > 0
    shared = Sweep(file, tmp_path / "shared", 0)
    with pytest.raises(SystemExit):
        sweep(shared)
    storage = re.search(r"--storage (\S+)", capsys.readouterr().err)[1]
    work(storage, "shared")
    assert [one.get("failed") for one in sweep(shared)["points"]] == [found[0]["failed"], None]
    with pytest.raises(FastdartsError, match="all 1 searches have failed, the first one because the loss is nan"):
        sweep(Sweep(changed(file, sweep={"seed": [1]}), tmp_path / "failed"))
