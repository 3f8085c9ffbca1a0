"""A GPU whose memory is too small: what is free there, and the largest batch that fits. No GPU is needed: what it says
is made up."""

import dataclasses
import importlib
import re

import pytest
import torch
from torch._subclasses.fake_tensor import is_fake

from fastdarts.cli.entry import main
from fastdarts.engine.memory import Estimate, explaining, free_memory, largest_batch
from fastdarts.engine.search import search, step_memory
from fastdarts.engine.step import SearchStep
from fastdarts.engine.training import Job, Recipe, Training, training_memory
from fastdarts.errors import FastdartsError
from fastdarts.spaces import DARTS, Architecture
from fastdarts.spaces.cells.named import DARTS_V1
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve

CPU, MIB = torch.device("cpu"), 2**20
SMALL = {"epochs": 1, "channels": 4, "layers": 3, "nodes": 1, "batch_size": 32, "samples": 128, "threads": 1}
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of ...")


@pytest.fixture
def gpu(monkeypatch):
    """gpu(bytes): every device is a GPU with so many bytes free."""

    def made(free):
        for module in ("memory", "search"):
            monkeypatch.setattr(importlib.import_module(f"fastdarts.engine.{module}"), "free_memory", lambda _: free)

    return made


def exhausted(*_):
    raise NO_MEMORY


def straight(batch):
    return Estimate(100 * MIB + 10 * MIB * batch, 100 * MIB)


def bent(batch):
    return Estimate(100 * MIB + int(10 * MIB * batch**1.2), 100 * MIB)


def test_the_largest_batch_leaves_a_tenth_of_what_is_free():
    free = 2100 * MIB
    assert largest_batch(512, straight(512), straight, free) == 179  # 100 + 10 n <= 1890
    assert largest_batch(200, straight(200), straight, free) == 179
    assert largest_batch(100, straight(100), straight, free) == 89  # 1100 MiB did not fit, whatever was free: 990
    assert largest_batch(512, straight(512), straight, 100 * MIB) == 0
    fits = largest_batch(512, bent(512), bent, free)
    assert bent(fits).peak <= 0.9 * free < bent(int(1.2 * fits)).peak


def test_what_is_free_is_what_tensors_may_take(monkeypatch):
    assert free_memory(CPU) is None
    numbers = {"mem_get_info": (100, 1000), "memory_reserved": 30, "memory_allocated": 20}
    for name, number in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, number=number: number)
    assert free_memory(torch.device("cuda")) == 110


def test_other_errors_and_other_devices_pass(gpu):
    for free, error in ((None, NO_MEMORY), (10 * MIB, RuntimeError("shapes differ"))):
        gpu(free)
        with pytest.raises(type(error), match=str(error)[:10]), explaining(64, straight, CPU, "--layers"):
            raise error


def test_nothing_fits(gpu):
    gpu(50 * MIB)
    said = r"a step on --batch-size 64 takes an estimated 740 MiB, and 50.0 MiB were free on cpu: lower --layers$"
    with pytest.raises(FastdartsError, match=said), explaining(64, straight, CPU, "--layers"):
        raise RuntimeError("CUDA error: out of memory")


def test_a_search_names_the_largest_batch(gpu, monkeypatch, tmp_path, capsys):
    problem, config = ImageProblem.of_shape(10, 1, (8, 8)), resolve(SearchConfig(**SMALL))
    free = step_memory(config, problem, CPU).peak * 2 // 3
    gpu(free)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(SearchStep, "step", exhausted_but_in_estimates(SearchStep.step))
        main(["search", *flags, f"--run={tmp_path / 'run'}"])
    *_, said = capsys.readouterr().err.splitlines()
    found = re.fullmatch(
        r"fastdarts: out of memory: a step on --batch-size 32 takes an estimated .* MiB, and .* MiB were free on cpu: "
        r"use --batch-size (\d+), which is estimated to fit, or use --max-memory auto",
        said,
    )
    assert stop.value.code == 2 and found, said
    fits = int(found[1])
    peaks = [step_memory(dataclasses.replace(config, batch_size=n), problem, CPU).peak for n in (fits, fits + 4)]
    assert peaks[0] <= 0.9 * free < peaks[1]
    assert not (tmp_path / "run").exists()


def exhausted_but_in_estimates(step):
    def run(self, batch, *rest):
        return step(self, batch, *rest) if is_fake(batch[0]) else exhausted()

    return run


def test_a_training_names_the_largest_batch(gpu, monkeypatch, tmp_path, capsys):
    gpu(11 * MIB)  # of which weights, gradients and momentum of the auxiliary head take 8
    step = Training.step
    monkeypatch.setattr(Training, "step", lambda *args: step(*args) if is_fake(args[1]) else exhausted())
    flags = ["--dataset=digits", "--channels=4", "--layers=3", "--epochs=1", "--batch-size=64", "--samples=64"]
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--genotype=DARTS_V1", *flags, f"--run={tmp_path / 'run'}"])
    *_, said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and re.fullmatch(
        r"fastdarts: out of memory: a step on --batch-size 64 takes an estimated .*: use --batch-size \d+, .* fit", said
    )


def test_a_training_takes_more_with_the_batch():
    names = [field.name for field in dataclasses.fields(Recipe)]
    config = resolve(SearchConfig(**SMALL))
    plain = {"variant": "cifar", "schedule": "cosine", "gamma": 1.0, "auxiliary": False, "auxiliary_weight": 0.0}
    settings = {name: getattr(config, name) for name in names if hasattr(config, name)} | {"label_smoothing": 0.0}
    recipe, job = Recipe(**plain | settings), Job(Architecture(DARTS, DARTS_V1), 0)
    objective = Objective(load_data("digits"))
    small, large = (training_memory(job, recipe, objective, CPU, n) for n in (8, 32))
    assert small.kept == large.kept  # weights, gradients, momentum and buffers
    assert 3 < (large.peak - large.kept) / (small.peak - small.kept) < 4.5


def test_auto_is_what_a_gpu_has_free(gpu, tmp_path, capsys):
    config = SearchConfig(**SMALL | {"nodes": 2}, max_memory="auto")
    with pytest.raises(FastdartsError, match="--max-memory is auto, but the device is a CPU"):
        search(dataclasses.replace(config, run=tmp_path / "run"))
    gpu(int(2.5 / 0.9 * MIB) + MIB)
    search(dataclasses.replace(config, run=tmp_path / "run"))
    assert re.search(r"^memory recompute: .* of 3.00 MiB, as store takes", capsys.readouterr().err, re.M)
    assert 'max_memory = "3MiB"' in (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
    gpu(2**40)  # another GPU: the run goes on as it began
    main(["search", f"--resume={tmp_path / 'run'}"])


def test_without_a_limit_nothing_is_estimated(gpu, tmp_path, capsys, monkeypatch):
    gpu(3 * 2**30)
    monkeypatch.setattr("fastdarts.engine.search.step_memory", lambda *_: pytest.fail("an estimate takes seconds"))
    search(SearchConfig(**SMALL, run=tmp_path / "run"))
    assert not re.search(r"^memory ", capsys.readouterr().err, re.M)
