"""Two ranks, started by torchrun on the CPU: they agree bit for bit, and with --sync-bn they do what one does."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.compare import deviations_of
from fastdarts import ranks as distributed
from fastdarts.cli.entry import main
from fastdarts.engine.search import search
from fastdarts.engine.search import search as search_text
from fastdarts.errors import FastdartsError
from fastdarts.notices import Notice
from fastdarts.runs.checkpoint import load_checkpoint
from fastdarts.runs.writer import read_metrics
from fastdarts.tasks.language.settings import search_settings
from fastdarts.testing.outcomes import difference, outcome
from fastdarts.testing.ranks import compare_rounded
from tests.support import ranks
from tests.support.paths import ROOT


def torchrun(*arguments: str, **options) -> subprocess.Popen:
    """Two ranks of ``arguments``."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "--",
        *arguments,
    ]
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=env, **pipes, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    process = torchrun("tests.support.ranks", str(folder))
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return folder


@pytest.fixture(scope="module")
def found(folder) -> list[dict]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", [*ranks.TRAINED, *ranks.APART, "evaluated"])
def test_ranks_agree_bit_for_bit(found, name):
    assert not difference(found[0][name], found[1][name])


@pytest.mark.parametrize("name", ranks.TRAINED)
def test_with_sync_bn_two_ranks_search_as_one(found, name):
    """Alphas, weights, momentum, running statistics and losses, of batches of seven: four and three images."""
    compare_rounded(name, found[0][name], ranks.trained(ranks.TRAINED[name]))


def test_with_sync_bn_two_ranks_evaluate_as_one(found):
    compare_rounded("evaluated", found[0]["evaluated"], ranks.evaluated())


def test_with_sync_bn_two_ranks_measure_as_one(found):
    truth = ranks.measured()
    assert found[0]["measured"] == found[1]["measured"] and found[0]["measured"].keys() == truth.keys()
    for name, value in truth.items():
        assert math.isclose(found[0]["measured"][name], value, rel_tol=1e-9), name


@pytest.mark.parametrize("run", ranks.RUNS, ids="-".join)
def test_synchronised_kernels_are_no_worse_than_twice_eager(found, run):
    """Halves of a batch, put together, against the eager modules on the whole batch."""
    first, second = (rank[f"mixed {run}"] for rank in found)
    ours = {
        name: torch.cat([tensor, second[name]]) if name.startswith(ranks.PER_IMAGE) else tensor
        for name, tensor in first.items()
    }
    assert all(torch.equal(first[name], second[name]) for name in first if not name.startswith(ranks.PER_IMAGE))
    for deviation in deviations_of(ours, ranks.CASES[run[0]], torch.float32):
        assert not deviation.wrong, deviation


def test_each_rank_has_its_part_of_every_batch(found):
    whole = ranks.shards()
    assert [a + b for a, b in zip(found[0]["shards"], found[1]["shards"], strict=True)] == whole
    assert [len(labels) for labels in whole] == [16, 21] * 2


def test_what_is_drawn_per_image_differs_and_the_random_state_does_not(found):
    first, second = (rank["draws"] for rank in found)
    assert torch.equal(first["state"], second["state"])
    assert not torch.equal(first["dropped"], second["dropped"]) and not torch.equal(first["noise"], second["noise"])


def test_what_one_rank_finds_wrong_stops_all_with_one_sentence(found):
    assert found[0]["strange"] == found[1]["strange"] and found[0]["exploding"] == found[1]["exploding"]
    arch, train = found[0]["strange"]
    assert arch.startswith("NotFinite: the images is nan at epoch 0, step 3 on the validation batch")
    assert train.startswith("NotFinite: the training loss is nan at epoch 0, step 3 on the training batch")
    assert found[0]["exploding"].startswith("NotFinite: the gradient of classifier.bias is ")
    assert [rank["alone_wrong"] for rank in found] == [
        "Everywhere: rank 1: no such folder",
        "FastdartsError: no such folder",
    ]
    assert "--batch-size is 3, of 50 images: expected at least 4 for 2 ranks" in found[0]["small"]
    assert "exists and is not an empty folder" in found[0]["occupied"] and found[0]["occupied"] == found[1][
        "occupied"
    ].replace("Everywhere", "FastdartsError")


def test_ranks_with_other_settings_are_refused_before_any_work(found):
    wanted = [
        "--seed 7 and rank 0 has 2:", "--unrolled False and rank 0 has True:", "--epochs 5 and rank 0 has 2:",
        "--device cuda and rank 0 has cpu:", "--resume /", "command evaluate and rank 0 has search:",
        "training images 48 and rank 0 has 32:",
    ]  # fmt: skip
    for said in zip(wanted, *(rank["disagreeing"] for rank in found), strict=True):
        words, first, last = said
        assert first == last and f"Everywhere: rank 1 has {words}" in first + ":", first
        assert first.endswith("start all ranks with the same command, settings and data")
    assert not any(rank["left"] for rank in found)


def test_ranks_with_other_commands_all_end_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in ranks.TINY.items()]
    commands, program = (["search", *flags], ["describe", "--supernet"]), [sys.executable, "-m", "fastdarts"]
    env = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [*program, *command], cwd=ROOT, env=env | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank, command in enumerate(commands)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert "fastdarts: rank 1 has command describe and rank 0 has search: start all ranks" in said[0]


def test_a_world_size_without_the_rest_is_said(monkeypatch):
    for name in distributed.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = "WORLD_SIZE is 2 but RANK and MASTER_ADDR and MASTER_PORT are not set"
    with pytest.warns(Notice, match=words), distributed.joined():
        assert distributed.world() == 1


def test_a_world_size_that_is_no_number_is_one_sentence(monkeypatch, capsys):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "two"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        main(["search"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "fastdarts: the environment variable WORLD_SIZE is 'two': expected a number; start ranks by torchrun, or unset "
        "it for a run of one process\n"
    )


def test_each_rank_wants_a_gpu_of_its_own(found):
    assert "--device is cuda:1 for 2 ranks: each takes a GPU of its own" in found[0]["cuda:1"]
    if not torch.cuda.is_available():
        assert ["local rank 0 finds 0 GPUs" in found[0]["cuda"], "local rank 1 finds 0" in found[1]["cuda"]] == [
            True
        ] * 2


def test_recurrent_cells_are_refused_by_name(monkeypatch):
    for name, value in zip(distributed.LAUNCHED, ("1", "2", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(FastdartsError, match="a search on text cannot be divided among several ranks") as refused:
        search_text(search_settings())
    assert not distributed.should_print(refused.value)  # rank 0 does


def test_a_search_is_one_run(found, folder):
    """One folder, the same result on all ranks; SIGTERM to one of them ends all, and what goes on is bit-identical."""
    for name in ("whole", "killed", "evaluation", "projection"):
        assert not difference(found[0][name], found[1][name])
        written = json.loads((folder / name / "result.json").read_text(encoding="utf-8")) | {"run": str(folder / name)}
        assert written == json.loads(json.dumps(found[0][name]))
        assert (folder / name / "report.html").exists() and len(list((folder / name).glob("events*"))) == 1
    assert [rank["code"] for rank in found] == [0, 0]
    assert not difference(outcome(folder / "whole"), outcome(folder / "killed"))
    assert (
        not read_metrics(folder / "alone")
        and load_checkpoint(folder / "alone" / "checkpoint.pt", "search")["step"] == 2
    )


def test_one_process_takes_up_what_two_ranks_began(found, folder):
    done = search(replace(ranks.WHOLE, resume=folder / "alone"))
    assert done["epochs"] == 2 and len(read_metrics(folder / "alone")) == 2


def test_torchrun_passes_on_sigterm(tmp_path):
    """To the command line of each rank, which saves once and says so once."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in ranks.TINY.items()]
    run = tmp_path / "run"
    process = torchrun("fastdarts", "search", *flags, "--epochs=50", f"--run={run}")
    while not (run / "checkpoint.pt").exists():
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    how = f"go on under torchrun with: fastdarts search --resume {run}"
    assert errors.count(f"fastdarts: terminated; {how}") == 1, errors
    load_checkpoint(run / "checkpoint.pt", "search")
