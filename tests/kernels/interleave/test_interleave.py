"""interleave: partial channels put back between the others. The cases of mixed_op hold it against eager modules."""

import pytest
import torch
from torch import library

from benchmarks.cases import CHEAP, LAST, MixedOpCase
from fastdarts.errors import FastdartsError
from fastdarts.functional import Candidate, mixed_op
from fastdarts.kernels.interleave.contract import backward_op, forward_op

pytestmark = pytest.mark.usefixtures("poisoned_memory")

NATIVE = torch._C._dispatch_has_kernel_for_dispatch_key("fastdarts::interleave", "CPU")
needs_native = pytest.mark.skipif(not NATIVE, reason="the extension has no interleave")
IMPLS = ["reference", pytest.param("native", marks=needs_native)]


def arguments(n: int, channels: int, size: tuple[int, int], partial: int, stride: int, edges: int = 2) -> tuple:
    """Of both ops in float64, without the flags of backward."""

    def draw(channels: int, stride: int) -> torch.Tensor:
        maps = torch.randn(n, channels, *(side // stride for side in size), dtype=torch.float64)
        return maps.to(memory_format=LAST)

    x, beta = draw(channels, 1), torch.rand(edges, dtype=torch.float64)
    m = [draw(channels // partial, stride) for _ in range(edges)]
    maps = [draw(channels, stride) for _ in range(edges)]
    return (x, m, maps, beta, stride), (maps, x, beta, partial, stride)


def to(dtype: torch.dtype, values: tuple) -> tuple:
    return tuple(
        [t.to(dtype) for t in v] if isinstance(v, list) else v.to(dtype) if torch.is_tensor(v) else v for v in values
    )


def test_where_every_channel_goes() -> None:
    """By the published rule: output j·K + g takes channel g·C' + j of the mixed and the other channels side by side."""
    x = torch.arange(16.0).view(1, 16, 1, 1).to(memory_format=LAST)
    order = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
    for impl in (forward_op.reference, forward_op.dispatch):
        (out,) = impl(x, [-x[:, :4] - 1], [], torch.ones(1), 1)
        assert out.flatten().tolist() == [-c - 1 if c < 4 else c for c in order]


SHAPES = [  # one sample to many, rows and columns of every length, few channels to many, all kinds of K
    (n, k * own, (s * h, s * w), k, s, edges)
    for s in (1, 2)
    for n, k, own, h, w, edges in ((1, 2, 1, 1, 1, 1), (3, 4, 3, 5, 7, 2), (2, 3, 17, 2, 33, 5), (40, 8, 2, 3, 1, 3))
]


@needs_native
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_size_against_the_reference(shape: tuple) -> None:
    first, second = arguments(*shape)
    flags = (True, True)
    dm, dx, dbeta = backward_op.reference(*second, *flags)
    truth = [*forward_op.reference(*first), *forward_op.reference(*first[:2], [], *first[3:]), *dm, dx, dbeta]
    for dtype in (torch.float32, torch.float64):
        a, b = to(dtype, first), to(dtype, second)
        dm, dx, dbeta = backward_op.dispatch(*b, *flags)
        ours = [*forward_op.dispatch(*a), *forward_op.dispatch(*a[:2], [], *a[3:]), *dm, dx, dbeta]
        for mine, exact in zip(ours, truth, strict=True):
            scale = max(1.0, exact.abs().max().item())
            torch.testing.assert_close(mine.double(), exact, rtol=0, atol=8 * torch.finfo(dtype).eps * scale)
            assert mine.dim() < 4 or mine.is_contiguous(memory_format=LAST)


@needs_native
@pytest.mark.parametrize("stride", [1, 2])
def test_same_bits_for_every_number_of_threads_and_for_what_is_wanted(stride: int) -> None:
    first, second = (to(torch.float32, values) for values in arguments(19, 16, (18, 20), 4, stride, 4))
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            dm, dx, dbeta = backward_op.dispatch(*second, True, True)
            runs.append([*forward_op.dispatch(*first), *dm, dx, dbeta])
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(map(torch.equal, runs[0], other))
    *_, dx, dbeta = runs[0]
    for need_x, need_beta in ((True, False), (False, True), (False, False)):
        dm, mine, betas = backward_op.dispatch(*second, need_x, need_beta)
        assert all(map(torch.equal, dm, runs[0][4:]))
        assert torch.equal(mine, dx if need_x else dx[:0].flatten())
        assert torch.equal(betas, dbeta if need_beta else dbeta[:0])


@pytest.mark.parametrize("stride", [1, 2])
def test_opcheck(stride: int) -> None:
    first, second = arguments(2, 6, (4, 6), 3, stride)
    library.opcheck(forward_op.dispatch, first)
    for needs in ((True, True), (True, False), (False, True), (False, False)):
        library.opcheck(backward_op.dispatch, (*second, *needs))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_maximum_goes_to_the_first_that_has_it_and_nan_is_one(impl: str) -> None:
    x = torch.zeros(1, 2, 2, 4).to(memory_format=LAST)
    x[0, 1] = torch.tensor([[1.0, 3.0, 2.0, float("nan")], [3.0, 0.0, 5.0, 4.0]])
    grad = torch.tensor([7.0, 8.0]).view(1, 1, 1, 2).expand(1, 2, 1, 2).contiguous(memory_format=LAST)
    run = [op.reference if impl == "reference" else op.dispatch for op in (forward_op, backward_op)]
    (out,) = run[0](x, [x[:, :1, ::2, ::2].contiguous(memory_format=LAST)], [], torch.ones(1), 2)
    assert out[0, 1, 0, 0] == 3 and out[0, 1, 0, 1].isnan()
    _, dx, _ = run[1]([grad], x, torch.ones(1), 2, 2, True, True)
    assert dx[0].tolist() == [[[0.0] * 4] * 2, [[0.0, 7.0, 0.0, 8.0], [0.0] * 4]]


def test_one_op_each_way_and_no_gradient_of_beta_unless_somebody_wants_it() -> None:
    case = MixedOpCase("partial", (2, 16, 4, 4), (CHEAP, CHEAP), base=True, partial=4)
    tensors, grads = case.inputs(torch.float32)
    calls = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            calls.append((op.overloadpacket.__name__, args[-1] if op.namespace == "fastdarts" else None))
            return op(*args, **(kwargs or {}))

    names = ("cat", "stack", "max_pool2d", "native_channel_shuffle", "channel_shuffle", "add")
    for wanted in (("x",), ("x", "bypass")):
        calls.clear()
        out = case.ours(tensors).out
        with Watch():
            case.ours(tensors)
            torch.autograd.backward(out, grads, inputs=[tensors[name] for name in wanted])
        done = [name for name, _ in calls]
        if NATIVE:
            assert not set(names) & set(done), done
            assert dict(calls)["interleave_backward"] is ("bypass" in wanted)
        assert done.count("interleave") == done.count("interleave_backward") == 1


X, G, B = torch.zeros(2, 8, 4, 4), torch.zeros(1, 2), torch.ones(1)


@pytest.mark.parametrize(
    ("args", "options", "says"),
    [
        ((X, G), {"partial": 3, "bypass": B}, "partial must be a divisor of the 8 channels of x, got 3"),
        ((X, G), {"partial": 0, "bypass": B}, "divisor of the 8 channels of x, got 0"),
        ((X, G), {"partial": 4.0, "bypass": B}, "divisor of the 8 channels of x, got 4.0"),
        ((X, G), {"partial": 4}, "bypass goes with partial > 1, got partial 4 and no bypass"),
        ((X, torch.zeros(1, 8)), {"bypass": B}, "bypass goes with partial > 1, got partial 1 and bypass"),
        ((X, torch.zeros(1, 8)), {"partial": 4, "bypass": B}, "gain must have 2 channels, 1/4 of those of x, got 8"),
        ((X, G), {"partial": 4, "bypass": torch.ones(2)}, r"bypass must be \[1\], got \[2\]"),
        ((X, G), {"partial": 4, "bypass": 1.0}, "bypass must be a tensor, got float"),
        ((X, G), {"partial": 4, "bypass": B.double()}, "bypass is torch.float64 on cpu but x is torch.float32"),
        ((X, G), {"partial": 4, "bypass": B, "base": [X[:, :2]]}, r"base 0 must be \[2, 8, 4, 4\], got \[2, 2, 4, 4\]"),
        ((X[:, :, :3], G), {"partial": 4, "bypass": B, "stride": 2}, "an even height and width, got 3×4"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(args: tuple, options: dict, says: str) -> None:
    x, gain = args
    with pytest.raises(FastdartsError, match=says) as error:
        mixed_op(x, [Candidate(0, "avg_pool")], gain, **options)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
