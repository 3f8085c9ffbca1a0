"""Networks as users have them: frozen and unused weights, alphas of their own, candidates and edges of their own."""

import copy
import io
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastdarts import Architect, FastdartsError, Network
from fastdarts.bench.eager import EagerNetwork, make_eager
from fastdarts.nn.optim import SGD
from fastdarts.policies.curvature import hessian_eigenvalues
from fastdarts.policies.hypergradients import (
    Descent,
    Exact,
    FirstOrder,
    Neumann,
    Passes,
    Unrolled,
    difference_error,
    exact_product,
)
from fastdarts.spaces.recurrent.model import RNNModelSearch

ARGS = SimpleNamespace(momentum=0.9, weight_decay=3e-4, arch_learning_rate=3e-2, arch_weight_decay=1e-3)
NAMES = ["none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"]
ETA, MU, DECAY = 0.025, 0.9, 3e-4


class Sometimes(Network):
    """A network with a module that only batches of five use, and one that none uses."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.never = nn.Linear(3, 3)
        self.sometimes = nn.Linear(5, 5)

    def forward(self, input):
        logits = super().forward(input)
        return logits + self.sometimes(logits) if len(input) == 5 else logits


class PlainSometimes(EagerNetwork):
    """The same, one operation after another."""

    def forward(self, input):
        logits = super().forward(input)
        return logits + self.sometimes(logits) if len(input) == 5 else logits


def frozen_candidate(model: Network) -> None:
    for cell in model.cells:
        for edge in cell._ops:
            edge._ops[3].requires_grad_(False)


def plain(model: Network) -> nn.Module:
    """A copy that computes one operation after another."""
    twin, own = copy.deepcopy(model), type(model)
    twin.__class__ = Network
    make_eager(twin)
    if own is Sometimes:
        twin.__class__ = PlainSometimes
    return twin


CASES = {
    "all trained": lambda model: None,
    "candidate": frozen_candidate,
    "stem": lambda model: model.stem.requires_grad_(False),
    "all but the classifier": lambda model: (model.requires_grad_(False), model.classifier.requires_grad_(True)),
    "all": lambda model: model.requires_grad_(False),
}


def setting(freeze, optimizer=torch.optim.SGD, kind=Sometimes, sizes=(6, 6)):
    """A network after a step of its weights, which gives them momentum, and batches."""
    torch.manual_seed(1)
    model = kind(2, 5, 3, nn.CrossEntropyLoss(), 1, 1, primitives=NAMES).double()
    freeze(model)
    batches = [(torch.randn(n, 3, 8, 8, dtype=torch.float64), torch.randint(5, (n,))) for n in sizes]
    optimizer = optimizer(model.parameters(), ETA, momentum=MU, weight_decay=DECAY)
    model._loss(*batches[0]).backward()
    optimizer.step()
    optimizer.zero_grad()
    for alpha in model.arch_parameters():
        alpha.grad = None
    return model, optimizer, *batches


def grads(loss, inputs, create_graph=False, vectors=None):
    """With zeros for what the loss does not depend on."""
    return torch.autograd.grad(
        loss, inputs, vectors, create_graph=create_graph, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def written_out(strategy, model, optimizer, train, valid):
    """The gradient of the alphas by the formulas, operation by operation, in the weights that training moves."""
    eager = plain(model)
    alphas, start = eager.arch_parameters(), copy.deepcopy(eager.state_dict())
    if isinstance(strategy, FirstOrder):
        return grads(eager._loss(*valid), alphas)
    pairs = [(p, q) for p, q in zip(eager.parameters(), model.parameters(), strict=True) if p.requires_grad]
    if not pairs:
        return grads(eager._loss(*valid), alphas)
    slopes = torch.autograd.grad(eager._loss(*train), [p for p, _ in pairs], create_graph=True, allow_unused=True)
    used = [(p, q, g) for (p, q), g in zip(pairs, slopes, strict=True) if g is not None]
    w, slopes = [p for p, *_ in used], [g for *_, g in used]
    momenta = [optimizer.state[q]["momentum_buffer"] for _, q, _ in used]

    def put(values):
        with torch.no_grad():
            for p, value in zip(w, values, strict=True):
                p.copy_(value)

    here = [p.detach().clone() for p in w]
    if isinstance(strategy, Neumann):
        (*both,) = grads(eager._loss(*valid), [*alphas, *w])
        direct, v = both[: len(alphas)], both[len(alphas) :]
        total = v
        for _ in range(strategy.terms - 1):
            curved = grads(slopes, w, vectors=v)
            v = [t - ETA * (c + DECAY * t) for t, c in zip(v, curved, strict=True)]
            total = [a + b for a, b in zip(total, v, strict=True)]
        return [d - ETA * p for d, p in zip(direct, grads(slopes, alphas, vectors=total), strict=True)]
    ahead = [p - ETA * (MU * m + g.detach() + DECAY * p) for p, m, g in zip(here, momenta, slopes, strict=True)]
    twin = plain(model)
    trained = dict(zip([id(p) for p in eager.parameters()], twin.parameters(), strict=True))
    moved = [trained[id(p)] for p in w]
    with torch.no_grad():
        for p, value in zip(moved, ahead, strict=True):
            p.copy_(value)
    both = grads(twin._loss(*valid), [*twin.arch_parameters(), *moved])
    direct, v = both[: len(alphas)], both[len(alphas) :]
    if isinstance(strategy, Exact):
        second = grads(slopes, alphas, vectors=v)
    else:
        epsilon = strategy.radius / torch.cat([t.flatten() for t in v]).norm()
        sides = []
        for sign in (1, -1):
            put([p + sign * epsilon * t for p, t in zip(here, v, strict=True)])
            sides.append(grads(eager._loss(*train), alphas))
        second = [(a - b) / (2 * epsilon) for a, b in zip(*sides, strict=True)]
    eager.load_state_dict(start)
    return [d - ETA * s for d, s in zip(direct, second, strict=True)]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, SGD], ids=["torch's SGD", "flat SGD"])
@pytest.mark.parametrize("strategy", [FirstOrder(), Unrolled(), Exact(), Neumann(3)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("freeze", CASES.values(), ids=CASES)
def test_gradients_of_alphas_leave_out_frozen_and_unused_weights(freeze, strategy, optimizer) -> None:
    if optimizer is SGD and strategy != Unrolled():
        pytest.skip("only the unrolled step looks into the optimizer's buffers")
    model, optimizer, train, valid = setting(freeze, optimizer)
    expected = written_out(strategy, model, optimizer, train, valid)
    architect = Architect(model, ARGS, strategy=strategy)
    architect.step(*train, *valid, ETA, optimizer, unrolled=False)
    for alpha, gradient in zip(model.arch_parameters(), expected, strict=True):
        torch.testing.assert_close(alpha.grad, gradient, rtol=1e-6, atol=1e-10)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("strategy", [Unrolled(), Exact(), Neumann(2)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("sizes", [(5, 6), (6, 5)], ids=["training", "validation"])
def test_a_module_that_one_of_the_passes_uses_counts_only_if_it_is_trained(strategy, sizes) -> None:
    model, optimizer, train, valid = setting(CASES["all trained"], sizes=sizes)
    expected = written_out(strategy, model, optimizer, train, valid)
    Architect(model, ARGS, strategy=strategy).step(*train, *valid, ETA, optimizer, unrolled=False)
    for alpha, gradient in zip(model.arch_parameters(), expected, strict=True):
        torch.testing.assert_close(alpha.grad, gradient, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("strategy", [FirstOrder(), Unrolled(), Exact(), Neumann(2)], ids=lambda s: type(s).__name__)
def test_an_unused_module_changes_no_bit(strategy) -> None:
    found = []
    for kind in (Network, Sometimes):
        model, optimizer, *_ = setting(CASES["all trained"], kind=kind)
        torch.manual_seed(2)
        with torch.no_grad():
            for p in (*model.stem.parameters(), *model.cells.parameters(), *model.classifier.parameters()):
                p.copy_(torch.randn_like(p))
        optimizer.state.clear()
        batches = [(torch.randn(6, 3, 8, 8).double(), torch.randint(5, (6,))) for _ in range(2)]
        for alpha in model.arch_parameters():
            alpha.data = torch.randn_like(alpha)
        Architect(model, ARGS, strategy=strategy).step(*batches[0], *batches[1], ETA, optimizer, unrolled=False)
        found.append([a.grad for a in model.arch_parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("freeze", [CASES["candidate"], CASES["stem"]], ids=["candidate", "stem"])
def test_the_error_of_the_difference_is_measured_with_frozen_and_unused_weights(freeze) -> None:
    model, optimizer, train, valid = setting(freeze)
    error = difference_error(Passes(model), train, valid, Descent(ETA, optimizer, MU, DECAY), 1e-8)
    assert error["product_cosine"] > 1 - 1e-6 and error["product_error"] < 1e-3
    weights = Passes(model).weights()
    assert all(p.requires_grad for p in weights.values()) and "never.weight" in weights
    vector = [torch.randn_like(p) for p in weights.values()]
    eager = plain(model)
    w = [p for p in eager.parameters() if p.requires_grad]
    slopes = grads(eager._loss(*train), w, create_graph=True)
    inner = sum((g * v).sum() for g, v in zip(slopes, vector, strict=True))
    for ours, truth in zip(
        exact_product(Passes(model), vector, train), grads(inner, eager.arch_parameters()), strict=True
    ):
        torch.testing.assert_close(ours, truth, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"radius": 1e-8}], ids=["exact", "difference"])
def test_the_curvature_leaves_frozen_alphas_out(options) -> None:
    model, _, train, _ = setting(frozen_candidate)
    model.alphas_reduce.requires_grad_(False)
    before = [a.clone() for a in model.arch_parameters()]
    found = hessian_eigenvalues(model, *train, k=2, tolerance=1e-6, **options)
    assert all(torch.equal(a, b) for a, b in zip(model.arch_parameters(), before, strict=True))
    eager = plain(model)
    (slope,) = torch.autograd.grad(eager._loss(*train), [eager.alphas_normal], create_graph=True)
    rows = [torch.autograd.grad(s, eager.alphas_normal, retain_graph=True)[0].flatten() for s in slope.flatten()]
    values = torch.linalg.eigvalsh(torch.stack(rows))
    expected = torch.cat([values, values.new_zeros(model.alphas_reduce.numel())]).sort(descending=True).values[:2]
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("strategy", [FirstOrder(), Unrolled(), Exact(), Neumann(2)], ids=lambda s: type(s).__name__)
def test_frozen_alphas_stay_and_the_others_move_as_ever(strategy) -> None:
    model, optimizer, train, valid = setting(CASES["all trained"])
    expected = written_out(strategy, model, optimizer, train, valid)
    model.alphas_reduce.requires_grad_(False)
    before = model.alphas_reduce.clone()
    Architect(model, ARGS, strategy=strategy).step(*train, *valid, ETA, optimizer, unrolled=False)
    torch.testing.assert_close(model.alphas_normal.grad, expected[0], rtol=1e-6, atol=1e-10)
    assert torch.equal(model.alphas_reduce, before) and model.alphas_reduce.grad is None


@pytest.mark.parametrize("kind", [torch.optim.SGD, SGD], ids=["torch's SGD", "flat SGD"])
def test_weights_that_are_frozen_and_freed_again_move_as_with_torch(kind) -> None:
    model, _, train, _ = setting(CASES["all trained"])
    twin = copy.deepcopy(model)
    pair = [(model, kind), (twin, torch.optim.SGD)]
    optimizers = [make(m.parameters(), ETA, momentum=MU, weight_decay=DECAY) for m, make in pair]
    for frozen in (False, True, True, False):
        for (network, _), optimizer in zip(pair, optimizers, strict=True):
            network.stem.requires_grad_(not frozen)
            optimizer.zero_grad()
            network._loss(*train).backward()
            optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("kind", [torch.optim.SGD, SGD], ids=["torch's SGD", "flat SGD"])
def test_an_unrolled_step_in_bfloat16_is_nearer_than_that_of_modules(kind) -> None:
    """All of the model is in bfloat16, where the difference of two gradients is mostly rounding. Modules keep none of
    its direction. How much the kernels keep depends on the instruction set."""
    found = []
    for dtype, form in ((torch.float64, plain), (torch.bfloat16, plain), (torch.bfloat16, lambda model: model)):
        model, _, train, valid = setting(CASES["all trained"])
        model = form(model).to(dtype)
        optimizer = kind(model.parameters(), ETA, momentum=MU)
        batches = [(x.to(dtype), y) for x, y in (train, valid)]
        Architect(model, ARGS).step(*batches[0], *batches[1], ETA, optimizer, unrolled=True)
        found.append(torch.cat([a.grad.double().flatten() for a in model.arch_parameters()]))
    truth, *both = found
    modules, ours = (torch.nn.functional.cosine_similarity(truth, one, dim=0) for one in both)
    assert ours > max(modules, 0)


def test_a_frozen_parameter_of_whole_numbers_is_left_alone() -> None:
    table, weight = nn.Parameter(torch.arange(3), requires_grad=False), nn.Parameter(torch.ones(2))
    optimizer = SGD([table, weight], 0.5, max_norm=10.0)
    weight.grad = torch.tensor([1.0, 2.0])
    optimizer.step()
    assert torch.equal(table, torch.arange(3)) and torch.equal(weight, torch.tensor([0.5, 0.0]))


class TestAlphasOfTheUsersOwn:
    """An attribute that holds an alpha and its place in arch_parameters() are one."""

    @pytest.mark.parametrize("how", ["attribute", "list", "both", "deleted and registered"])
    @pytest.mark.parametrize("when", ["before the Architect", "after a step"])
    def test_what_replaces_an_alpha_is_searched(self, how, when) -> None:
        model, optimizer, train, valid = setting(CASES["all trained"])
        held, start = model.arch_parameters(), torch.linspace(-1, 1, 8).double().view(2, 4)
        architect = Architect(model, ARGS)
        if when == "after a step":
            architect.step(*train, *valid, ETA, optimizer, unrolled=False)
        new = nn.Parameter(start.clone())
        if how in ("attribute", "both"):
            model.alphas_normal = new
        if how in ("list", "both"):
            held[0] = new
        if how == "deleted and registered":
            del model.alphas_normal
            model.register_parameter("alphas_normal", new)
        if when == "before the Architect":
            architect = Architect(model, ARGS)
        twin = plain(model)
        expected = grads(twin._loss(*valid), [twin.arch_parameters()[0]])[0]
        architect.step(*train, *valid, ETA, optimizer, unrolled=False)
        assert model.arch_parameters() is held and held[0] is new is model.alphas_normal
        torch.testing.assert_close(new.grad, expected, rtol=1e-9, atol=1e-12)
        # Adam's first step from here: the moments of the tensor before are not those of this one.
        g = expected + 1e-3 * start
        torch.testing.assert_close(new.detach(), start - 3e-2 * g / (g.abs() + 1e-8), rtol=1e-7, atol=1e-9)

    def test_betas_and_recurrent_weights_too(self) -> None:
        model = Network(4, 3, 3, nn.CrossEntropyLoss(), 2, 2, edge_normalisation=True)
        model.betas_reduce = betas = torch.randn(5, requires_grad=True)
        assert model.arch_parameters()[3] is betas
        torch.testing.assert_close(model.edge_weights()[1][:2], torch.softmax(betas[:2], 0))
        model = RNNModelSearch(10, 4, 4, 4, nodes=3)
        model.weights = alphas = torch.randn(6, 5, requires_grad=True)
        assert model.arch_parameters()[0] is alphas is model.alphas is model.weights
        torch.testing.assert_close(model.mixing_weights()[0], torch.softmax(alphas, -1))

    def test_copies_and_saved_networks_keep_the_two_together(self) -> None:
        model = Network(4, 3, 1, nn.CrossEntropyLoss(), 1, 1)
        model.alphas_normal = nn.Parameter(torch.randn(2, 8))
        torch.save(model, file := io.BytesIO())
        file.seek(0)
        for twin in (copy.deepcopy(model), torch.load(file, weights_only=False), model.double()):
            twin.alphas_normal = new = nn.Parameter(torch.randn(2, 8))
            assert twin.arch_parameters()[0] is new

    def test_different_tensors_in_the_two_places_are_refused(self) -> None:
        model = Network(4, 3, 1, nn.CrossEntropyLoss(), 1, 1)
        model._arch_parameters[0] = torch.randn(2, 8, requires_grad=True)
        model.alphas_normal = torch.randn(2, 8, requires_grad=True)
        with pytest.raises(
            FastdartsError, match=r"model.alphas_normal and arch_parameters\(\)\[0\] were set to different"
        ):
            model.mixing_weights()

    def test_what_cannot_be_optimised_is_refused_before_a_pass(self) -> None:
        model, optimizer, train, valid = setting(CASES["all trained"])
        architect = Architect(model, ARGS)
        model.alphas_reduce = torch.randn(2, 4).double()
        with pytest.raises(
            FastdartsError, match=r"arch_parameters\(\)\[1\] was replaced by one that cannot be optimised"
        ):
            architect.step(*train, *valid, ETA, optimizer, unrolled=False)
        model.arch_parameters().append(torch.zeros(1, requires_grad=True))
        with pytest.raises(FastdartsError, match="has 3 tensors: expected the 2 that the Architect was built with"):
            architect.step(*train, *valid, ETA, optimizer, unrolled=False)

    def test_a_model_whose_list_is_stale_is_refused_although_other_alphas_move(self) -> None:
        class Plain(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(2, 2)
                self.alphas_normal, self.alphas_reduce = (torch.randn(2, requires_grad=True) for _ in range(2))
                self._arch = [self.alphas_normal, self.alphas_reduce]

            def arch_parameters(self):
                return self._arch

            def _loss(self, input, target):
                logits = self.layer(input) * self.alphas_normal.softmax(0) + self.alphas_reduce
                return nn.functional.cross_entropy(logits, target)

        model = Plain()
        model.alphas_normal = nn.Parameter(torch.zeros(2))
        with pytest.raises(
            FastdartsError, match=r"does not depend on arch_parameters\(\)\[0\], and model.alphas_normal"
        ):
            Architect(model, ARGS).step(None, None, torch.randn(4, 2), torch.randint(2, (4,)), None, None, False)
