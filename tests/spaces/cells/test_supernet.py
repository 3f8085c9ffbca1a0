"""The supernet against the published one: structure, keys, sizes, values, gradients, running statistics."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from fastdarts import OPS, PRIMITIVES, FastdartsError, MixedOp, Network
from fastdarts.bench.eager import make_eager
from fastdarts.spaces.cells.genotype import Genotype


def network(C=4, layers=3, steps=4, **kwargs):
    torch.manual_seed(0)
    return Network(C, 10, layers, nn.CrossEntropyLoss(), steps, steps, **kwargs)


def expected_keys(layers=8):
    """state_dict keys of the public code, written out from its structure."""

    def bn(prefix):
        return [f"{prefix}.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")]

    def factorized(prefix):
        return [f"{prefix}.conv_1.weight", f"{prefix}.conv_2.weight", *bn(f"{prefix}.bn")]

    keys = ["stem.0.weight", "stem.1.weight", "stem.1.bias", *bn("stem.1"), "classifier.weight", "classifier.bias"]
    previous = False
    for i in range(layers):
        cell, reduction = f"cells.{i}", i in (layers // 3, 2 * layers // 3)
        keys += factorized(f"{cell}.preprocess0") if previous else [f"{cell}.preprocess0.op.1.weight"]
        keys += [] if previous else bn(f"{cell}.preprocess0.op.2")
        keys += [f"{cell}.preprocess1.op.1.weight", *bn(f"{cell}.preprocess1.op.2")]
        edge = 0
        for node in range(4):
            for source in range(node + 2):
                ops = f"{cell}._ops.{edge}._ops"
                keys += bn(f"{ops}.1.1") + bn(f"{ops}.2.1")
                keys += factorized(f"{ops}.3") if reduction and source < 2 else []
                for k in (4, 5):
                    keys += [f"{ops}.{k}.op.{n}.weight" for n in (1, 2, 5, 6)]
                    keys += bn(f"{ops}.{k}.op.3") + bn(f"{ops}.{k}.op.7")
                for k in (6, 7):
                    keys += [f"{ops}.{k}.op.{n}.weight" for n in (1, 2)] + bn(f"{ops}.{k}.op.3")
                edge += 1
        previous = reduction
    return keys


def test_default_supernet_has_the_published_size_and_keys():
    model = Network(16, 10, 8, nn.CrossEntropyLoss())
    assert sum(p.numel() for p in model.parameters()) == 1_930_618
    assert len(list(model.parameters())) == 1399
    assert len(list(model.buffers())) == 2787
    assert set(model.state_dict()) == set(expected_keys())


def test_a_published_checkpoint_loads_strictly_and_gives_the_same_logits():
    published = make_eager(Network(4, 10, 8, nn.CrossEntropyLoss())).double().eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        for name, buffer in published.named_buffers():
            buffer.copy_(0.1 * torch.randn_like(buffer) if name.endswith("mean") else torch.rand(buffer.shape) + 0.5)
    checkpoint = {key: value.clone() for key, value in published.state_dict().items()}
    assert set(checkpoint) == set(expected_keys())
    model = Network(4, 10, 8, nn.CrossEntropyLoss()).double().eval()
    model.load_state_dict(checkpoint, strict=True)
    for mine, theirs in zip(model.arch_parameters(), published.arch_parameters(), strict=True):
        mine.data.copy_(theirs.data)
    with torch.no_grad():
        torch.testing.assert_close(model(x), published(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [8, 30])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_gradients_and_running_statistics_equal_the_eager_supernet(size, training, layout):
    model = network().double().train(training)
    eager = make_eager(copy.deepcopy(model))
    x = torch.randn(3, 3, size, size, dtype=torch.float64).to(memory_format=layout)
    y = torch.tensor([1, 7, 3])
    losses = [net._loss(x, y) for net in (model, eager)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    for loss in losses:
        loss.backward()
    for net in (model, eager):
        assert all(a.grad is not None and a.grad.abs().sum() > 0 for a in net.arch_parameters())
    pairs = zip(
        [*model.parameters(), *model.arch_parameters()], [*eager.parameters(), *eager.arch_parameters()], strict=True
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-11)
    for (name, mine), theirs in zip(model.named_buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def modules_in_published_order(C=4, layers=3):
    """(key, module) for everything that draws an initial value, created in the order the structure reads."""

    def conv(key, *args, **kwargs):
        return key, nn.Conv2d(*args, bias=False, **kwargs)

    def factorized(key, C_in, C_out):
        for half in ("conv_1", "conv_2"):
            yield conv(f"{key}.{half}.weight", C_in, C_out // 2, 1, stride=2)

    yield conv("stem.0.weight", 3, 3 * C, 3, padding=1)
    before, last, width, reduced = 3 * C, 3 * C, C, False
    for i in range(layers):
        reduction = i in (layers // 3, 2 * layers // 3)
        width *= 2 if reduction else 1
        cell = f"cells.{i}"
        if reduced:
            yield from factorized(f"{cell}.preprocess0", before, width)
        else:
            yield conv(f"{cell}.preprocess0.op.1.weight", before, width, 1)
        yield conv(f"{cell}.preprocess1.op.1.weight", last, width, 1)
        edges = [(node, source) for node in range(4) for source in range(node + 2)]
        for edge, (_, source) in enumerate(edges):
            ops = f"{cell}._ops.{edge}._ops"
            if reduction and source < 2:
                yield from factorized(f"{ops}.3", width, width)
            for k, size in ((4, 3), (5, 5)):
                for depthwise, pointwise in ((1, 2), (5, 6)):
                    yield conv(f"{ops}.{k}.op.{depthwise}.weight", width, width, size, groups=width)
                    yield conv(f"{ops}.{k}.op.{pointwise}.weight", width, width, 1)
            for k, size in ((6, 3), (7, 5)):
                yield conv(f"{ops}.{k}.op.1.weight", width, width, size, groups=width)
                yield conv(f"{ops}.{k}.op.2.weight", width, width, 1)
        before, last, reduced = last, 4 * width, reduction
    yield "classifier.weight", nn.Linear(last, 10)


def test_a_seed_gives_the_initial_weights_and_alphas_of_the_published_order():
    torch.manual_seed(0)
    expected = {key: module.weight for key, module in modules_in_published_order()}
    alphas = [1e-3 * torch.randn(14, 8) for _ in range(2)]
    model = network()
    mine = {name: p for name, p in model.named_parameters() if name not in ("stem.1.weight", "stem.1.bias")}
    assert [*mine] == [*expected, "classifier.bias"]
    assert all(torch.equal(mine[key], weight) for key, weight in expected.items())
    assert all(torch.equal(a, b) for a, b in zip(model.arch_parameters(), alphas, strict=True))


@pytest.mark.parametrize("k", [0, 1, 3, 4, 6], ids=["none", "pool", "factorized", "sep", "dil"])
@pytest.mark.parametrize("watch", ["hook", "hook inside", "hook on bn", "patched", "patched bn"])
def test_whoever_watches_a_candidate_sees_it_called(k, watch):
    mixed = MixedOp(4, 2)
    op = mixed._ops[k]
    inner = op.op if hasattr(op, "op") else op
    bn = op.bn if hasattr(op, "bn") else inner[-1] if isinstance(inner, nn.Sequential) else op
    target = {"hook inside": inner, "hook on bn": bn, "patched bn": bn}.get(watch, op)
    if "patched" in watch:
        forward = target.forward
        target.forward = lambda x: 3 * forward(x) + 1
    else:
        target.register_forward_hook(lambda module, inputs, output: 3 * output + 1)
    x, w = torch.randn(3, 4, 6, 6), torch.softmax(torch.randn(8), 0)
    torch.testing.assert_close(mixed(x, w), make_eager(nn.ModuleList([mixed]))[0](x, w))


def test_weights_may_be_a_list_or_an_integer_one_hot():
    mixed, x = MixedOp(4, 1), torch.randn(2, 4, 6, 6)
    expected = mixed._ops[1](x)
    for weights in ([0, 1, 0, 0, 0, 0, 0, 0], F.one_hot(torch.tensor(1), 8)):
        torch.testing.assert_close(mixed(x, weights), expected)


def test_half_precision_and_the_meta_device():
    model = network().bfloat16()
    alphas = model.arch_parameters()
    model._loss(torch.randn(4, 3, 8, 8, dtype=torch.bfloat16), torch.arange(4)).backward()
    assert alphas[0].grad.dtype == torch.bfloat16 and model.cells[0].preprocess1.op[2].running_mean.any()
    model = network().to("meta")
    assert {a.device.type for a in model.arch_parameters()} == {"meta"}
    assert model(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 10)
    model.to_empty(device="cpu")
    assert model.alphas_normal.device.type == "cpu" and model.alphas_normal.requires_grad
    assert model.arch_parameters()[0] is model.alphas_normal


def test_hooks_and_subclasses_and_custom_candidates_are_called():
    calls = []

    class Doubled(nn.Module):
        def forward(self, x):
            calls.append("custom")
            return 2 * x

    mixed = MixedOp(
        4, 1, ["none", "skip_connect", "sep_conv_3x3", Doubled(), lambda C, stride, affine: nn.Conv2d(C, C, 1)]
    )
    mixed._ops[2].register_forward_hook(lambda *_: calls.append("hook"))
    x, w = torch.randn(2, 4, 6, 6), torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15])
    expected = sum(weight * op(x) for weight, op in zip(w, copy.deepcopy(mixed._ops), strict=True))
    calls.clear()
    torch.testing.assert_close(mixed(x, w), expected)
    assert sorted(calls) == ["custom", "hook"]


def test_one_frozen_batchnorm_among_training_ones_keeps_its_statistics():
    mixed = MixedOp(4, 1).double()
    x, w = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.softmax(torch.randn(8, dtype=torch.float64), 0)
    mixed(x, w)
    frozen = mixed._ops[6].op[3].eval()
    before = frozen.running_mean.clone()
    eager = make_eager(nn.ModuleList([copy.deepcopy(mixed)]))[0]
    torch.testing.assert_close(mixed(x, w), eager(x, w))
    assert torch.equal(frozen.running_mean, before)
    assert mixed._ops[7].op[3].num_batches_tracked == 2


@pytest.mark.parametrize("stride", [1, 2])
def test_an_edge_of_none_alone_is_zero(stride):
    out = MixedOp(4, stride, ["none"])(torch.randn(2, 4, 8, 8), torch.ones(1))
    assert out.shape == (2, 4, 8 // stride, 8 // stride) and not out.any()


def test_per_edge_primitives_shape_alpha_and_genotype():
    two = [["skip_connect", "sep_conv_3x3"], ["max_pool_3x3", "dil_conv_3x3"]] * 7
    model = network(primitives=two, primitives_reduce=["max_pool_3x3", "avg_pool_3x3"])
    with torch.no_grad():
        model.alphas_normal.zero_()[:, 1] = torch.arange(1.0, 15.0)
    assert [a.shape for a in model.arch_parameters()] == [(14, 2), (14, 2)]
    # Rows grow with the index: each node keeps its last two edges, the stronger first; even rows are sep, odd dil.
    expected = []
    for node, offset in enumerate((0, 2, 5, 9)):
        for j in (node + 1, node):
            expected.append((two[offset + j][1], j))
    assert model.genotype().normal == expected
    assert {op for op, _ in model.genotype().reduce} <= {"max_pool_3x3", "avg_pool_3x3"}


def test_alphas_are_plain_shared_tensors_that_follow_the_network():
    model = network()
    assert not any("alpha" in name for name, _ in model.named_parameters())
    held = model.arch_parameters()
    assert held is model.arch_parameters() and held[0] is model.alphas_normal
    assert all(a.is_leaf and a.requires_grad and a.abs().max() < 0.01 for a in held)
    model.double()
    assert model.alphas_normal is held[0] and held[0].dtype == torch.float64
    twin = copy.deepcopy(model)
    assert twin.arch_parameters()[0] is twin.alphas_normal and twin.alphas_normal is not held[0]


def test_genotype_reads_the_attributes_that_users_overwrite():
    model = network()
    weights = torch.zeros(14, 8)
    weights[:, PRIMITIVES.index("dil_conv_5x5")] = 1
    model.alphas_normal = weights
    assert {op for op, _ in model.genotype().normal} == {"dil_conv_5x5"}
    assert isinstance(model.genotype(), Genotype)


def test_new_copies_alphas_and_shape_but_not_weights():
    model = network(steps=3, in_channels=1, primitives=["skip_connect", "sep_conv_3x3"])
    twin = model.new()
    assert all(torch.equal(a, b) for a, b in zip(model.arch_parameters(), twin.arch_parameters(), strict=True))
    assert model.state_dict().keys() == twin.state_dict().keys()
    assert not torch.equal(model.stem[0].weight, twin.stem[0].weight)


def test_a_registered_operation_is_a_primitive(monkeypatch):
    monkeypatch.setitem(OPS, "conv_1x1", lambda C, stride, affine: nn.Conv2d(C, C, 1, stride))
    model = network(primitives=["none", "conv_1x1", "skip_connect"])
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_mixed_weights_are_the_softmax_over_the_candidates():
    model = network()
    normal, reduce = model.mixing_weights()
    assert torch.equal(normal, F.softmax(model.alphas_normal, -1)) and torch.equal(
        reduce, F.softmax(model.alphas_reduce, -1)
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: network()(torch.randn(2, 3, 9, 9)), ["9x9", "even"]),
        (lambda: network()(torch.randn(2, 1, 8, 8)), ["(2, 1, 8, 8)", "in_channels"]),
        (lambda: network()(torch.randn(3, 8, 8)), ["(3, 8, 8)"]),
        (lambda: MixedOp(4, 1)(torch.randn(2, 4, 8, 8), torch.ones(7)), ["(7,)", "(8,)"]),
        (lambda: MixedOp(4, 1, ["sep_conv_9x9"]), ["sep_conv_9x9", "sep_conv_3x3"]),
        (lambda: MixedOp(4, 1, []), ["[]", "at least one"]),
        (lambda: MixedOp(4, 1, "sep_conv_3x3"), ["'sep_conv_3x3'", "list"]),
        (lambda: MixedOp(4, 3), ["stride=3"]),
        (lambda: network(layers=0), ["layers=0"]),
        (lambda: network(primitives="none"), ["'none'", "list"]),
        (lambda: network(primitives=[["none"]] * 13), ["13", "14"]),
        (lambda: network(primitives=[["none"]] * 13 + [["none", "skip_connect"]]), ["[1, 2]"]),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(FastdartsError) as error:
        call()
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message
