"""interleave's Triton kernels under the interpreter; test_triton.py runs them in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from benchmarks.cases import CHEAP, MIXED_OP_TEST_CASES, MixedOpCase
from benchmarks.compare import deviations
from fastdarts.kernels.interleave import triton as launchers
from fastdarts.kernels.interleave.contract import backward_op, forward_op

LAST = torch.channels_last
CASES = [case for case in MIXED_OP_TEST_CASES if case.id.startswith(("partial-third", "partial-ties", "partial-odd"))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_no_worse_than_twice_eager(case: MixedOpCase) -> None:
    for deviation in deviations(case, "triton", torch.float32):
        assert not deviation.wrong, deviation


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("stride", [1, 2])
def test_half_precision_is_no_worse_than_twice_eager(stride: int, dtype: torch.dtype) -> None:
    case = MixedOpCase("half", (2, 16, 6, 4), (("avg_pool_3x3",), ("max_pool_3x3",)), stride, base=True, partial=4)
    for deviation in deviations(case, "triton", dtype):
        assert not deviation.wrong, deviation


def arguments(channels: int, size: tuple[int, int], partial: int, stride: int, edges: int, dtype=torch.float32):
    """Of both ops, without their flags."""

    def draw(channels: int, stride: int) -> torch.Tensor:
        maps = torch.randn(2, channels, *(side // stride for side in size), dtype=torch.float64)
        return maps.to(dtype, memory_format=LAST)

    x, beta = draw(channels, 1), torch.rand(edges, dtype=torch.float64).to(dtype)
    m = [draw(channels // partial, stride) for _ in range(edges)]
    maps = [draw(channels, stride) for _ in range(edges)]
    return (x, m, maps, beta, stride), (maps, x, beta, partial, stride)


@pytest.mark.parametrize("stride", [1, 2])
def test_many_tiles_chunks_blocks_of_channels_and_edges(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of several tiles, more channels than one block, and edges that are no power of two."""
    monkeypatch.setattr(launchers, "MAX_CHUNKS", 3)
    for channels, size, partial, edges in ((8, (18 * stride, 17 * stride), 4, 3), (80, (4, 6), 2, 5)):
        results = []
        for dtype, forward, backward in (
            (torch.float32, forward_op.launch, backward_op.launch),
            (torch.float64, forward_op.reference, backward_op.reference),
        ):
            torch.manual_seed(0)
            first, second = arguments(channels, size, partial, stride, edges, dtype)
            dm, dx, dbeta = backward(*second, True, True)
            results.append([*forward(*first), *dm, dx, dbeta])
        for ours, exact in zip(*results, strict=True):
            scale = max(1.0, exact.abs().max().item())
            torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-6 * scale)


def test_one_launch_forward_two_backward_and_what_is_not_wanted_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    launches, run = [], GridExecutor.__call__

    def counting(self: GridExecutor, *args, **kwargs) -> None:
        launches.append(self.fn.__name__)
        run(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", counting)
    first, second = arguments(8, (4, 4), 4, 2, 2)
    forward_op.launch(*first)
    assert launches == ["interleave_kernel"]
    everything = backward_op.launch(*second, True, True)
    assert launches[1:] == ["interleave_gradients_kernel", "interleave_totals_kernel"]
    assert torch.equal(everything[2], backward_op.launch(*second, True, True)[2])
    for need_x, need_beta in ((True, False), (False, True), (False, False)):
        dm, dx, dbeta = backward_op.launch(*second, need_x, need_beta)
        assert all(map(torch.equal, dm, everything[0]))
        assert torch.equal(dx, everything[1] if need_x else dx.new_empty(0))
        assert torch.equal(dbeta, everything[2] if need_beta else dbeta.new_empty(0))


def test_nan_is_a_maximum() -> None:
    case = MixedOpCase("nan", (1, 4, 4, 4), (CHEAP[1:],), 2, partial=2)
    tensors, _ = case.inputs(torch.float32)
    with torch.no_grad():
        tensors["x"][0, 3, 0, 1] = float("nan")
        ours, truth = (case.ours(tensors, impl).out for impl in ("triton", "reference"))
    assert truth[0].isnan().sum() == 1
    torch.testing.assert_close(ours, truth, equal_nan=True)
