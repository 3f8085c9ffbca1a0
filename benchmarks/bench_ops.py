"""Each op beside the eager modules it replaces: single candidates of an edge, and the sum over them."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.cases import BENCHMARK_CASES, MixedSumCase
from benchmarks.compare import deviations
from fastdarts.bench.cases import SUITES, Case
from fastdarts.bench.measure import interleave


@pytest.mark.parametrize("case", SUITES["ops"], ids=str)
def bench_candidate(compare: Callable, case: Case) -> None:
    compare(case)


@pytest.mark.parametrize("work", ["forward", "forward+backward"])
@pytest.mark.parametrize("case", BENCHMARK_CASES, ids=lambda case: case.id)
def bench_mixed_sum(record: Callable, request, device: str, case: MixedSumCase, work: str) -> None:
    if wrong := [deviation for deviation in deviations(case, None, torch.float32, device) if deviation.wrong]:
        pytest.fail(f"not timed, the results are wrong: {wrong}")
    weights, branches, grad = case.inputs(torch.float32, device)
    modules = case.eager(torch.float32, device)
    forward = {
        "eager": lambda: modules(weights, branches),
        "fastdarts": lambda: case.ours(weights, branches).out,
    }

    def step(side: str) -> None:
        with torch.set_grad_enabled(work != "forward"):
            out = forward[side]()
        if work != "forward":
            torch.autograd.grad(out, (weights, *branches), grad)

    sides = {side: lambda side=side: step(side) for side in forward}
    for side, timing in interleave(sides, request.config.getoption("--seconds")).items():
        record(f"mixed_sum {case.id} {work}", side, timing.seconds, {"page_faults": timing.faults})
