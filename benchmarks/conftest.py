"""What every benchmark shares: options, strict mode, malloc, and sides that take turns.

`fastdarts bench` prints the same measurements as a table; here they go through pytest-benchmark, which stores and
compares them.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from fastdarts.bench.cases import Case
from fastdarts.bench.check import Wrong
from fastdarts.bench.machine import machine
from fastdarts.bench.measure import pin_malloc
from fastdarts.bench.timing import measure
from fastdarts.kernels import registry


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastdarts")
    group.addoption("--seconds", type=float, default=5.0, help="time for each case")
    group.addoption("--device", choices=("cpu", "cuda"), help="where; by default on the GPU if there is one")
    group.addoption("--batch", type=int, help="images per call, if not those of the case")
    group.addoption("--compile", action="store_true", help="time torch.compile of the public code too")
    group.addoption("--default-malloc", action="store_true", help="do not keep malloc from giving memory back")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--device") or ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def computer(request: pytest.FixtureRequest, device: str) -> dict:
    """What the numbers hold for; malloc is pinned from here on."""
    return machine(not request.config.getoption("--default-malloc") and pin_malloc(), device)


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fall to the reference is an error: the reference is never timed by accident."""
    monkeypatch.setattr(registry, "STRICT", True)


@pytest.fixture
def record(benchmark, computer: dict) -> Iterator[Callable]:
    """record(group, side, seconds, facts) adds a side, already timed, to pytest-benchmark's results."""

    def add(group: str, side: str, seconds: list[float], facts: dict) -> None:
        benchmark.group, benchmark.name, benchmark.extra_info = group, side, computer | facts
        # pedantic() knows one function at a time, and sides that are timed one after another cannot be compared.
        benchmark._mode = "record"
        stats = benchmark._make_stats(1)
        for value in seconds:
            stats.update(value)

    return add


@pytest.fixture
def compare(request: pytest.FixtureRequest, record: Callable, computer: dict, device: str) -> Callable[[Case], None]:
    """compare(case) measures every side; a case with wrong results fails and is not timed."""
    option = request.config.getoption

    def run(case: Case) -> None:
        case = replace(case, batch=option("--batch") or case.batch)
        try:
            row = measure(case, option("--seconds"), option("--compile"), computer["sgemm_gflops"], device)
        except Wrong as error:
            pytest.fail(f"not timed: {error}", pytrace=False)
        for side, facts in row["sides"].items():
            record(str(case), side, [ms / 1e3 for ms in facts.pop("rounds_ms", ())], facts)

    return run
