"""The flat updates of the bilevel step beside PyTorch's own, as a share of the bandwidth of a copy."""

from collections.abc import Callable

import pytest

from fastdarts.bench.updates import Weights, cases, measure_flat

NAMES = [case.name for case in cases(Weights(channels=2, layers=3))]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights()


@pytest.mark.parametrize("name", NAMES)
def bench_flat(record: Callable, request, weights: Weights, name: str) -> None:
    [case] = [case for case in cases(weights) if case.name == name]
    row = measure_flat(case, weights, request.config.getoption("--seconds"))
    for side, facts in row["sides"].items():
        record(f"flat {name}", side, [ms / 1e3 for ms in facts.pop("rounds_ms")], facts)
