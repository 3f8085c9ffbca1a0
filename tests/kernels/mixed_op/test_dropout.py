"""Skip connections that drop elements, inside mixed_op: what is dropped, the same on every path, and stored nowhere."""

import math

import pytest
import torch
from torch import nn

from fastdarts.bench.measure import saved_bytes
from fastdarts.errors import FastdartsError
from fastdarts.functional import Candidate, dropout_factors, limit_of, mixed_op, native
from fastdarts.nn.fusion.recognise import settled
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import DroppingIdentity
from fastdarts.spaces.cells.supernet import Network

needs_native = pytest.mark.skipif(not native()["loaded"], reason="the extension is not built")
TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.float64: {}}


def left(size: tuple[int, ...], seed: int, limit: int, impl: str | None = None, dtype=torch.float64) -> torch.Tensor:
    """What is left of ones [N, C, H, W]."""
    x, gain = torch.ones(size, dtype=dtype), torch.ones(1, size[1], dtype=dtype)
    seeds = torch.tensor([seed, limit])
    return mixed_op(x, [Candidate(0, "dropped_skip")], gain, seeds=seeds, impl=impl).out[0]


@pytest.mark.parametrize("rate", [0.05, 0.4, 0.9])
def test_elements_are_dropped_at_the_rate_and_by_themselves(rate: float) -> None:
    count = 2**20
    factors = left((4, 16, 128, 128), 7, limit_of(rate)).permute(0, 2, 3, 1).flatten()  # in their order
    kept = (factors != 0).double()
    torch.testing.assert_close(factors, kept / (1 - rate), rtol=1e-8, atol=0)
    five = 5 * math.sqrt(rate * (1 - rate) / count)
    assert (kept.mean() - (1 - rate)).abs() < five
    centred = (kept - (1 - rate)) / math.sqrt(rate * (1 - rate))
    for lag in (1, 2, 3, 4, 16, 128 * 16):
        assert (centred[lag:] * centred[:-lag]).mean().abs() < 5 / math.sqrt(count)
    other = left((4, 16, 128, 128), 8, limit_of(rate)).permute(0, 2, 3, 1).flatten()
    assert ((other != 0).double().sub(1 - rate) * centred).mean().abs() < five


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (3, 5, 7, 1), (2, 3, 33, 29), (130, 1, 1, 3)])
def test_what_is_dropped_depends_on_seed_and_place_alone(size: tuple[int, ...]) -> None:
    found = left(size, -3, limit_of(0.3))
    first = dropout_factors(torch.tensor(-3), limit_of(0.3), (found.numel(),), torch.float64)
    torch.testing.assert_close(found.permute(0, 2, 3, 1).flatten(), first, rtol=1e-15, atol=0)


@pytest.mark.parametrize("impl", ["reference", pytest.param("native", marks=needs_native)])
def test_limits_at_and_beyond_their_ends(impl: str) -> None:
    size = (2, 5, 6, 7)
    assert torch.equal(left(size, 1, 0, impl), torch.ones(size, dtype=torch.float64))
    for all_of_them in (2**32, 2**40):
        assert not left(size, 1, all_of_them, impl).any()
    assert left(size, 1, 2**32 - 1, impl).isfinite().all()
    nearly = left(size, 1, -(2**32), impl)  # a limit that no rate has keeps all, and breaks nothing
    torch.testing.assert_close(nearly, torch.full(size, 0.5, dtype=torch.float64))


def test_nothing_hides_a_nan() -> None:
    x, gain = torch.full((1, 4, 4, 4), float("nan")), torch.ones(1, 4)
    seeds = torch.tensor([1, limit_of(0.5)])
    assert mixed_op(x, [Candidate(0, "dropped_skip")], gain, seeds=seeds).out[0].isnan().all()


@pytest.mark.parametrize(
    ("candidates", "seeds", "stride", "message"),
    [
        (["dropped_skip"], torch.zeros(1, dtype=torch.int64), 1, r"seeds must be int64 \[2\] .* two per dropped_skip"),
        (["dropped_skip", "noise"], None, 1, r"seeds must be an int64 tensor \[3\]"),
        (["dropped_skip"], torch.zeros(2, dtype=torch.int64), 2, "'dropped_skip' exists at stride 1 only"),
    ],
)
def test_what_does_not_fit_is_refused(candidates: list[str], seeds, stride: int, message: str) -> None:
    gain = torch.ones(len(candidates), 3)
    with pytest.raises(FastdartsError, match=message):
        mixed_op(torch.ones(2, 3, 4, 4), [Candidate(0, c) for c in candidates], gain, seeds=seeds, stride=stride)


def dropping(rate: float, channels: int = 8, partial: int = 1) -> MixedOp:
    op = MixedOp(channels, 1, ("skip_connect", "sep_conv_3x3"), partial=partial)
    op._ops[0] = DroppingIdentity(rate)
    return op


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernels_drop_what_the_module_drops(dtype: torch.dtype, partial: int) -> None:
    op = dropping(0.4, partial=partial).to(dtype)
    x = torch.randn(3, 8, 9, 7, dtype=dtype, requires_grad=True)
    weights = torch.tensor([0.7, 0.3], dtype=dtype, requires_grad=True)
    torch.manual_seed(3)
    out = op(x, weights)
    torch.manual_seed(3)
    part = x[:, : 8 // partial]
    truth = weights[0] * op._ops[0](part) + weights[1] * op._ops[1](part)
    if partial > 1:
        truth = torch.nn.functional.channel_shuffle(torch.cat([truth, x[:, 8 // partial :]], 1), partial)
    torch.testing.assert_close(out, truth, **TOLERANCE[dtype])
    grad = torch.randn_like(out)
    leaves = [x, weights, *op.parameters()]
    ours, theirs = (torch.autograd.grad(y, leaves, grad) for y in (out, truth))
    torch.testing.assert_close(ours, theirs, **TOLERANCE[dtype])


@needs_native
def test_no_mask_is_kept_for_backward() -> None:
    op, x = dropping(0.4), torch.randn(4, 8, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = torch.ones(2, requires_grad=True)
    maps = saved_bytes(lambda: op(x, weights), x, *op.parameters()) / (x.numel() * 4)
    assert 2 <= maps < 2.1  # the raw outputs of both halves


def network(rate: float, *others: str) -> Network:
    """Whose skip connections of stride 1 drop at this rate."""
    torch.manual_seed(0)
    model = Network(4, 5, 3, nn.CrossEntropyLoss(), 2, 2, primitives=["skip_connect", *others, "sep_conv_3x3"])
    for cells in model.mixed_ops().values():
        for edge in (edge for edges in cells for edge in edges if edge.stride == 1):
            edge._ops[0] = DroppingIdentity(rate)
    return model


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """The ops of fastdarts that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names += [op.overloadpacket.__name__] * (op.namespace == "fastdarts")
        return op(*args, **(kwargs or {}))


def passed(model: Network) -> tuple[torch.Tensor, list[str], bool]:
    """Logits of a pass, the ops that it called, and whether it drew random numbers."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with Calls() as calls:
        logits = model(torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8))
    return logits.detach(), calls.names, not torch.equal(before, torch.get_rng_state())


@needs_native
@pytest.mark.parametrize("others", [(), ("noise",)], ids=["alone", "with-noise"])
def test_a_rate_is_that_of_the_pass_and_costs_no_call(others: tuple[str, ...]) -> None:
    """Also where modules are settled, so that nobody looks at them again."""
    plain, calls, _ = passed(network(0.0, *others))
    model = network(0.4, *others)
    skips = [m for m in model.modules() if isinstance(m, DroppingIdentity)]
    found = {0.0: plain}
    with settled():
        for rate in (0.4, 0.7, 0.0, 0.4):
            for skip in skips:
                skip.rate = rate
            logits, names, draws = passed(model)
            assert names == calls  # one for a state, none for what is dropped
            assert torch.equal(logits, found.setdefault(rate, logits))
            assert draws is bool(rate or others)
    assert len({tuple(logits.flatten().tolist()) for logits in found.values()}) == 3


@needs_native
def test_nothing_is_dropped_or_drawn_in_evaluation() -> None:
    model = network(0.4).eval()
    with settled():
        logits, _, draws = passed(model)
        assert torch.equal(logits, passed(network(0.0).eval())[0]) and not draws
        assert not torch.equal(passed(model.train())[0], logits)
        model.eval()
        assert not passed(model)[2]
