"""recurrent's Triton kernels under the interpreter; test_triton.py runs them in a process with TRITON_INTERPRET=1."""

import pytest
import torch

from benchmarks.cases import RecurrentCase
from benchmarks.compare import deviations
from fastdarts.kernels.recurrent.contract import backward_op, forward_op

CASES = [
    RecurrentCase("one-node", 2, 12, 1, 1),
    RecurrentCase("blocks", 2, 37, 20, 2),
    RecurrentCase("plain", 2, 15, 7, 3, mask=False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_no_worse_than_twice_eager(case: RecurrentCase) -> None:
    for deviation in deviations(case, "triton", torch.float32):
        assert not deviation.wrong, deviation


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_no_worse_than_twice_eager(dtype: torch.dtype) -> None:
    for deviation in deviations(RecurrentCase("half", 2, 16, 6, 2), "triton", dtype):
        assert not deviation.wrong, deviation


def test_what_is_not_wanted_is_empty_and_nothing_is_kept_without_need() -> None:
    tensors, mask, grad = RecurrentCase("selective", 2, 5, 4, 2).inputs(torch.float32)
    inputs, hidden, *weights, mixing = (t.detach() for t in tensors.values())
    out, _, var, states, gates = forward_op.launch(inputs, hidden, weights, mask, mixing, 1e-5, True)
    again, *_, nothing, none = forward_op.launch(inputs, hidden, weights, mask, mixing, 1e-5, False)
    assert torch.equal(out, again) and nothing.numel() == none.numel() == 0
    call = grad, inputs, hidden, weights, mask, mixing, 1e-5, out, var, states, gates
    dx, dh, dw, dp = backward_op.launch(*call, True, True, True, True)
    for i in range(4):
        needs = [k == i for k in range(4)]
        x, h, w, p = backward_op.launch(*call, *needs)
        assert torch.equal(x, dx if needs[0] else x.new_empty(0)) and torch.equal(h, dh if needs[1] else h.new_empty(0))
        assert len(w) == (len(dw) if needs[2] else 0) and all(map(torch.equal, w, dw))
        assert torch.equal(p, dp if needs[3] else p.new_empty(0))
