"""mixed_op: every case × every implementation against eager PyTorch in float64, and its promises."""

import pytest
import torch
from torch import library

from benchmarks.cases import LAST, MIXED_OP_TEST_CASES, SEARCHED, MixedOpCase
from benchmarks.compare import deviations
from fastdarts.bench.check import deviations_from
from fastdarts.errors import FastdartsError
from fastdarts.functional import Candidate, mixed_op
from fastdarts.kernels import registry
from fastdarts.kernels.mixed_op.contract import backward_op, forward_op

pytestmark = pytest.mark.usefixtures("poisoned_memory")

NATIVE = torch._C._dispatch_has_kernel_for_dispatch_key("fastdarts::mixed_op", "CPU")
needs_native = pytest.mark.skipif(not NATIVE, reason="the extension has no mixed_op")
IMPLS = ["reference", pytest.param("native", marks=needs_native)]
CASES = pytest.mark.parametrize("case", MIXED_OP_TEST_CASES, ids=lambda case: case.id)


@pytest.mark.parametrize("impl", IMPLS)
@CASES
def test_no_worse_than_twice_eager(case: MixedOpCase, impl: str) -> None:
    in_float32 = deviations(case, impl, torch.float32)
    in_float64 = deviations(case, impl, torch.float64)
    for single, double in zip(in_float32, in_float64, strict=True):
        assert not single.wrong, single
        assert double.ours <= single.allowed * 2**-20, double  # a float32 step inside would cost a factor of 2^29


def named(case: MixedOpCase, impl: str, dtype: torch.dtype, **kinks) -> tuple[dict[str, torch.Tensor], list]:
    tensors, grads = case.inputs(dtype)
    out, mean, var, noted = case.ours(tensors, impl, **kinks)
    gradients = torch.autograd.grad(out, [*tensors.values()], grads, materialize_grads=True)
    found = {f"grad_{name}": gradient for name, gradient in zip(tensors, gradients, strict=True)}
    found |= {"mean": mean, "var": var} | {f"out{e}": t for e, t in enumerate(out)}
    return {name: t.detach().double() for name, t in found.items()}, noted


def results(case: MixedOpCase, impl: str | None, memory: str = "store", dtype=torch.float32) -> list[torch.Tensor]:
    tensors, grads = case.inputs(dtype)
    out, mean, var, _ = case.ours(tensors, impl, memory)
    return [*out, mean, var, *torch.autograd.grad(out, [*tensors.values()], grads, materialize_grads=True)]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", MIXED_OP_TEST_CASES[::5], ids=lambda case: case.id)
def test_recomputing_gives_the_same_bits_as_storing(case: MixedOpCase, impl: str) -> None:
    pairs = zip(results(case, impl), results(case, impl, "recompute"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@needs_native
@pytest.mark.parametrize("case", MIXED_OP_TEST_CASES[::5], ids=lambda case: case.id)
def test_bfloat16_gives_the_same_bits_when_it_computes_again(case: MixedOpCase) -> None:
    stored, again = (results(case, "native", memory, torch.bfloat16) for memory in ("store", "recompute"))
    assert all(torch.equal(a, b) for a, b in zip(stored, again, strict=True))


LEFTOVERS = [  # 1 to 20 samples, rows and columns, every kernel, channels for every tile
    MixedOpCase(f"{n}x{c}x{h}x{w}-stride{s}", (n, c, h, w), (edge, ("dil_conv_5x5", "sep_conv_7x7")), s, base=True)
    for s, edge in ((1, (*SEARCHED, "dil_conv_7x7")), (2, (*SEARCHED, "dil1_conv_3x3")))
    for n in range(1, 21)
    for c, h, w in [((4, 6, 16, 20, 34)[n % 5], 1 + 7 * n % 20, 21 - n)]
]


@needs_native
@pytest.mark.parametrize("case", LEFTOVERS, ids=lambda case: case.id)
def test_leftovers_of_samples_rows_columns_and_channels(case: MixedOpCase) -> None:
    truth = results(case, "reference", dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        stored, again = (results(case, "native", memory, dtype) for memory in ("store", "recompute"))
        for ours, same, exact in zip(stored, again, truth, strict=True):
            assert torch.equal(ours, same)
            assert (ours - exact).abs().max() <= tolerance * max(1, exact.abs().max())


@needs_native
@pytest.mark.parametrize(
    "case", [*(c for c in MIXED_OP_TEST_CASES if c.partial == 1), *LEFTOVERS], ids=lambda case: case.id
)
def test_bfloat16_is_no_worse_than_twice_the_reference(case: MixedOpCase) -> None:
    """All take the side of every kink that the truth takes: a value on the other side has another gradient."""
    truth, kinks = named(case, "reference", torch.float64, note=True)
    ours, eager = (named(case, impl, torch.bfloat16, kinks=kinks)[0] for impl in ("native", "reference"))
    for deviation in deviations_from(truth, ours, eager, torch.finfo(torch.bfloat16).eps):
        assert not deviation.wrong, deviation


ALL_KINDS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
SMALL = [
    MixedOpCase(f"{name}-stride{stride}", (2, 2, 3, 4), (ALL_KINDS, ("sep_conv_3x3",)), stride, **options)
    for stride in (1, 2)
    for name, options in {
        "training": {"affine": True, "base": True},
        "evaluation": {"affine": True, "training": False},
        "plain": {},
    }.items()
] + [
    MixedOpCase("dropped", (2, 2, 3, 4), (("dropped_skip", "sep_conv_3x3"), ("noise", "dropped_skip")), base=True),
    MixedOpCase("relu-conv", (2, 3, 3, 2), (("relu_conv_1x1",),), outputs=2),
    MixedOpCase("partial", (2, 4, 3, 4), (ALL_KINDS, ("sep_conv_3x3",)), base=True, partial=2),
    MixedOpCase("partial-stride2", (2, 6, 4, 4), (ALL_KINDS, ("sep_conv_3x3",)), 2, affine=True, partial=3),
]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.id)
def test_first_derivatives(case: MixedOpCase, impl: str) -> None:
    tensors, _ = case.inputs(torch.float64)

    def out(*values):
        return tuple(case.ours(dict(zip(tensors, values, strict=True)), impl).out)

    assert torch.autograd.gradcheck(out, [*tensors.values()])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.id)
def test_hessian_vector_products_are_those_of_eager_modules(case: MixedOpCase, impl: str) -> None:
    def product(run) -> tuple[torch.Tensor, ...]:
        tensors, grads = case.inputs(torch.float64)
        leaves = [*tensors.values()]
        loss = sum((grad * out.sin()).sum() for grad, out in zip(grads, run(tensors).out, strict=True))
        gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        generator = torch.Generator().manual_seed(2)
        vectors = [torch.randn(g.shape, generator=generator, dtype=torch.float64) for g in gradients]
        return torch.autograd.grad(gradients, leaves, vectors)

    ours, truth = product(lambda tensors: case.ours(tensors, impl)), product(case.eager)
    assert max(h.abs().max() for h in truth) > 1e-2
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-10)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_bits_every_time_and_the_same_numbers_for_every_number_of_threads(stride: int, dtype: torch.dtype) -> None:
    case = MixedOpCase("threads", (13, 12, 17, 18), (ALL_KINDS, ("dil_conv_5x5",)), stride, base=True)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 1, 2, 2):
            torch.set_num_threads(threads)
            runs.append(results(case, "native", dtype=dtype))
    finally:
        torch.set_num_threads(before)
    for one, other in (runs[:2], runs[2:]):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for one, other in zip(runs[0], runs[2], strict=True):
        rounding = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
        torch.testing.assert_close(one, other, rtol=min(1e-2, 1e-4 * rounding), atol=1e-5 * one.abs().max().item())


def arguments(case: MixedOpCase, dtype=torch.float32, store: bool = True) -> tuple[dict, tuple, tuple]:
    """The inputs and gradients of `case`, and the arguments of both ops for them."""
    tensors, grads = case.inputs(dtype)
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "STRICT", False)
        patch.setattr("fastdarts.kernels.mixed_op", lambda *args: calls.append(args) or ([], None, None, []))
        case.ours(tensors)
    first = [[t.detach() for t in a] if isinstance(a, list) else a for a in calls[0]]
    call, x, base, gain, offset, weights, seeds, running, *_ = [a.detach() if torch.is_tensor(a) else a for a in first]
    candidates, stride, eps, images = [*call.candidates], call.stride, call.eps, call.images
    first = x, base, gain, offset, weights, seeds, candidates, call.edges, stride
    forward = (*first, *(running or (None, None)), eps, images, store, [], False, True)
    _, z, mean, var, _ = forward_op.dispatch(*forward)
    backward = (grads, x, gain, offset, weights, seeds, candidates, stride, z, mean, var, running is None, eps, images)
    return tensors, forward, backward


@pytest.mark.parametrize("case", SMALL[:7:2], ids=lambda case: case.id)
def test_opcheck(case: MixedOpCase) -> None:
    # the reference of backward runs autograd, which the dispatch modes of the other tests switch off
    options = {} if NATIVE else {"test_utils": "test_autograd_registration"}
    for store in (True, False):
        _, forward, backward = arguments(case, store=store)
        library.opcheck(forward_op.dispatch, forward)
        for needs in [(True, True), (True, False), (False, True), (False, False)]:
            library.opcheck(backward_op.dispatch, (*backward, *needs, [], True), **options)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", SMALL[::2], ids=lambda case: case.id)
def test_only_the_gradients_asked_for(case: MixedOpCase, impl: str) -> None:
    tensors, grads = case.inputs(torch.float64)
    gradients = torch.autograd.grad(case.ours(tensors, impl).out, [*tensors.values()], grads)
    everything = dict(zip(tensors, gradients, strict=True))
    groups = {name: "weights" if name.startswith("branches") else name for name in tensors}
    for wanted in [{"x"}, {"gain"}, {"weights"}, {"x", "gain"}, {"gain", "weights"}, {"x", "weights"}, {"offset", "x"}]:
        leaves = {name: t.detach().requires_grad_(groups[name] in wanted) for name, t in tensors.items()}
        torch.autograd.backward(case.ours(leaves, impl).out, grads)
        for name, leaf in leaves.items():
            assert (leaf.grad is not None) == (groups[name] in wanted)
            if leaf.grad is not None:
                torch.testing.assert_close(leaf.grad, everything[name], rtol=1e-10, atol=1e-12)
    one = next(name for name in reversed(tensors) if groups[name] == "weights")
    leaves = {name: t.detach().requires_grad_(name == one) for name, t in tensors.items()}
    torch.autograd.backward(case.ours(leaves, impl).out, grads)
    assert [name for name, leaf in leaves.items() if leaf.grad is not None] == [one]
    torch.testing.assert_close(leaves[one].grad, everything[one], rtol=1e-10, atol=1e-12)


def test_what_is_not_wanted_is_empty() -> None:
    _, _, backward = arguments(SMALL[2])
    dx, dgain, doffset, dweights = backward_op.dispatch(*backward, False, False, [], True)
    assert (dx.numel(), doffset.numel(), dweights) == (0, 0, []) and dgain.shape == backward[2].shape


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_what_is_kept_for_backward(memory: str) -> None:
    case = MixedOpCase("kept", (2, 4, 6, 6), (ALL_KINDS, ALL_KINDS))
    tensors, _ = case.inputs(torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        case.ours(tensors, memory=memory)
    maps = [t for t in kept if t.shape == tensors["x"].shape]
    assert len(maps) == (1 + 2 * 3 if memory == "store" else 1)  # x, and two rows of sep_conv and one of dil_conv
    assert maps[0].data_ptr() == tensors["x"].data_ptr()


def test_an_output_nobody_differentiates_and_an_expanded_gradient() -> None:
    case = MixedOpCase("two", (2, 4, 5, 5), (ALL_KINDS, ALL_KINDS))
    tensors, _ = case.inputs(torch.float64)
    ours = torch.autograd.grad(case.ours(tensors).out[1].square().mean() + 0, [*tensors.values()])
    truth = torch.autograd.grad(case.eager(tensors).out[1].square().mean(), [*tensors.values()], materialize_grads=True)
    torch.testing.assert_close(ours, truth)
    result = case.ours(tensors)
    assert not result.mean.requires_grad and not result.var.requires_grad
    result.out[0].sum().backward()  # an expanded, zero-stride gradient
    assert all(out.is_contiguous(memory_format=LAST) for out in result.out)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", ["skip_connect", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3", "relu_conv_1x1"])
def test_nan_passes(kind: str, impl: str) -> None:
    case = MixedOpCase("nan", (2, 3, 5, 5), ((kind,),))
    tensors, _ = case.inputs(torch.float64)
    with torch.no_grad():
        tensors["x"][0, 1, 2, 2] = float("nan")
        ours, truth = case.ours(tensors, impl), case.eager(tensors)
    assert truth.out[0].isnan().any()
    torch.testing.assert_close(ours.out[0], truth.out[0], equal_nan=True)
    torch.testing.assert_close(ours[1:], truth[1:], equal_nan=True)


@needs_native
@pytest.mark.parametrize("kind", ["skip_connect", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3", "relu_conv_1x1"])
def test_nan_passes_in_bfloat16(kind: str) -> None:
    """To the same places: no product is with a pixel beyond its window."""
    case = MixedOpCase("nan", (2, 3, 7, 9), ((kind,),), training=False)
    tensors, _ = case.inputs(torch.bfloat16)
    with torch.no_grad():
        tensors["x"][0, 1, 3, 4] = float("nan")
        ours = case.ours(tensors, "native").out[0]
        truth = case.eager({name: t.double() for name, t in tensors.items()}).out[0]
    assert truth.isnan().any() and not truth.isnan().all()
    assert torch.equal(ours.isnan(), truth.isnan())


def test_half_precision_keeps_its_type() -> None:
    case = MixedOpCase("half", (4, 4, 6, 6))
    out = case.ours(case.inputs(torch.bfloat16)[0]).out[0]
    assert out.dtype is torch.bfloat16
    assert (out - case.ours(case.inputs(torch.float32)[0]).out[0]).abs().max() < 0.2


def test_compiles_as_one_graph() -> None:
    case = MixedOpCase("compiled", (2, 4, 6, 6), (ALL_KINDS, ("dil_conv_3x3",)), base=True)
    tensors, _ = case.inputs(torch.float32)

    def loss(*values):
        return sum(out.square().sum() for out in case.ours(dict(zip(tensors, values, strict=True))).out)

    values = [*tensors.values()]
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    ours = torch.autograd.grad(compiled(*values), values)
    torch.testing.assert_close(ours, torch.autograd.grad(loss(*values), values))


def test_what_triton_does_not_know_is_said_and_strict_mode_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    if not registry.NO_TRITON:
        assert registry.select(forward_op, None, "cuda", torch.float32) is forward_op.dispatch
    assert registry.select(forward_op, None, "cuda", torch.float64) is forward_op.reference
    monkeypatch.setattr(registry, "STRICT", True)
    says = (
        "forbids the reference of mixed_op: the Triton kernels of mixed_op know float32, bfloat16 and float16, not fl"
    )
    with pytest.raises(RuntimeError, match=says):
        registry.select(forward_op, None, "cuda", torch.float64)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"]
)
@pytest.mark.parametrize("impl", forward_op.gpu)
@CASES
def test_on_a_gpu(case: MixedOpCase, impl: str, dtype: torch.dtype) -> None:
    if registry.missing(impl):
        pytest.skip(registry.missing(impl))
    for deviation in deviations(case, impl, dtype, device="cuda"):
        assert not deviation.wrong, deviation


X, G = torch.zeros(2, 4, 4, 4), torch.zeros(1, 4)
SKIP, DEPTHWISE, POINTWISE = Candidate(0, "skip"), torch.zeros(4, 1, 3, 3), torch.zeros(4, 4, 1, 1)


@pytest.mark.parametrize(
    ("args", "options", "says"),
    [
        ((X[0], [SKIP], G), {}, r"non-empty, floating point \[N, C, H, W\] .*\[4, 4, 4\]"),
        ((X[:0], [SKIP], G), {}, r"non-empty.*\[0, 4, 4, 4\]"),
        ((X.long(), [SKIP], G), {}, "torch.int64"),
        ((X, [SKIP], G[0]), {}, r"gain must be a tensor \[R, C'\], got \[4\]"),
        ((X, [SKIP, SKIP], G), {}, r"gain must be \[2, 4\], got \[1, 4\]"),
        ((X, [Candidate(0, "sep_conv", [DEPTHWISE, POINTWISE] * 2)], G), {}, r"gain must be \[2, 4\]"),
        ((X, [SKIP], G.double()), {}, "gain is torch.float64 on cpu but x is torch.float32"),
        ((X, [SKIP], G, G.to("meta")), {}, "offset is torch.float32 on meta but x is torch.float32 on cpu"),
        ((X, [SKIP], G, G[:, :3]), {}, r"offset must be \[1, 4\], got \[1, 3\]"),
        ((X, [], G), {}, r"one or more for each of the 1 edges .* edges \[\]"),
        ((X, [SKIP], G), {"edges": 2}, r"each of the 2 edges .* edges \[0\]"),
        ((X, [Candidate(1, "skip"), SKIP], G), {"edges": 2}, r"sorted by edge.*\[1, 0\]"),
        ((X, [Candidate(0, "conv")], G), {}, "of kind 'conv': choose one of skip, max_pool"),
        ((X, [SKIP], G), {"stride": 2}, "'skip' exists at stride 1 only, got stride 2"),
        ((X, [SKIP], G), {"stride": 3}, "stride must be 1 or 2, got 3"),
        ((X, [Candidate(0, "factorized_reduce", [POINTWISE[:2]] * 2)], G), {}, "at stride 2 only, got stride 1"),
        ((X, [SKIP], torch.zeros(1, 5)), {}, "'skip' keeps the channels of x, got x of 4 and gain of 5"),
        ((X, [Candidate(0, "factorized_reduce")], torch.zeros(1, 5)), {"stride": 2}, "even number .* got gain of 5"),
        ((X, [Candidate(0, "dil_conv", [DEPTHWISE])], G), {}, r"must be \[\[4, 1, 3, 3\], \[4, 4, 1, 1\]\], got"),
        ((X, [Candidate(0, "dil_conv", [POINTWISE, POINTWISE])], G), {}, "k = 3, 5 or 7, got k = 1"),
        ((X, [Candidate(0, "dil_conv", [DEPTHWISE, POINTWISE], 3)], G), {}, "'dil_conv' must be 1 or 2, got 3"),
        ((X, [Candidate(0, "sep_conv", [DEPTHWISE, POINTWISE] * 2, 2)], G), {}, "'sep_conv' must be 1, got 2"),
        ((X, [Candidate(0, "relu_conv", [POINTWISE.double()])], G), {}, "weight 0 is torch.float64"),
        ((X, [SKIP], None), {}, r"gain must be a tensor \[R, C'\], got NoneType"),
        ((X, [SKIP], G), {"eps": -1e-5}, "eps must be a finite number, at least 0, got -1e-05"),
        ((None, [SKIP], G), {}, r"x must be a tensor \[N, C, H, W\], got NoneType"),
        ((X, [SKIP], G), {"base": None}, "base must be a sequence of tensors, got NoneType"),
        ((X, [SKIP], G), {"eps": None}, "at least 0, got None"),
        ((X, [SKIP], G), {"eps": float("nan")}, "at least 0, got nan"),
        ((X, [SKIP], G), {"base": [None]}, "base 0 must be a tensor, got NoneType"),
        ((X, [SKIP], G), {"base": [X, X]}, "one tensor per edge, got 2 for 1 edges"),
        ((X, [SKIP], G), {"base": [X[:1]]}, r"base 0 must be \[2, 4, 4, 4\], got \[1, 4, 4, 4\]"),
        ((X, [SKIP], G), {"running": (G[:, :2], G)}, r"running mean must be \[1, 4\], got \[1, 2\]"),
        ((X, [SKIP], G), {"memory": "disk"}, "memory is 'disk': choose one of store, recompute"),
        ((X, [SKIP], G), {"impl": "metal"}, "impl is 'metal': choose one of"),
        ((X[:1, :, :2, :2], [Candidate(0, "max_pool")], G), {"stride": 2}, "more than one value per channel"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(args: tuple, options: dict, says: str) -> None:
    with pytest.raises(FastdartsError, match=says) as error:
        mixed_op(*args, **options)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("running", [(torch.ones(1, 8), None), (torch.ones(1, 8),), torch.ones(2, 1, 8)], ids=str)
def test_running_statistics_are_a_pair(running) -> None:
    with pytest.raises(FastdartsError, match="pair of tensors"):
        mixed_op(torch.randn(2, 8, 5, 5), [Candidate(0, "max_pool")], torch.ones(1, 8), running=running)


@needs_native
def test_weight_gradients_are_computed_only_where_somebody_wants_them() -> None:
    x, gain = torch.randn(2, 4, 5, 5), torch.ones(1, 4, requires_grad=True)
    weights = [torch.randn(4, 1, 3, 3, requires_grad=True), torch.randn(4, 4, 1, 1, requires_grad=True)]
    asked = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            if op is torch.ops.fastdarts.mixed_op_backward.default:
                asked.append(args[15])
            return op(*args, **(kwargs or {}))

    for wanted, expected in (([gain], False), ([gain, weights[1]], True), (weights, True)):
        (out,) = mixed_op(x, [Candidate(0, "dil_conv", weights)], gain).out
        with Watch():
            gradients = torch.autograd.grad(out.square().sum(), wanted)
        assert asked.pop() is expected
        assert all(g.abs().max() > 0 for g in gradients)
