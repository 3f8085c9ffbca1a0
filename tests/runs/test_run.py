"""Run folders: names, what a run that fails leaves, files that cannot be read or written; state of the process."""

import dataclasses
import errno
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch

import fastdarts.runs.run
from fastdarts.cli.entry import main
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.notices import Notice
from fastdarts.runs import writer as recorder
from fastdarts.runs.checkpoint import load_checkpoint, save_checkpoint
from fastdarts.runs.run import Run, stored_config
from fastdarts.runs.writer import Recorder, atomic_write, read_metrics
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig
from fastdarts.testing.outcomes import alike, without_clocks
from tests.support.paths import DATA

TINY = SearchConfig(
    space="tiny", nodes=1, channels=4, layers=3, samples=48, batch_size=16, epochs=2, threads=1, device="cpu",
    gap_every=0,
)  # fmt: skip


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    class Clock:
        now = staticmethod(lambda: Clock)
        strftime = staticmethod(lambda _: "20260101-000000")

    monkeypatch.setattr(fastdarts.runs.run, "datetime", Clock)
    monkeypatch.chdir(tmp_path)
    runs = [Run(TINY, "search", "digits-darts") for _ in range(3)]  # all have looked before one of them begins
    names = []
    for run in runs:
        with run:
            run.due()
            names.append(run.folder.name)
            assert run.config.run == run.folder
    first = "search-digits-darts-20260101-000000"
    assert names == [first, f"{first}-2", f"{first}-3"]


def test_of_two_runs_that_begin_in_the_same_folder_the_second_is_refused_and_the_first_stays(tmp_path):
    config = dataclasses.replace(TINY, run=tmp_path / "run")
    first, second = Run(config, "search", ""), Run(config, "search", "")
    with first:
        first.due()
    with (
        pytest.raises(FastdartsError, match="exists and is not an empty folder: go on with its run by --resume"),
        second,
    ):
        pass
    assert (tmp_path / "run" / "config.toml").exists()


@pytest.mark.parametrize("there", [False, True], ids=["new folder", "empty folder"])
@pytest.mark.parametrize("error", [RuntimeError("a fault"), MemoryError(), KeyboardInterrupt()], ids=repr)
def test_a_run_that_fails_before_its_first_step_is_done_leaves_nothing(tmp_path, monkeypatch, error, there):
    def fails(*_):
        raise error

    monkeypatch.setattr(SearchStep, "step", fails)
    if there:
        (tmp_path / "run").mkdir()
    with pytest.raises(type(error)):
        search(dataclasses.replace(TINY, run=tmp_path / "run"))
    assert [*tmp_path.rglob("*")] == ([tmp_path / "run"] if there else [])


def test_a_run_that_fails_later_keeps_its_last_checkpoint_and_no_state_that_is_not_finite(tmp_path, monkeypatch):
    """The second step makes a weight infinite, though its loss and its gradients are finite."""
    original, run, steps = SearchStep.step, tmp_path / "run", []

    def overflows(self, *arguments):
        found = original(self, *arguments)
        steps.append(1)
        if len(steps) == 2:
            with torch.no_grad():
                self.model.classifier.bias[0] = float("inf")
        return found

    monkeypatch.setattr(SearchStep, "step", overflows)
    with pytest.raises(NotFinite, match=r"^the supernet\.model\.classifier\.bias is inf at epoch 0, step 2 on"):
        search(dataclasses.replace(TINY, batch_size=8, checkpoint_minutes=0, run=run))
    assert load_checkpoint(run / "checkpoint.pt", "search")["step"] == 1
    monkeypatch.setattr(SearchStep, "step", original)
    search(dataclasses.replace(TINY, batch_size=8, checkpoint_minutes=0, resume=run))
    assert len(read_metrics(run)) == 2


def test_weights_that_are_not_finite_are_no_result(tmp_path, monkeypatch):
    """A running variance becomes infinite in the last step, whose state is never a checkpoint."""
    from fastdarts.engine.training import Training

    original = Training.step

    def overflows(self, *arguments):
        original(self, *arguments)
        self.model.stem[1].running_var[0] = float("inf")

    monkeypatch.setattr(Training, "step", overflows)
    config = EvaluateConfig(
        genotype="DARTS_V2", epochs=1, channels=4, layers=3, samples=32, batch_size=16, threads=1, device="cpu:0",
        auxiliary=False, run=tmp_path / "run",
    )  # fmt: skip
    with pytest.raises(NotFinite, match=r"^the stem\.1\.running_var is inf at the end"):
        evaluate(config)
    assert not [*(tmp_path / "run").glob("weights*")]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_holds_no_tensor_that_is_not_finite(tmp_path, value):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, "search", {"a": [torch.ones(2)], "elapsed": value})  # a number may be: the best of no epoch
    before = path.read_bytes()
    with pytest.raises(NotFinite, match=r"^the a\.0\.b is "):
        save_checkpoint(path, "search", {"a": [{"b": torch.tensor([1.0, value])}]})
    assert path.read_bytes() == before


def test_temporary_files_of_killed_writes_are_cleared_below_the_folder_too(tmp_path):
    run = tmp_path / "run"
    with Run(dataclasses.replace(TINY, run=run), "search", "") as first:
        first.due()
    (run / "epochs").mkdir()
    left = [run / ".checkpoint.pt.123.tmp", run / "epochs" / ".epoch_3.pt.123.tmp"]
    for path in left:
        path.write_bytes(b"half")
    with Run(dataclasses.replace(TINY, resume=run), "search", ""):
        assert not any(path.exists() for path in left)


def test_a_full_disk_is_named_with_the_file(tmp_path, monkeypatch, capsys):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Recorder(tmp_path / "run") as rows:
        monkeypatch.setattr(recorder.os, "fsync", full)
        with pytest.raises(OSError) as error:
            rows.epoch({"epoch": 0})
        assert error.value.filename == str(tmp_path / "run" / "metrics.jsonl")
    with pytest.raises(OSError) as error:
        atomic_write(tmp_path / "file", b"")
    assert error.value.filename == str(tmp_path / "file") and not [*tmp_path.glob(".*.tmp")]
    with pytest.raises(SystemExit) as ended:
        main(["search", "--epochs=1", f"--run={tmp_path / 'other'}", "--samples=64", "--channels=4", "--layers=3"])
    line = f"fastdarts: cannot read or write {tmp_path / 'other' / 'config.toml'}: No space left on device; free it"
    assert ended.value.code == 2 and line in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "checkpoint.pt", "search", {})

    def denied(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(FastdartsError, match=r"^cannot read the checkpoint .*checkpoint\.pt: Permission denied$"):
        load_checkpoint(tmp_path / "checkpoint.pt", "search")


def rows_of(run: Path) -> list[dict]:
    return [without_clocks(row) for row in read_metrics(run)]


def test_searches_in_threads_equal_searches_alone_and_leave_no_state(tmp_path):
    configs = [dataclasses.replace(TINY, seed=seed) for seed in (0, 1)]
    torch.manual_seed(123)
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    before = torch.get_rng_state(), torch.get_num_threads()
    alone = [search(dataclasses.replace(config, run=tmp_path / f"alone-{config.seed}")) for config in configs]
    evaluate(EvaluateConfig(
        genotype=json.dumps(alone[0]["genotype"]), epochs=1, channels=4, layers=3, samples=32, batch_size=16, threads=1,
        device="cpu", auxiliary=False, run=tmp_path / "evaluated",
    ))  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.get_num_threads() == before[1]
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == flags

    def work(config: SearchConfig) -> None:
        search(dataclasses.replace(config, run=tmp_path / f"beside-{config.seed}"))

    with pytest.warns(Notice, match="another run works in this process"):
        threads = [threading.Thread(target=work, args=(config,)) for config in configs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for seed in (0, 1):
        assert rows_of(tmp_path / f"beside-{seed}") == rows_of(tmp_path / f"alone-{seed}")
        a, b = (
            load_checkpoint(tmp_path / f"{name}-{seed}" / "checkpoint.pt", "search") for name in ("beside", "alone")
        )
        assert all(map(torch.equal, a["supernet"]["alphas"], b["supernet"]["alphas"]))


@pytest.mark.parametrize(("work", "kind", "place"), [(search, "search", (0, 1)), (evaluate, "evaluate", (1, 0))])
def test_a_run_that_an_earlier_version_left_half_done_goes_on(tmp_path, work, kind, place):
    """The folders in tests/data/version1 were written before checkpoints had digests, and stopped on the way."""
    run = tmp_path / "run"
    shutil.copytree(DATA / "version1" / kind, run)
    state = load_checkpoint(run / "checkpoint.pt", kind)
    assert state["version"] == 1 and (state["epoch"], state["step"]) == place
    rows = read_metrics(run)
    config = stored_config(run, kind, SearchConfig if kind == "search" else EvaluateConfig)
    work(dataclasses.replace(config, run=None, resume=run))
    assert read_metrics(run)[: len(rows)] == rows and len(read_metrics(run)) == 2


@pytest.mark.parametrize(
    ("method", "kept"), [("darts", True), ("darts", False), ("darts-es", True), ("darts-pt", True)],
    ids=["within an epoch", "before the first checkpoint", "after going back", "within a decision"],
)  # fmt: skip
def test_a_search_of_version_2_goes_on_to_where_that_version_came(tmp_path, method, kept):
    """The folders in tests/data/version2 are of the last program whose settings were one class for all methods and
    whose checkpoints did not keep policies by name. Its own rows and result are in whole.json."""
    run, stored = tmp_path / "run", DATA / "version2" / method
    shutil.copytree(stored, run)
    whole = json.loads((run / "whole.json").read_text(encoding="utf-8"))
    state = torch.load(run / "checkpoint.pt")
    assert state["version"] == 2 and "policies" not in state and state["epoch"] == (4 if method == "darts-es" else 0)
    assert (state["step"], len(state["history"]), bool(state["tally"])) == {
        "darts": (1, 0, False), "darts-es": (0, 1, False), "darts-pt": (0, 1, True),
    }[method]  # fmt: skip
    assert {"ada_factor", "lambda_radius", "genotypes"} <= state["config"].keys()  # of other methods
    if not kept:
        (run / "checkpoint.pt").unlink()
    config = stored_config(run, "search", SearchConfig)
    found = search(dataclasses.replace(config, run=None, resume=run))
    assert found.pop("run") == str(run)
    assert alike({"rows": rows_of(run), "result": without_clocks(found)}, whole)


def test_a_search_on_text_of_version_3_goes_on_to_where_that_version_came(tmp_path):
    """The folder tests/data/version3/text is of the last program in which recurrent cells had a search of their own;
    it was stopped within the first epoch. Its own rows and result are in whole.json."""
    run = tmp_path / "run"
    shutil.copytree(DATA / "version3" / "text", run)
    state = torch.load(run / "checkpoint.pt")
    assert state["version"] == 3 and "hidden" in state["supernet"] and state["step"] > 0
    config = dataclasses.replace(stored_config(run, "search", SearchConfig), data=DATA / "kjv", run=None, resume=run)
    assert config.task == "language" and config.method == "darts"
    found = search(config)
    assert found.pop("run") == str(run)
    whole = json.loads((run / "whole.json").read_text(encoding="utf-8"))
    assert alike({"rows": rows_of(run), "result": without_clocks(found)}, whole)
