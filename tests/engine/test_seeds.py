"""Searches with several seeds: one folder each, and the same call goes on."""

import dataclasses
import json

import pytest

import fastdarts.engine.seeds
from fastdarts.cli.entry import main
from fastdarts.engine.search import search
from fastdarts.engine.seeds import default_name, search_seeds
from fastdarts.errors import FastdartsError
from fastdarts.runs.run import Run
from fastdarts.tasks.settings import SearchConfig
from fastdarts.testing.outcomes import difference, outcome

TINY = {"epochs": 1, "channels": 4, "layers": 3, "nodes": 1, "batch_size": 16, "samples": 64, "gap_every": 0,
        "threads": 1, "device": "cpu"}  # fmt: skip


def test_the_same_call_goes_on_after_a_stop_and_adds_seeds(tmp_path, monkeypatch):
    config = SearchConfig(**TINY, seed=5, run=tmp_path / "both", checkpoint_minutes=0)
    saves, real = [], Run.save

    def save(self, *arguments):
        real(self, *arguments)
        saves.append(self.folder.name)
        if saves.count("seed_6") == 2:  # after a step of the second search
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", save)
        with pytest.raises(KeyboardInterrupt):
            search_seeds(config, 2)
    assert (tmp_path / "both" / "seed_5" / "result.json").exists()
    assert not (tmp_path / "both" / "seed_6" / "result.json").exists()
    done, real_search = [], search
    monkeypatch.setattr(fastdarts.engine.seeds, "search", lambda c: done.append(c.seed) or real_search(c))
    found = search_seeds(config, 2)
    folders = [str(tmp_path / "both" / f"seed_{seed}") for seed in (5, 6)]
    assert done == [6] and [result["run"] for result in found["results"]] == folders
    search(dataclasses.replace(config, seed=6, run=tmp_path / "alone"))
    assert not difference(outcome(tmp_path / "both" / "seed_6"), outcome(tmp_path / "alone"))
    assert json.loads((tmp_path / "alone" / "usage.json").read_text(encoding="utf-8"))["peak_memory"] > 2**20
    done.clear()
    search_seeds(config, 2)
    assert not done
    with pytest.raises(FastdartsError, match="--channels is 8 but the run to resume has 4"):
        search_seeds(dataclasses.replace(config, channels=8), 2)
    with pytest.raises(FastdartsError, match="the folder of one run"):
        search_seeds(dataclasses.replace(config, run=tmp_path / "alone"), 2)
    with pytest.raises(FastdartsError, match="--seeds and --resume"):
        search_seeds(dataclasses.replace(config, run=None, resume=tmp_path / "alone"), 2)


def test_a_folder_without_a_name_follows_from_the_settings():
    config = SearchConfig(**TINY)
    names = [default_name(dataclasses.replace(config, **change)) for change in ({}, {"seed": 9}, {"threads": 2})]
    assert len({*names}) == 1 and names[0].startswith("seeds-digits-darts-")
    assert default_name(dataclasses.replace(config, epochs=2)) != names[0]


def test_the_command_ends_with_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["search", *(f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()), "--seeds=2", "--run=two"])
    out = capsys.readouterr().out
    assert "(n=2)" in out and "page two/compare.html" in out and (tmp_path / "two" / "compare.html").exists()
