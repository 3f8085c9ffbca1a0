"""Kinks in mixed_op's CUDA kernels, emulated on the CPU: noted as the reference notes them, kept as it keeps them."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmarks.cases import MixedOpCase
from fastdarts.kernels import registry
from tests.support.emulated import mixed_op
from tests.support.kink_cases import CASES, run

WHOLE = [case for case in CASES if case.partial == 1]  # what bypasses partial channels has a kernel of its own
every_case = pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.id)


@pytest.fixture(scope="module", autouse=True)
def emulated() -> Iterator[None]:
    torch.ops.load_library(mixed_op("-O2"))
    before, torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.conv.fp32_precision, "ieee"
    with registry.on_cpu("fastdarts_emulated"):
        yield
    torch.backends.cudnn.conv.fp32_precision = before


def close(ours: list[Tensor], truth: list[Tensor]) -> None:
    for a, b in zip(ours, truth, strict=True):
        scale = b.abs().max().item()
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-4 * scale + 1e-6)


@every_case
def test_noted_bits_are_those_of_the_reference(case: MixedOpCase) -> None:
    tensors, grads = case.inputs(torch.float32)
    plain, _ = run(case, tensors, grads, "cuda")
    noted, (state, places, *middles) = run(case, tensors, grads, "cuda", note=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, noted, strict=True))
    _, (right_state, right_places, *right_middles) = run(case, tensors, grads, "reference", note=True)
    assert torch.equal(state, right_state) and torch.equal(places, right_places)
    for ours, right in zip(middles, right_middles, strict=True):
        assert ours.shape == right.shape
        assert (ours ^ right).count_nonzero() <= 1  # all but what rounds to the other side of zero


@every_case
def test_kept_elsewhere_they_are_those_of_another_call(case: MixedOpCase) -> None:
    wide, grads = case.inputs(torch.float64)
    _, kinks = run(case, wide, grads, "reference", note=True)
    far = {name: (t.detach() + 0.3 * torch.randn_like(t)).requires_grad_() for name, t in wide.items()}
    truth, _ = run(case, far, grads, "reference", kinks=kinks)
    single = {name: t.detach().float().requires_grad_() for name, t in far.items()}
    rounded = [g.float() for g in grads]
    kept, _ = run(case, single, rounded, "cuda", kinks=kinks)
    again, _ = run(case, single, rounded, "cuda", kinks=kinks, memory="recompute")
    own, _ = run(case, single, rounded, "cuda")
    close(kept, truth)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    assert any(not torch.allclose(a, b) for a, b in zip(own, kept, strict=True)) or case.id == "pools"
