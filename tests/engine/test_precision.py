"""Searches and evaluations in bf16: what takes part in autocast, what stays in float32 and why, and what is said."""

import copy
import dataclasses
import importlib

import pytest
import torch
import torch.nn as nn

from benchmarks.cases import SEARCHED, MixedOpCase
from benchmarks.compare import deviations
from fastdarts.bench.measure import saved_bytes
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.errors import FastdartsError
from fastdarts.functional import native, why_plain
from fastdarts.kernels import registry
from fastdarts.policies.curvature import hessian_eigenvalues
from fastdarts.policies.hypergradients import (
    Descent,
    Exact,
    FirstOrder,
    Neumann,
    Passes,
    difference,
    exact_product,
    in_one,
)
from fastdarts.runs.checkpoint import load_checkpoint
from fastdarts.spaces.cells.supernet import Network
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig

BF16 = torch.autocast("cpu", torch.bfloat16)
CPU = torch.device("cpu")
native_only = pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")
CASE = MixedOpCase("autocast", (2, 4, 6, 5), (("sep_conv_3x3", "max_pool_3x3"), ("dil_conv_5x5",)), base=True)


@pytest.mark.parametrize("impl", ["reference", pytest.param("native", marks=native_only)])
def test_an_op_under_autocast_is_the_op_in_bfloat16(impl):
    wide, _ = CASE.inputs(torch.float32)
    rounded, grads = CASE.inputs(torch.bfloat16)
    with BF16:
        ours = CASE.ours(wide, impl)
    expected = CASE.ours(rounded, impl)
    for a, b in zip((*ours.out, ours.mean, ours.var), (*expected.out, expected.mean, expected.var), strict=True):
        assert a.dtype is b.dtype and torch.equal(a, b)
    found = torch.autograd.grad(ours.out, [*wide.values()], grads)
    for a, b in zip(found, torch.autograd.grad(expected.out, [*rounded.values()], grads), strict=True):
        assert a.dtype is torch.float32 and torch.equal(a, b.float())


@native_only
@pytest.mark.parametrize("name", [*SEARCHED, "partial"])
def test_native_kernels_in_half_precision_are_no_worse_than_twice_eager(name):
    """One candidate at a time: a value that is rounded to the other side of a ReLU would be compared with nothing."""
    for dtype in (torch.bfloat16, torch.float16):
        if name == "partial":
            case = MixedOpCase("half", (2, 16, 6, 4), (("max_pool_3x3",), ("skip_connect",)), base=True, partial=4)
        else:
            case = MixedOpCase("half", (2, 16, 5, 4), ((name,),), base=True, affine=True)
        for deviation in deviations(case, "native", dtype):
            assert not deviation.wrong, deviation


@native_only
@pytest.mark.parametrize("partial", [1, 4])
def test_a_supernet_under_autocast_is_fused_and_keeps_half(partial, monkeypatch):
    model, x = Network(8, 10, 3, nn.CrossEntropyLoss(), partial=partial), torch.randn(8, 3, 16, 16)
    functional = importlib.import_module("fastdarts.functional.chain")
    types, run = [], functional.chained

    def noting(*args, **options):
        out, statistics = run(*args, **options)
        types.extend((out.dtype, mean.dtype) for mean, _ in statistics)
        return out, statistics

    wide = saved_bytes(lambda: model(x), x, *model.parameters())
    monkeypatch.setattr(functional, "chained", noting)
    with BF16:
        narrow = saved_bytes(lambda: model(x), x, *model.parameters())
        logits = model(x)
    assert types == [(torch.bfloat16, torch.float32)] * 2 * 3 * (2 + 5)
    assert narrow < 0.6 * wide
    torch.testing.assert_close(logits.float(), model(x), rtol=0.05, atol=0.05)


def test_gradients_through_the_casts_can_be_differentiated_again():
    products = []
    for tensors, context in ((CASE.inputs(torch.float32)[0], BF16), (CASE.inputs(torch.bfloat16)[0], None)):
        if context:
            with context:
                out = CASE.ours(tensors, "reference").out
        else:
            out = CASE.ours(tensors, "reference").out
        first = torch.autograd.grad(out, [*tensors.values()], [o.detach() for o in out], create_graph=True)
        ones = [torch.ones_like(g) for g in first if g.requires_grad]
        products.append(torch.autograd.grad([g for g in first if g.requires_grad], tensors["x"], ones)[0])
    assert products[0].dtype is torch.float32 and products[0].norm() > 0
    torch.testing.assert_close(products[0], products[1].float(), rtol=2**-7, atol=2**-7)


def test_float64_is_left_alone_and_so_are_passes_that_end_under_autocast():
    for dtype in (torch.float64, torch.float32):
        tensors, grads = CASE.inputs(dtype)
        out = CASE.ours(tensors, "reference").out
        expected = torch.autograd.grad(out, [*tensors.values()], grads, retain_graph=True)
        with BF16:
            if dtype is torch.float64:
                out = CASE.ours(tensors, "reference").out
            found = torch.autograd.grad(out, [*tensors.values()], grads)
        assert all(map(torch.equal, found, expected))


def supernet(layers, nodes, images, **options):
    model = Network(4, 10, layers, nn.CrossEntropyLoss(), nodes, nodes, **options)
    passes = Passes(model, side_effects=False)
    train, valid = ((torch.randn(images, 3, 8, 8), torch.randint(10, (images,))) for _ in range(2))
    weights = list(passes.weights().values())
    return passes, train, valid, Descent(0.1, torch.optim.SGD(weights, 0.1), 0.9, 1e-3)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_products_and_curvature_under_autocast_are_those_without():
    """Bit for bit, while the gradient itself takes part: 2⁻⁸ is the rounding of a bfloat16."""
    passes, train, valid, descent = supernet(1, 1, 4, primitives=["skip_connect", "sep_conv_3x3", "max_pool_3x3"])
    vector = [torch.randn_like(w) for w in passes.weights().values()]

    def products():
        series = [
            loss for loss, _ in (Exact()(passes, train, valid, descent), Neumann(2)(passes, train, valid, descent))
        ]
        found = in_one(difference(passes, vector, train).product), in_one(exact_product(passes, vector, train))
        values = hessian_eigenvalues(passes.model, *train, products=2).values
        return series, [*found, values, hessian_eigenvalues(passes.model, *train, radius=1e-2, products=2).values]

    (losses, expected), gradient = products(), in_one(FirstOrder()(passes, train, valid, descent)[1])
    with BF16:
        (rounded, found), coarse = products(), in_one(FirstOrder()(passes, train, valid, descent)[1])
    assert all(map(torch.equal, found, expected))
    assert relative(coarse, gradient) > 2**-8
    assert all(a != b and abs(a - b) < 0.01 for a, b in zip(losses, rounded, strict=True))


def test_a_finite_difference_of_gradients_in_bfloat16_is_noise():
    """Why both perturbed passes are of float32: at the published radius those of bfloat16 differ by more than the
    weights have moved them. Truth is the same difference in float64."""
    passes, train, *_ = supernet(3, 2, 16)
    vector = torch.autograd.grad(passes.loss(train), list(passes.weights().values()))
    exact = Passes(copy.deepcopy(passes.model).double(), side_effects=False)
    truth = in_one(difference(exact, [v.double() for v in vector], (train[0].double(), train[1])).product)
    epsilon = 1e-2 / torch.stack([v.norm() for v in vector]).norm()

    def beside(sign):
        moved = {name: w + sign * epsilon * v for (name, w), v in zip(passes.weights().items(), vector, strict=True)}
        return in_one(passes.differentiate(train, moved)[1])

    with BF16:
        coarse = (beside(1) - beside(-1)) / (2 * epsilon)
        ours = in_one(difference(passes, vector, train).product)
    assert relative(ours, truth) < 1e-4 < 0.5 < relative(coarse, truth)


SMALL = {
    "epochs": 1, "channels": 4, "layers": 3, "nodes": 1, "batch_size": 16, "samples": 64, "threads": 1, "device": "cpu",
    "precision": "bf16",
}  # fmt: skip
TINY = SearchConfig(**SMALL)
SHORT = {"epochs": 1, "channels": 4, "layers": 3, "batch_size": 16, "samples": 32, "threads": 1, "device": "cpu"}
STEPS = [{"unrolled": True}, {"method": "random-ws", "candidates": 2}, {"method": "random", "candidates": 1}]


@pytest.mark.parametrize("settings", STEPS, ids=["unrolled", "random-ws", "random"])
def test_a_search_in_bf16_leaves_float32_and_says_where_it_is_slow(tmp_path, capsys, settings):
    found = search(SearchConfig(**SMALL, run=tmp_path / "run", **settings))
    said, slow = capsys.readouterr().err, why_plain(CPU, torch.bfloat16)
    if slow or native()["isa"] != "avx512bf16":
        assert ("precision bf16 runs in plain PyTorch" if slow else "precision bf16 on a CPU without units") in said
    else:
        assert "precision bf16" not in said
    assert 0 <= found["valid_error"] <= 100 and 'precision = "bf16"' in (tmp_path / "run" / "config.toml").read_text(
        encoding="utf-8"
    )
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt", "search")
    if "supernet" in state:
        kept = [*state["supernet"]["model"].values(), *state["supernet"]["alphas"]]
        assert {t.dtype for t in kept} == {torch.float32, torch.int64}


def test_precision_changes_the_numbers_and_cannot_change_on_the_way(tmp_path):
    rows = {}
    for precision in ("bf16", "float32"):
        config = dataclasses.replace(TINY, run=tmp_path / precision, precision=precision, gap_every=0)
        rows[precision] = search(config), load_checkpoint(tmp_path / precision / "checkpoint.pt", "search")["supernet"]
    bf16, wide = (torch.cat([w.flatten() for w in state["model"].values()]) for _, state in rows.values())
    assert not torch.equal(bf16, wide) and relative(bf16, wide) < 0.1
    with pytest.raises(FastdartsError, match="--precision is float32 but the run to resume has bf16"):
        search(dataclasses.replace(TINY, precision="float32", resume=tmp_path / "bf16"))


def test_an_evaluation_in_bf16(tmp_path):
    results = [
        evaluate(EvaluateConfig(**SHORT, genotype="DARTS_V2", run=tmp_path / p, precision=p))
        for p in ("bf16", "float32")
    ]
    kept = [torch.load(tmp_path / p / "weights_seed_0.pt") for p in ("bf16", "float32")]
    assert all(0 <= result["test_error"] <= 100 for result in results)
    assert any(not torch.equal(a, b) for a, b in zip(*(weights.values() for weights in kept), strict=True))
    assert {w.dtype for w in kept[0].values()} == {torch.float32, torch.int64}


def test_without_kernels_it_is_said_or_refused_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(registry.MISSING, "native", "there is no compiler")
    evaluation = EvaluateConfig(**SHORT, genotype="DARTS_V2", precision="bf16", run=tmp_path / "said")
    evaluate(evaluation)
    assert "precision bf16 runs in plain PyTorch, several times slower: there is no c" in capsys.readouterr().err
    monkeypatch.setattr(registry, "STRICT", True)
    for work, config in ((search, TINY), (evaluate, evaluation)):
        with pytest.raises(FastdartsError, match="FASTDARTS_STRICT=1 forbids plain PyTorch, but there is no compiler"):
            work(dataclasses.replace(config, run=tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()
