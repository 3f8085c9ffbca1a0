"""Fixtures of every test: a seed, fresh memory that shows when it was not written, and the marker `gpu`."""

import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from fastdarts.registry import REGISTRIES
from tests.support import fuzzing  # noqa: F401 - registers the profiles

settings.load_profile("few")
# A job in the background of a shell ignores Ctrl-C, and so would what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch sees none"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A set has another order in every process, and processes that share the tests must agree on it."""
    for marker in metafunc.definition.iter_markers("parametrize"):
        if len(marker.args) > 1 and isinstance(marker.args[1], set | frozenset):
            raise pytest.UsageError(f"{metafunc.definition.nodeid} is parametrised over a set: sort it.")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


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
