"""Each op beside the eager modules it replaces, forward and forward+backward (all gradients)."""

from dataclasses import replace

import pytest
import torch

from benchmarks.cases import BENCHMARK_CASES, CONTIGUOUS, SEP_CONV_BENCHMARK_CASES, MixedSumCase, SepConvCase
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


@pytest.mark.parametrize("side", ["eager-nchw", "eager-last", "fastdarts"])
@pytest.mark.parametrize("work", ["forward", "forward+backward"])
@pytest.mark.parametrize("case", SEP_CONV_BENCHMARK_CASES, ids=lambda case: case.id)
def bench_sep_conv(benchmark, measure, device: str, case: SepConvCase, work: str, side: str) -> None:
    benchmark.group = f"sep_conv {case.id} {work}"
    if wrong := [deviation for deviation in deviations(case, None, torch.float32, device) if deviation.wrong]:
        pytest.fail(f"not timed, the results are wrong: {wrong}")
    if side == "eager-nchw":
        case = replace(case, memory_format=CONTIGUOUS)
    tensors, grad = case.inputs(torch.float32, device)
    forward = case.ours if side == "fastdarts" else case.eager
    if work == "forward":
        with torch.no_grad():
            measure(lambda: forward(*tensors))
    else:
        measure(lambda: torch.autograd.grad(forward(*tensors), tensors, grad))
