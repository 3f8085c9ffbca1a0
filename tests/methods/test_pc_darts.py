"""PC-DARTS: partial channels and edge normalisation against eager modules, and what its public code fixes."""

import copy

import pytest
import torch
from torch import nn

from fastdarts import FastdartsError
from fastdarts.bench.eager import channel_shuffle, make_eager
from fastdarts.functional import native
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import PRIMITIVES
from fastdarts.policies.gap import DiscretisedNetwork
from fastdarts.report.describe import describe_supernet
from fastdarts.spaces.cells.derive import derive_genotype
from fastdarts.spaces.cells.supernet import Cell, Network
from tests.support.fused import note_calls

LAST = torch.channels_last
PARTIAL = {"partial": 4, "edge_normalisation": True}


def simplex(*shape: int) -> torch.Tensor:
    return torch.softmax(torch.randn(*shape, dtype=torch.float64), -1).requires_grad_()


def network(C=8, layers=3, steps=3, **options) -> Network:
    criterion = nn.CrossEntropyLoss()
    return Network(C, 10, layers, criterion, steps, min(steps, 2), **PARTIAL | options)


def same(ours: nn.Module, eager: nn.Module, *inputs: torch.Tensor) -> None:
    """Outputs, all gradients and buffers in float64."""
    leaves = [[i.detach().clone(memory_format=torch.preserve_format).requires_grad_() for i in inputs] for _ in "ab"]
    outs = [module(*own) for module, own in zip((ours, eager), leaves, strict=True)]
    torch.testing.assert_close(*outs, rtol=1e-9, atol=1e-10)
    grad = torch.randn_like(outs[1])
    gradients = [
        torch.autograd.grad(out, (*own, *module.parameters()), grad, materialize_grads=True)
        for module, own, out in zip((ours, eager), leaves, outs, strict=True)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)
    for mine, theirs in zip(ours.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_the_published_order_of_the_channels() -> None:
    x = torch.arange(16.0).view(1, 16, 1, 1)
    order = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
    assert channel_shuffle(x, 4).flatten().tolist() == order
    op = MixedOp(16, 1, ["skip_connect"], partial=4)
    assert op(x, torch.ones(1)).flatten().tolist() == order


@pytest.mark.parametrize("form", [torch.contiguous_format, LAST], ids=["nchw", "last"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("C", "partial"), [(16, 4), (12, 2), (18, 3), (8, 1)])
def test_a_mixed_operation_equals_the_public_one(C: int, partial: int, stride: int, form) -> None:
    op = MixedOp(C, stride, partial=partial).double()
    x = torch.randn(3, C, 8, 6, dtype=torch.float64).to(memory_format=form)
    same(op, make_eager(copy.deepcopy(op)), x, simplex(8))
    assert op(x, simplex(8)).is_contiguous(memory_format=form)


class Scaled(nn.Module):
    """A custom candidate with a parameter."""

    def __init__(self, C: int, stride: int, affine: bool):
        super().__init__()
        self.stride, self.scale = stride, nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride] * self.scale


FEW = ["none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"]
CUSTOM = ["skip_connect", Scaled, "dil_conv_3x3"]
PER_EDGE = [["none", "none"], FEW[2:]] * 4 + [FEW[:2]]


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("betas", [True, False], ids=["betas", "plain"])
@pytest.mark.parametrize("reduction", [False, True], ids=["normal", "reduction"])
@pytest.mark.parametrize(
    ("primitives", "partial"),
    [(FEW, 4), (FEW, 1), (CUSTOM, 2), (PER_EDGE, 4)],
    ids=["published", "whole", "custom", "per-edge"],
)
def test_a_cell_equals_the_public_one(primitives, partial: int, reduction: bool, betas: bool, memory: str) -> None:
    cell = Cell(3, 2, 6, 5, 8, reduction, True, primitives, memory=memory, partial=partial).double()
    eager = make_eager(copy.deepcopy(cell))
    s0, s1 = torch.randn(2, 6, 16, 8, dtype=torch.float64), torch.randn(2, 5, 8, 4, dtype=torch.float64)
    weights = simplex(9, len(cell._ops[0]._ops)), *([simplex(9)] if betas else [])
    same(cell, eager, s0, s1, *weights)
    cell.eval(), eager.eval()
    same(cell, eager, s0.to(memory_format=LAST), s1.to(memory_format=LAST), *weights)


@pytest.mark.skipif(not native()["loaded"], reason="no native kernels")
def test_a_cell_is_one_call_per_state(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = note_calls(monkeypatch, lambda fused: (fused.edges, fused.partial))
    cell = Cell(4, 4, 6, 5, 8, True, False, FEW, partial=4)
    cell(torch.randn(2, 6, 8, 8), torch.randn(2, 5, 8, 8), torch.rand(14, 4), torch.rand(14))
    assert calls == [(1, 1)] * 2 + [(4, 4), (4, 4), (3, 4), (2, 4), (1, 4)]


@pytest.mark.parametrize("options", [{}, {"stem": "imagenet", "partial": 2}], ids=["cifar", "imagenet"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_network_equals_the_public_one(options: dict, training: bool) -> None:
    model = network(**options).double().train(training)
    eager = make_eager(copy.deepcopy(model))
    size = 32 if options else 8
    x, y = torch.randn(3, 3, size, size, dtype=torch.float64), torch.tensor([1, 7, 3])
    losses = [net._loss(x, y) for net in (model, eager)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    for loss in losses:
        loss.backward()
    pairs = zip(
        [*model.parameters(), *model.arch_parameters()], [*eager.parameters(), *eager.arch_parameters()], strict=True
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-10)
    assert all(a.grad.abs().sum() > 0 for a in model.arch_parameters())
    for mine, theirs in zip(model.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_the_hypergradient_through_a_step_is_that_of_the_public_modules() -> None:
    """Alphas and betas reach the loss through w' = w − ξ ∇L as well."""
    model = network(4, layers=1, steps=2, partial=2, primitives=["skip_connect", "dil_conv_3x3"]).double()
    x, y = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([1, 7])

    def products(net: Network) -> tuple[torch.Tensor, ...]:
        weights = list(net.parameters())
        gradients = torch.autograd.grad(net._loss(x, y), weights, create_graph=True)
        used = [net.alphas_reduce, net.betas_reduce]
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), used)

    ours, truth = products(model), products(make_eager(copy.deepcopy(model)))
    assert all(h.abs().max() > 1e-4 for h in truth)
    torch.testing.assert_close(ours, truth, rtol=1e-7, atol=1e-9)


def published_keys(layers: int = 8, steps: int = 4) -> set[str]:
    """Of a PC-DARTS checkpoint, written out: those of DARTS, nothing of alphas, betas or the bypass."""

    def norm(prefix: str) -> list[str]:
        return [f"{prefix}.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]

    def reduced(prefix: str) -> list[str]:
        return [f"{prefix}.conv_1.weight", f"{prefix}.conv_2.weight", *norm(f"{prefix}.bn")]

    keys = ["stem.0.weight", "stem.1.weight", "stem.1.bias", *norm("stem.1"), "classifier.weight", "classifier.bias"]
    for i in range(layers):
        after, reduction = (i - 1 in (layers // 3, 2 * layers // 3)), i in (layers // 3, 2 * layers // 3)
        for name, factorized in (("preprocess0", after), ("preprocess1", False)):
            plain = [f"cells.{i}.{name}.op.1.weight", *norm(f"cells.{i}.{name}.op.2")]
            keys += reduced(f"cells.{i}.{name}") if factorized else plain
        for edge, source in enumerate(j for node in range(steps) for j in range(node + 2)):
            ops = f"cells.{i}._ops.{edge}._ops"
            keys += [key for k in (1, 2) for key in norm(f"{ops}.{k}.1")]
            keys += reduced(f"{ops}.3") if reduction and source < 2 else []
            for k in (4, 5):
                keys += [f"{ops}.{k}.op.{layer}.weight" for layer in (1, 2, 5, 6)] + norm(f"{ops}.{k}.op.3")
                keys += norm(f"{ops}.{k}.op.7")
            for k in (6, 7):
                keys += [f"{ops}.{k}.op.{layer}.weight" for layer in (1, 2)] + norm(f"{ops}.{k}.op.3")
    return set(keys)


def test_the_supernets_have_the_published_sizes_and_keys() -> None:
    cifar = describe_supernet(16, 8, 10, 32, 3, partial=4)
    assert (cifar["parameters"], cifar["macs"]) == (299_578, 56_596_992)
    assert [cell["parameters"] for cell in cifar["cells"]] == [
        8_592, 8_848, 21_408, 22_944, 24_992, 62_784, 68_928, 77_120,
    ]  # fmt: skip
    imagenet = describe_supernet(16, 8, 1000, 224, 3, partial=2, stem="imagenet")
    assert imagenet["parameters"] == 956_512 and round(imagenet["macs"] / 1e6, 1) == 144.4
    assert imagenet["cells"][0]["output"] == [64, 28, 28]
    with torch.device("meta"):
        assert set(Network(16, 10, 8, nn.CrossEntropyLoss(), **PARTIAL).state_dict()) == published_keys()
        keys = set(network(stem="imagenet").state_dict())
    assert {"stem0.0.weight", "stem0.4.weight", "stem1.1.weight", "stem1.2.bias"} <= keys


def test_betas_are_drawn_after_the_alphas_and_follow_them_everywhere() -> None:
    torch.manual_seed(3)
    model = network(4, steps=4)
    names = ["alphas_normal", "alphas_reduce", "betas_normal", "betas_reduce"]
    assert all(a is getattr(model, name) for a, name in zip(model.arch_parameters(), names, strict=True))
    assert [tuple(a.shape) for a in model.arch_parameters()] == [(14, 8), (14, 8), (14,), (14,)]
    torch.manual_seed(3)
    plain = Network(4, 10, 3, nn.CrossEntropyLoss(), 4, 2, partial=4)
    expected = [a.detach() for a in plain.arch_parameters()] + [1e-3 * torch.randn(14) for _ in range(2)]
    assert all(map(torch.equal, model.arch_parameters(), expected))
    assert all(a.is_leaf and a.requires_grad for a in model.arch_parameters())
    assert not any("beta" in name for name in model.state_dict())
    twin = model.new()
    assert all(map(torch.equal, twin.arch_parameters(), model.arch_parameters()))
    assert twin.cells[0]._ops[0].k == 4 and twin._edge_normalisation
    held = model.betas_normal
    model.double()
    assert model.betas_normal is held and held.dtype is torch.float64
    assert plain.edge_weights() == (None, None)


def test_edge_weights_are_softmaxed_over_the_edges_of_a_node() -> None:
    model = network(4, steps=4)
    with torch.no_grad():
        model.betas_normal.copy_(torch.arange(14.0))
    normal, _ = model.edge_weights()
    for a, b in ((0, 2), (2, 5), (5, 9), (9, 14)):
        torch.testing.assert_close(normal[a:b], torch.softmax(torch.arange(float(a), b), 0))


def test_a_genotype_is_judged_on_alphas_times_betas() -> None:
    model = network(4, steps=4)
    with torch.no_grad():
        model.alphas_normal[:, PRIMITIVES.index("sep_conv_3x3")] = torch.linspace(1, 2, 14)
        model.alphas_normal[1, PRIMITIVES.index("none")] = 3
        model.betas_normal.copy_(torch.tensor([0.0, 9, 0, 5, 9, 9, 5, 0, 0, 0, 5, 0, 9, 0]))
    # by alphas alone each node would take its last edges; node 0 takes 1 first, though `none` weakens it
    assert model.genotype().normal == [
        ("sep_conv_3x3", source) for pair in ((1, 0), (2, 1), (0, 1), (3, 1)) for source in pair
    ]
    weights, betas = (pair[0].detach() for pair in (model.mixing_weights(), model.edge_weights()))
    table = [PRIMITIVES] * 14
    assert model.genotype().normal == derive_genotype(weights * betas[:, None], weights, table, table).normal
    assert model.genotype().normal != derive_genotype(weights, weights, table, table).normal


def test_a_discretised_network_keeps_the_bypass_and_the_edge_weights() -> None:
    model = network(layers=2, partial=2, primitives=["none", "sep_conv_3x3", "skip_connect"]).double().eval()
    with torch.no_grad():
        for alphas in (model.alphas_normal, model.alphas_reduce):
            alphas.copy_(torch.randn(alphas.shape))
        model.betas_reduce.copy_(torch.randn(9))
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        ours = DiscretisedNetwork(model)(x)
        for alphas in (model.alphas_normal, model.alphas_reduce):
            best = alphas[:, 1:].argmax(1) + 1
            alphas.fill_(-1e9)[torch.arange(9), best] = 0
        torch.testing.assert_close(ours, make_eager(copy.deepcopy(model))(x))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MixedOp(6, 1, partial=4), ["C=6", "partial=4"]),
        (lambda: MixedOp(8, 1, partial=0), ["partial=0"]),
        (lambda: MixedOp(8, 1, FEW, partial=4)(torch.randn(2, 6, 4, 4), torch.ones(4)), ["(2, 6, 4, 4)", "of 4 chan"]),
        (lambda: MixedOp(8, 2, FEW, partial=4)(torch.randn(2, 8, 5, 4), torch.ones(4)), ["(2, 8, 5, 4)", "even"]),
        (lambda: MixedOp(4, 2, partial=4), ["even number of channels", "got 1"]),
        (lambda: network(stem="mnist"), ["stem='mnist'", "imagenet"]),
        (
            lambda: Cell(2, 2, 4, 4, 4, False, False, FEW)(
                *torch.randn(2, 2, 4, 4, 4), torch.ones(5, 4), torch.ones(5, 1)
            ),
            ["weights2", "(5, 1)", "(5,)"],
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(call, words) -> None:
    with pytest.raises(FastdartsError) as error:
        call()
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value
