"""The launch and byte counter against what the kernels load and store under the interpreter; run by test_triton.py."""

import pytest
import torch

from benchmarks.cases import SEARCHED, MixedOpCase
from fastdarts.kernels.mixed_op import traffic
from fastdarts.kernels.mixed_op.contract import backward_op, forward_op
from fastdarts.kernels.mixed_op.triton import launchers
from fastdarts.kernels.mixed_op.triton import traffic as triton_traffic
from fastdarts.kernels.registry import Op
from tests.support.traced import trace

DROPPED = (("dropped_skip", "sep_conv_3x3"), ("noise", "skip_connect", "dropped_skip"))
TWO = (SEARCHED, ("sep_conv_3x3", "noise", "dil_conv_3x3", "avg_pool_3x3"))
EVERYTHING = ("x", "gain", "offset", "base", "branches")


@pytest.mark.parametrize(
    ("case", "wanted", "memory"),
    [
        (MixedOpCase("edge", (1, 16, 4, 5)), EVERYTHING, "store"),
        (MixedOpCase("state", (2, 4, 4, 4), TWO, base=True, affine=True), EVERYTHING, "store"),
        (MixedOpCase("state-stride2", (1, 4, 6, 8), TWO, 2), EVERYTHING, "store"),
        (MixedOpCase("dropped", (2, 4, 4, 4), DROPPED), EVERYTHING, "store"),
        (MixedOpCase("alphas", (2, 4, 4, 3)), ("gain",), "store"),
        (MixedOpCase("alphas-and-x", (2, 4, 4, 3)), ("gain", "x"), "store"),
        (MixedOpCase("recompute", (2, 4, 4, 3)), EVERYTHING, "recompute"),
        (MixedOpCase("evaluation", (2, 4, 4, 3), training=False), EVERYTHING, "store"),
        (MixedOpCase("bfloat16", (2, 4, 4, 3), affine=True), EVERYTHING, "store"),
        (MixedOpCase("blocks", (1, 40, 3, 3), (("sep_conv_3x3", "avg_pool_3x3"),)), EVERYTHING, "store"),
        (MixedOpCase("preprocessing", (1, 33, 4, 3), (("relu_conv_1x1",),), outputs=70), ("branches",), "store"),
        (MixedOpCase("chunks", (1, 3, 15, 17), (("max_pool_3x3", "sep_conv_3x3"),)), EVERYTHING, "store"),
    ],
    ids=lambda value: value.id if isinstance(value, MixedOpCase) else None,
)
def test_every_launch_moves_what_the_counter_says(
    case: MixedOpCase, wanted: tuple[str, ...], memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.bfloat16 if case.id == "bfloat16" else torch.float32
    expected, launch = [], Op.launch
    counters = {op: traffic.TRAFFIC["triton"][f"fastdarts::{op.name}"] for op in (forward_op, backward_op)}

    def counted(op: Op, *args):
        expected.extend(counters[op](*args).launches)
        return launch(op, *args)

    monkeypatch.setattr(Op, "launch", counted)
    for name, few in (("MAX_CHUNKS", 2), ("MAX_WEIGHT_CHUNKS", 1)):  # chunks of several tiles in small maps
        assert getattr(triton_traffic, name) == getattr(launchers, name)
        if case.id == "chunks":
            monkeypatch.setattr(triton_traffic, name, few)
            monkeypatch.setattr(launchers, name, few)
    tensors, grads = case.inputs(dtype)
    tensors = {name: t.detach().requires_grad_(name.startswith(wanted)) for name, t in tensors.items()}
    with trace() as launches:
        torch.autograd.backward(case.ours(tensors, "triton", memory).out, grads)
    assert [launch.kernel for launch in launches] == [f"{launch.kernel}_kernel" for launch in expected]
    for found, counted in zip(launches, expected, strict=True):
        assert found.moved == (counted.reads, counted.writes), found
        assert found.programs == sum(run.programs for run in counted.runs), found
        if (
            counted.kernel != "statistics"
        ):  # which reads its few numbers twice; of windows, less what is outside the map
            assert 0.3 * counted.loads < found.loads < 1.05 * counted.loads, found
