"""Kept kinks: of the op by their definition and against eager modules, of a loss, its differences and its curvature."""

import copy
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from benchmarks.cases import MixedOpCase
from examples.second_order import Keeping, keeping
from fastdarts import Architect, FastdartsError, MixedOp, Network
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.kernels import registry
from fastdarts.kernels.mixed_op.contract import forward_op
from fastdarts.kernels.mixed_op.kinks import NO_KINKS, unpack
from fastdarts.nn.fusion.kinks import Kinks, Unkeepable
from fastdarts.policies.curvature import hessian_eigenvalues
from fastdarts.policies.hypergradients import (
    Descent,
    Exact,
    Passes,
    Unrolled,
    difference,
    difference_error,
    exact_product,
    in_one,
)
from fastdarts.policies.monitors import Eigenvalue
from fastdarts.runs.writer import read_metrics
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve
from tests.support.kink_cases import CASES, EDGES, run

NATIVE = torch._C._dispatch_has_kernel_for_dispatch_key("fastdarts::mixed_op", "CPU")
IMPLS = ["reference", pytest.param("native", marks=pytest.mark.skipif(not NATIVE, reason="no native mixed_op"))]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@pytest.mark.parametrize("impl", IMPLS)
@every_case
def test_noted_bits_and_places_are_those_of_the_input(case, impl):
    tensors, grads = case.inputs(torch.float32)
    _, (state, places, *middle) = run(case, tensors, grads, impl, note=True)
    x = tensors["x"].detach()[:, : case.shape[1] // case.partial]
    names = [name for edge in case.edges for name in edge]
    if any("conv" in name or (name == "skip_connect" and case.stride == 2) for name in names):
        assert torch.equal(unpack(state, x.shape[1]), x > 0)
    else:
        assert state.numel() == 0
    if "max_pool_3x3" in names:
        at = F.max_pool2d(x, 3, case.stride, 1, return_indices=True)[1]
        rows, columns = (torch.arange(side) * case.stride - 1 for side in at.shape[2:])
        found = places.permute(0, 3, 1, 2).long()
        assert torch.equal((rows[:, None] + found // 3) * x.shape[3] + columns + found % 3, at)
    assert len(middle) == sum(name.startswith("sep") for name in names)
    wide, _ = case.inputs(torch.float64)
    _, (*_, last) = run(case, wide, [g.double() for g in grads], "reference", note=True)
    assert not middle or (last ^ middle[-1]).count_nonzero() <= 1  # all but what rounds to the other side of zero


@pytest.mark.parametrize("impl", IMPLS)
@every_case
def test_kept_where_they_were_noted_nothing_changes(case, impl):
    tensors, grads = case.inputs(torch.float64)
    plain, _ = run(case, tensors, grads, impl)
    noted, kinks = run(case, tensors, grads, impl, note=True)
    kept, _ = run(case, tensors, grads, impl, kinks=kinks)
    again, _ = run(case, tensors, grads, impl, kinks=kinks, memory="recompute")
    for a, b, c, d in zip(plain, noted, kept, again, strict=True):
        assert torch.equal(a, b) and torch.equal(c, d)
        torch.testing.assert_close(c, a, rtol=1e-11, atol=1e-11)  # the reference adds up in another order


@pytest.mark.parametrize("impl", IMPLS)
@every_case
def test_kept_elsewhere_the_op_is_smooth_and_its_gradient_is_its_own(case, impl):
    """Against differences: a step that would cross kinks is a step along one smooth function."""
    tensors, grads = case.inputs(torch.float64)
    _, kinks = run(case, tensors, grads, impl, note=True)
    far = {name: (t.detach() + 0.3 * torch.randn_like(t)).requires_grad_() for name, t in tensors.items()}
    own, _ = run(case, far, grads, impl)
    kept, _ = run(case, far, grads, impl, kinks=kinks)
    assert any(not torch.allclose(a, b) for a, b in zip(own, kept, strict=True)) or case.id == "pools"
    truth, _ = run(case, far, grads, "reference", kinks=kinks)
    for ours, exact in zip(kept, truth, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-9)
    direction = {name: torch.randn_like(t) for name, t in far.items()}

    def value(step: float) -> torch.Tensor:
        moved = {name: t.detach() + step * direction[name] for name, t in far.items()}
        outputs = case.ours(moved, impl, kinks=kinks).out
        return sum((g * o).sum() for g, o in zip(grads, outputs, strict=True))

    slope = sum((g * d).sum() for g, d in zip(kept[-len(far) :], direction.values(), strict=True))
    wide, near = (abs((value(h) - value(-h)) / (2 * h) - slope).item() for h in (1e-3, 1e-4))
    assert near <= 0.011 * wide + 1e-8  # with the square of the step


def test_kinks_that_do_not_fit_are_one_sentence():
    case = CASES[0]
    tensors, grads = case.inputs(torch.float32)
    _, kinks = run(case, tensors, grads, None, note=True)
    for options, words in (
        ({"kinks": kinks, "note": True}, "keeps kinks or notes them"),
        ({"kinks": kinks[:-1]}, "kinks must be uint8"),
        ({"kinks": [k.float() for k in kinks]}, "kinks must be uint8"),
    ):
        with pytest.raises(FastdartsError, match=words):
            case.ours(tensors, None, **options)
    strided = MixedOpCase("partial", (2, 16, 4, 4), (EDGES[0],), 2, partial=4)
    with pytest.raises(FastdartsError, match="takes maxima of its own"):
        strided.ours(strided.inputs(torch.float32)[0], None, note=True)


def test_a_kernel_without_kinks_is_refused_or_named(monkeypatch):
    lacking = {"triton": NO_KINKS}
    monkeypatch.setattr(registry, "MISSING", dict.fromkeys(registry.MISSING, "") | {"cuda": "not built"})
    with pytest.raises(RuntimeError, match="neither note nor keep kinks"):
        registry.select(forward_op, "triton", "cuda", torch.float32, lacking)
    monkeypatch.setattr(registry, "STRICT", True)
    with pytest.raises(RuntimeError, match="neither note nor keep kinks"):
        registry.select(forward_op, None, "cuda", torch.float32, lacking)


@pytest.fixture
def setting():
    torch.manual_seed(1)
    model = Network(4, 5, 3, nn.CrossEntropyLoss(), 2, 2).double()
    train, valid = ((torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.randint(5, (6,))) for _ in range(2))
    return model, train, valid


def perturbed(model, step=0.05):
    generator = torch.Generator().manual_seed(3)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(step * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return moved


def gradients(loss, model):
    return torch.autograd.grad(loss, [*model.arch_parameters(), *model.parameters()], allow_unused=True)


@pytest.mark.parametrize("memory", ["store", "recompute", "checkpoint"])
def test_a_loss_keeps_its_kinks_as_eager_modules_do(setting, memory):
    _, train, _ = setting
    model = Network(4, 5, 3, nn.CrossEntropyLoss(), 2, 2, memory=memory).double()
    moved, kinks = perturbed(model), Kinks()
    state = torch.get_rng_state()
    with kinks.note():
        noted = model._loss(*train)
    torch.testing.assert_close(noted, copy.deepcopy(model)._loss(*train), rtol=1e-12, atol=0)
    with kinks.keep():
        loss = moved._loss(*train)
    assert torch.equal(state, torch.get_rng_state())
    eager, eager_moved = keeping(model), keeping(moved)
    Keeping.noting, Keeping.kept = True, ()
    eager._loss(*train)
    Keeping.noting = False
    for module, other in zip(eager.modules(), eager_moved.modules(), strict=True):
        other.__dict__.update({k: v for k, v in module.__dict__.items() if k in ("mask", "places")})
    Keeping.kept = ("kinks",)
    truth = eager_moved._loss(*train)
    Keeping.kept = ()
    torch.testing.assert_close(loss, truth, rtol=1e-10, atol=0)
    assert abs(loss - moved._loss(*train)) > 1e-4  # with kinks of its own it is another one
    for ours, exact in zip(gradients(loss, moved), gradients(truth, eager_moved), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 2e-3), (torch.float32, 2e-3)])
def test_with_kept_kinks_the_published_radius_gives_the_exact_product(setting, dtype, error):
    model, train, valid = setting
    exactly, batch = copy.deepcopy(model), (train[0].to(dtype), train[1])
    passes, kinks = Passes(model.to(dtype), side_effects=False), []
    vector = passes.differentiate((valid[0].to(dtype), valid[1]), wanted=[*model.parameters()])[2]
    passes.differentiate(batch, alphas=False, wanted=[*model.parameters()], note=kinks)
    exact = in_one(exact_product(Passes(exactly, side_effects=False), [v.double() for v in vector], train))

    def off(radius, kinks):
        found = in_one(difference(passes, vector, batch, radius, kinks=kinks).product)
        return ((found - exact).norm() / exact.norm()).item()

    assert off(1e-2, kinks) < error < off(1e-2, None)
    if dtype is torch.float64:  # the central difference converges with the square of the radius
        assert off(1e-3, kinks) < 0.02 * off(1e-2, kinks)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_unrolled_step_with_kept_kinks_is_the_exact_one(setting, accumulate):
    model, train, valid = setting
    optimizer = torch.optim.SGD(model.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
    descent = Descent(0.025, optimizer, 0.9, 3e-4)
    passes = Passes(model, False, accumulate)
    before = [p.detach().clone() for p in model.parameters()]
    found = {}
    for strategy in (Unrolled(), Unrolled(keep_kinks=True)):
        found[strategy.keep_kinks] = in_one(strategy(passes, train, valid, descent)[1])
    assert all(map(torch.equal, before, model.parameters()))
    if accumulate == 1:
        direct = in_one(passes.differentiate(valid)[1])
        exact = in_one(Exact()(Passes(model, False), train, valid, descent)[1])
    else:  # parts are batches of their own: half of each half's gradient
        halves = [tuple(t.tensor_split(2)[i] for t in train) for i in (0, 1)]
        weights = passes.weights()
        gradient = passes.differentiate(train, alphas=False, wanted=[*weights.values()])[2]
        ahead = descent.ahead(weights, gradient)
        _, direct, vector = passes.differentiate(valid, ahead, wanted=[*ahead.values()])
        one = Passes(model, False)
        products = [in_one(exact_product(one, vector, half)) for half in halves]
        exact = in_one(direct) - 0.025 * (products[0] + products[1]) / 2
        direct = in_one(direct)
    size = (exact - direct).norm()
    assert (found[True] - exact).norm() < 5e-3 * size < (found[False] - exact).norm()


def test_an_architect_and_its_monitor_know_kept_kinks(setting):
    model, train, valid = setting
    args = SimpleNamespace(momentum=0.9, weight_decay=3e-4, arch_learning_rate=3e-4, arch_weight_decay=1e-3)
    optimizer = torch.optim.SGD(model.parameters(), 0.025, momentum=0.9)
    errors = {}
    for keep in (False, True):
        architect = Architect(model, args, Unrolled(keep_kinks=keep))
        errors[keep] = architect.difference_error(train, valid, 0.025, optimizer)["product_error"]
    assert errors[True] < 5e-3 < errors[False]
    row = difference_error(Passes(model), train, valid, Descent(0.025, optimizer, 0.9, 3e-4), keep_kinks=True)
    assert row["product_cosine"] > 0.9999


def test_curvature_on_the_fused_path_is_that_of_exact_products(setting):
    model, train, _ = setting
    exact = hessian_eigenvalues(model, *train, 3, tolerance=1e-4).values
    single = copy.deepcopy(model).float()
    found = hessian_eigenvalues(single, train[0].float(), train[1], 3, tolerance=1e-4, radius=1e-2, keep_kinks=True)
    torch.testing.assert_close(found.values, exact, rtol=5e-3, atol=0)
    with pytest.raises(FastdartsError, match="goes with a radius"):
        hessian_eigenvalues(model, *train, keep_kinks=True)


class Own(nn.Module):
    """A candidate that is called: every way to write a ReLU, and a pool."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.pool, self.relu = nn.MaxPool2d(3, 1, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.conv(x))
        z = torch.relu(self.pool(x) - 0.1) + F.relu(y - 0.2).relu_() + F.leaky_relu(x - y, 0.1) - (x + y).abs()
        return z + F.max_pool2d(y, 3, stride=1, padding=1, return_indices=True)[0]


def test_candidates_that_are_called_keep_theirs_too():
    op = MixedOp(6, 1, ["sep_conv_3x3", Own(6), "max_pool_3x3"]).double()
    x, w = torch.randn(2, 6, 5, 5, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    far, kinks = x + 0.3 * torch.randn_like(x), Kinks()
    with kinks.note():
        op(x, w)

    def value(at):
        with kinks.keep():
            return op(at, w).sin().sum()

    at = far.clone().requires_grad_()
    direction = torch.randn_like(x)
    slope = (torch.autograd.grad(value(at), at)[0] * direction).sum()
    found = (value(far + 1e-5 * direction) - value(far - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(found, slope, rtol=1e-7, atol=0)
    step = 0.05 * direction
    with torch.no_grad():
        assert abs(op(far + step, w).sin().sum() - value(far + step)) > 1e-3


@pytest.mark.parametrize(
    "activation",
    [
        lambda x: F.leaky_relu(x * 1, inplace=True),
        partial(F.adaptive_max_pool2d, output_size=2),
        lambda x: torch.clamp(input=x, min=0.0),
        lambda x: x.clamp_min(0.1),
        lambda x: (x * 1).clamp_(-1.0, 1.0),
        lambda x: torch.minimum(x, torch.zeros(())),
        lambda x: x.amin(),
        lambda x: (x * 1).abs_(),
        lambda x: F.l1_loss(x, torch.zeros_like(x)),
        nn.Hardswish(),
    ],
)
def test_kinks_of_another_kind_are_refused(activation):
    kinks, x = Kinks(), torch.randn(2, 3, 4, 4, requires_grad=True)
    with pytest.raises(Unkeepable, match="has kinks that cannot be kept"), kinks.note():
        activation(x)
    with kinks.note():
        activation(x.detach())  # of what nothing is differentiated in


def test_a_supernet_whose_kinks_cannot_be_kept_has_its_eigenvalue_from_exact_products():
    config = resolve(SearchConfig(channels=4, layers=3, nodes=2))
    shape = ImageProblem.of_shape(5, 3, (8, 8))
    batch, values = (torch.randn(4, 3, 8, 8), torch.arange(4)), []
    for activation in (nn.ReLU(), nn.ReLU6()):  # the same function, as nothing reaches 6
        supernet = SearchStep(config, shape, torch.device("cpu"))
        supernet.model.stem.append(activation)
        says = pytest.warns(RuntimeWarning, match="exact products") if values else nullcontext()
        with says:
            values.append(Eigenvalue(1, config.arch_weight_decay).largest(supernet.model, *batch))
    assert values[0] == pytest.approx(values[1], rel=1e-2)


def test_kinks_of_running_statistics_and_of_the_candidates_that_run(setting):
    """Normalised by running statistics, and with an edge of which one candidate is computed."""
    model, train, _ = setting
    model.cells[0]._ops[0].active = (4,)
    model.eval()
    moved, kinks = perturbed(model), Kinks()
    with kinks.note():
        model._loss(*train)

    def value(step):
        with kinks.keep():
            return perturbed(moved, step)._loss(*train)

    with kinks.keep():
        loss = moved._loss(*train)
    slopes = torch.autograd.grad(loss, [*moved.parameters()], allow_unused=True)
    generator = torch.Generator().manual_seed(3)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in moved.parameters()]
    slope = sum((g * d).sum() for g, d in zip(slopes, directions, strict=True) if g is not None)
    torch.testing.assert_close((value(1e-5) - value(-1e-5)) / 2e-5, slope, rtol=1e-6, atol=1e-9)


def test_under_autocast_kinks_are_noted_and_kept_in_the_types_of_the_weights(setting):
    model, train, valid = setting
    model = model.float()
    train, valid = ((x.float(), y) for x, y in (train, valid))
    optimizer = torch.optim.SGD(model.parameters(), 0.025, momentum=0.9)
    descent = Descent(0.025, optimizer, 0.9, 3e-4)
    with torch.autocast("cpu", torch.bfloat16):
        row = difference_error(Passes(model), train, valid, descent, keep_kinks=True)
        values = hessian_eigenvalues(model, *train, radius=1e-2, keep_kinks=True).values
    assert row["product_error"] < 5e-3
    torch.testing.assert_close(values, hessian_eigenvalues(model, *train).values, rtol=1e-2, atol=0)


def test_a_search_that_keeps_kinks_reports_the_exact_product(tmp_path):
    sizes = {"samples": 64, "batch_size": 32, "channels": 4, "layers": 3, "nodes": 2, "epochs": 1}
    config = SearchConfig(run=tmp_path / "s", unrolled=True, keep_kinks=True, product_error_every=1, **sizes)
    search(config)
    [row] = read_metrics(tmp_path / "s")
    assert row["product_error"] < 0.02 and row["product_cosine"] > 0.999


def test_passes_that_decide_otherwise_are_refused():
    kinks, x = Kinks(), torch.randn(3)
    with kinks.note():
        F.relu(x)
    with pytest.raises(FastdartsError, match="expected 1"), kinks.keep():
        pass
    with pytest.raises(FastdartsError, match="more than the 1 decisions"), kinks.keep():
        F.relu(F.relu(x))
    assert torch.equal(F.relu(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))  # nobody listens any more


def test_noise_and_drop_path_are_drawn_again():
    torch.manual_seed(1)
    model = Network(4, 5, 3, nn.CrossEntropyLoss(), 2, 2, primitives=["noise", "sep_conv_3x3"])
    model.drop_path_prob = 0.3
    batch, kinks = (torch.randn(4, 3, 8, 8), torch.arange(4)), Kinks()
    with kinks.note():
        loss = model._loss(*batch)
    torch.rand(7)
    with kinks.keep():
        assert torch.equal(model._loss(*batch), loss)
    assert not torch.equal(model._loss(*batch), loss)
