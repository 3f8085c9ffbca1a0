"""mixed_sum's Triton kernels under the interpreter; test_triton.py runs them in a process with TRITON_INTERPRET=1."""

import pytest
import torch

from benchmarks.cases import TEST_CASES
from benchmarks.compare import deviations
from fastdarts.functional import mixed_sum

SLOW = ("wide", "wide-last", "large-map", "many-samples-last")  # the interpreter takes 0.3 ms an operation
TINY = [case for case in TEST_CASES if case.id not in SLOW]


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.id)
def test_no_worse_than_twice_eager(case) -> None:
    for deviation in deviations(case, "triton", torch.float32):
        assert not deviation.wrong, deviation


def test_many_tiles_and_chunks() -> None:
    """More pixels than one chunk and channels than one block: partial results are merged."""
    z = [(torch.randn(3, 40, 30, 30) * 3 + 50).to(memory_format=torch.channels_last) for _ in range(2)]
    weights = torch.rand(2, requires_grad=True)
    ours, truth = (mixed_sum(z, weights, (True, True), impl=impl) for impl in ("triton", "native"))
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)


def test_only_the_gradients_asked_for() -> None:
    z = [torch.randn(2, 3, 4, 4, requires_grad=k == 1) for k in range(3)]
    weights = torch.rand(3)
    gradients = [
        torch.autograd.grad(mixed_sum(z, weights, (True, True, False), impl=impl).out.square().sum(), z[1])[0]
        for impl in ("triton", "reference")
    ]
    torch.testing.assert_close(*gradients)


def test_bfloat16() -> None:
    z = [torch.randn(2, 3, 4, 4).bfloat16() for _ in range(2)]
    weights = torch.tensor([0.25, 0.75])
    ours, truth = (mixed_sum(z, weights, (True, False), impl=impl).out for impl in ("triton", "reference"))
    assert ours.dtype is torch.bfloat16
    torch.testing.assert_close(ours, truth, rtol=2**-7, atol=0)  # the interpreter truncates, GPUs round
