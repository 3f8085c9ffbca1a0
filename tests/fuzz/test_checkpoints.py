"""Damaged and edited checkpoints: one sentence, whatever byte has changed and whatever a field holds."""

import dataclasses
import io
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastdarts.engine.search import search
from fastdarts.errors import FastdartsError
from fastdarts.runs.checkpoint import UNSEALED, load_checkpoint
from fastdarts.tasks.settings import SearchConfig
from fastdarts.testing.outcomes import difference, outcome
from tests.support.fuzzing import share

CONFIG = SearchConfig(
    space="tiny", nodes=1, channels=4, layers=3, samples=48, batch_size=16, epochs=2, threads=1, device="cpu",
    gap_every=0, checkpoint_minutes=0,
)  # fmt: skip
HOSTILE = st.sampled_from(
    ["x", "", -1, 10**9, 10**30, 0.5, math.nan, math.inf, None, True, [], {}, [[]], {"a": 1}, b"", torch.ones(2)]
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that was stopped in its second epoch, and beside it the whole one."""
    folder = tmp_path_factory.mktemp("checkpoints")
    search(dataclasses.replace(CONFIG, run=folder / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        steps, original = [], fastdarts_step()

        def stops(*arguments: Any) -> Any:
            steps.append(1)
            if len(steps) == 3:
                raise KeyboardInterrupt
            return original(*arguments)

        patch.setattr("fastdarts.engine.step.SearchStep.step", stops)
        with pytest.raises(KeyboardInterrupt):
            search(dataclasses.replace(CONFIG, run=folder / "stopped"))
    return folder / "stopped"


def fastdarts_step() -> Any:
    from fastdarts.engine.step import SearchStep

    return SearchStep.step


def refused(path: Path) -> None:
    with pytest.raises(FastdartsError) as error:
        load_checkpoint(path, "search")
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@given(data=st.data())
def test_a_changed_byte_is_noticed_wherever_it_is(run, data):
    whole = (run / "checkpoint.pt").read_bytes()
    place, flips = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    damaged = run.parent / "damaged.pt"
    damaged.write_bytes(whole[:place] + bytes([whole[place] ^ flips]) + whole[place + 1 :])
    refused(damaged)


@given(data=st.data())
def test_a_file_that_was_cut_or_has_grown_is_noticed(run, data):
    whole = (run / "checkpoint.pt").read_bytes()
    damaged = run.parent / "damaged.pt"
    cut = st.integers(0, len(whole) - 1).map(lambda length: whole[:length])
    damaged.write_bytes(data.draw(cut | st.binary(min_size=1).map(lambda more: whole + more)))
    refused(damaged)


def test_what_torch_saves_anew_has_lost_its_digest_and_is_refused(run):
    edited = run.parent / "edited.pt"
    torch.save(torch.load(run / "checkpoint.pt") | {"epoch": 1}, edited)
    with pytest.raises(FastdartsError, match="has lost its digest, so it was edited or damaged"):
        load_checkpoint(edited, "search")


def unsealed(path: Path, state: dict[str, Any]) -> None:
    """A checkpoint as the version before digests wrote it."""
    buffer = io.BytesIO()
    torch.save(state | {"version": UNSEALED}, buffer)
    path.write_bytes(buffer.getvalue())


def test_a_checkpoint_of_the_version_before_digests_is_gone_on_with(run, tmp_path):
    old = tmp_path / "run"
    shutil.copytree(run, old)
    unsealed(old / "checkpoint.pt", torch.load(run / "checkpoint.pt"))
    search(dataclasses.replace(CONFIG, resume=old))
    assert not difference(outcome(old), outcome(run.parent / "whole"))


def test_a_changed_byte_of_the_version_before_digests_is_noticed_in_the_data(run, tmp_path):
    unsealed(tmp_path / "old.pt", torch.load(run / "checkpoint.pt"))
    whole = (tmp_path / "old.pt").read_bytes()
    weights = torch.load(run / "checkpoint.pt")["supernet"]["model"]["stem.0.weight"]
    place = whole.index(weights.numpy().tobytes())
    (tmp_path / "old.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    refused(tmp_path / "old.pt")


FIELDS = st.sampled_from(
    ["epoch", "step", "meter", "meter.loss", "meter.count", "arch_loss", "elapsed", "supernet", "supernet.model",
     "supernet.alphas", "supernet.optimizer", "supernet.arch_optimizer", "supernet.scheduler", "supernet.fixed",
     "supernet.scheduler.last_epoch", "history", "tally", "config", "config.epochs", "config.seed", "metrics",
     "random", "version", "fastdarts"]
)  # fmt: skip


@share(3)
@given(field=FIELDS, value=HOSTILE)
def test_an_edited_field_is_one_sentence_or_ends_well(run, field, value):
    folder = run.parent / "edited"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder)
    state = torch.load(run / "checkpoint.pt") | {"version": UNSEALED}
    *path, last = field.split(".")
    inner = state
    for name in path:
        inner = inner[name]
    inner[last] = value
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (folder / "checkpoint.pt").write_bytes(buffer.getvalue())
    try:
        search(dataclasses.replace(CONFIG, resume=folder))
    except FastdartsError as error:
        assert "\n" not in str(error)
    else:  # what may be edited so is no place of the run: another clock, another sum of losses
        assert (folder / "result.json").exists()
        found, whole = outcome(folder), outcome(run.parent / "whole")
        assert not difference(found["state"]["supernet"]["model"], whole["state"]["supernet"]["model"]), field
