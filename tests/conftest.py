"""Fixtures of every test: a seed, fresh memory that shows when it was not written, and the marker `gpu`."""

import importlib
from collections.abc import Iterator

import pytest
import torch

from fastdarts.memory import Estimate


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch sees none"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def without_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search steps on images only, not on the fake ones that its memory is estimated with: for tests that count."""
    module = importlib.import_module("fastdarts.search")
    monkeypatch.setattr(module, "step_memory", lambda *_: Estimate(peak=0, kept=0))


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """torch.empty and its kin, C++ allocations included, return NaN: an unwritten output cannot pass."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)
