"""Fixtures of every test: a seed, fresh memory that shows when it was not written, and the marker `gpu`."""

import dataclasses
import importlib
import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from fastdarts.engine.memory import Estimate
from fastdarts.nn.operations import OPS
from fastdarts.registry import REGISTRIES
from fastdarts.spaces import SPACES
from fastdarts.tasks.settings import SupernetConfig
from fastdarts.tasks.task import Problem
from tests.support import fuzzing  # noqa: F401 - registers the profiles

settings.load_profile("few")
# A job in the background of a shell ignores Ctrl-C, and so would what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch sees none"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def one_estimate_for_alike_searches() -> Iterator[None]:
    """What a step takes is estimated once for all searches of a process that differ in nothing a step depends on: an
    estimate takes 2 s of processor time, two thirds of what many tests of searches took."""
    module = importlib.import_module("fastdarts.engine.search")
    known, real = {}, module.step_memory

    def once(config: SupernetConfig, problem: Problem, device: torch.device) -> Estimate:
        apart = {"seed": 0, "run": None, "resume": None} | ({"supernet": None} if hasattr(config, "supernet") else {})
        alike = dataclasses.replace(config, **apart)
        made_of = SPACES.get(config.space), *OPS.values()
        shape = {name: value for name, value in problem.description().items() if name not in ("images", "tokens")}
        key = alike, repr(shape), device, torch.get_num_threads(), *map(id, made_of)
        if key not in known:
            known[key] = real(config, problem, device), made_of  # kept, so that nothing else gets their ids
        return known[key][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "step_memory", once)
        yield


@pytest.fixture
def without_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search steps on images only, not on the fake ones that its memory is estimated with: for tests that count."""
    module = importlib.import_module("fastdarts.engine.search")
    monkeypatch.setattr(module, "step_memory", lambda *_: Estimate(peak=0, kept=0))


@pytest.fixture
def registries() -> Iterator[None]:
    """What the test registers is forgotten after it."""
    before = [(registry.table, dict(registry.table)) for registry in REGISTRIES]
    yield
    for table, things in before:
        table.clear()
        table.update(things)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """torch.empty and its kin, C++ allocations included, return NaN: an unwritten output cannot pass."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)
