"""A whole mixed operation, forward and backward (x, mixing weights, all parameters), beside the public code's.

Both eager sides are the published forward on the same modules, once in NCHW and once in channels-last.
"""

import copy

import pytest
import torch

from benchmarks.eager import make_eager
from fastdarts.model_search import MixedOp


@pytest.mark.parametrize("side", ["eager-nchw", "eager-last", "fastdarts-nchw", "fastdarts"])
@pytest.mark.parametrize(("channels", "size"), [(16, 32), (32, 16), (64, 8)])
def bench_mixed_op(benchmark, measure, device: str, channels: int, size: int, side: str) -> None:
    benchmark.group = f"MixedOp C{channels}-{size}x{size}-N64 forward+backward"
    torch.manual_seed(0)
    op = MixedOp(channels, 1).to(device)
    form = torch.contiguous_format if side.endswith("nchw") else torch.channels_last
    x = torch.randn(64, channels, size, size, device=device).to(memory_format=form).requires_grad_()
    weights = torch.softmax(torch.randn(8, device=device), 0).requires_grad_()
    grad = torch.randn_like(x)
    eager = make_eager(copy.deepcopy(op))
    tested = eager if side.startswith("eager") else op
    torch.testing.assert_close(op(x, weights), eager(x, weights), rtol=1e-4, atol=1e-4)  # no timing of wrong results

    def step() -> None:
        # `none` is not computed by the fused operation: its mixing weight takes part, its gradient is zero
        torch.autograd.grad(tested(x, weights), (x, weights, *tested.parameters()), grad)

    measure(step)
