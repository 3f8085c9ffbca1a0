"""Each op beside the eager modules it replaces, forward and forward+backward (all gradients)."""

import pytest
import torch

from benchmarks.cases import BENCHMARK_CASES, MixedSumCase
from benchmarks.compare import deviations


@pytest.mark.parametrize("side", ["eager", "fastdarts"])
@pytest.mark.parametrize("work", ["forward", "forward+backward"])
@pytest.mark.parametrize("case", BENCHMARK_CASES, ids=lambda case: case.id)
def bench_mixed_sum(benchmark, measure, device: str, case: MixedSumCase, work: str, side: str) -> None:
    benchmark.group = f"mixed_sum {case.id} {work}"
    wrong = [deviation for deviation in deviations(case, None, torch.float32, device) if deviation.wrong]
    if wrong:
        pytest.fail(f"not timed, the results are wrong: {wrong}")
    weights, branches, grad = case.inputs(torch.float32, device)
    modules = case.eager(torch.float32, device)

    def forward() -> torch.Tensor:
        return modules(weights, branches) if side == "eager" else case.ours(weights, branches).out

    if work == "forward":
        with torch.no_grad():
            measure(forward)
    else:
        measure(lambda: torch.autograd.grad(forward(), (weights, *branches), grad))
