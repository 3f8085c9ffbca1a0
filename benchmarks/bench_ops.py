"""Each op beside the eager modules it replaces, forward and forward+backward (all gradients)."""

from dataclasses import replace

import pytest
import torch

from benchmarks.cases import BENCHMARK_CASES, CONTIGUOUS, MIXED_OP_BENCHMARK_CASES, MixedOpCase, MixedSumCase
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


@pytest.mark.parametrize("side", ["eager-nchw", "eager-last", "fastdarts", "fastdarts-recompute"])
@pytest.mark.parametrize("work", ["forward", "forward+backward"])
@pytest.mark.parametrize("case", MIXED_OP_BENCHMARK_CASES, ids=lambda case: case.id)
def bench_mixed_op(benchmark, measure, device: str, case: MixedOpCase, work: str, side: str) -> None:
    benchmark.group = f"mixed_op {case.id} {work}"
    if wrong := [deviation for deviation in deviations(case, None, torch.float32, device) if deviation.wrong]:
        pytest.fail(f"not timed, the results are wrong: {wrong}")
    if side == "eager-nchw":
        case = replace(case, memory_format=CONTIGUOUS)
    tensors, grads = case.inputs(torch.float32, device)
    memory = "recompute" if side.endswith("recompute") else "store"

    def forward() -> list[torch.Tensor]:
        return (case.ours(tensors, memory=memory) if side.startswith("fastdarts") else case.eager(tensors)).out

    if work == "forward":
        with torch.no_grad():
            measure(forward)
    else:
        measure(lambda: torch.autograd.grad(forward(), [*tensors.values()], grads))
