"""Searches and evaluations in bf16: what takes part in autocast, what stays in float32 and why, and what is said."""

import copy
import dataclasses
import os
import subprocess
import sys

import pytest
import torch
import torch.nn as nn

from benchmarks.cases import MixedOpCase
from fastdarts.checkpoint import load_checkpoint
from fastdarts.config import EvaluateConfig, SearchConfig
from fastdarts.curvature import hessian_eigenvalues
from fastdarts.errors import FastdartsError
from fastdarts.evaluation import evaluate
from fastdarts.functional import why_plain
from fastdarts.hypergradient import Descent, Exact, FirstOrder, Neumann, Passes, difference, exact_product, in_one
from fastdarts.model_search import Network
from fastdarts.search import search

BF16 = torch.autocast("cpu", torch.bfloat16)
CPU = torch.device("cpu")
CASE = MixedOpCase("autocast", (2, 4, 6, 5), (("sep_conv_3x3", "max_pool_3x3"), ("dil_conv_5x5",)), base=True)


def test_an_op_under_autocast_is_the_op_in_bfloat16():
    wide, _ = CASE.inputs(torch.float32)
    rounded, grads = CASE.inputs(torch.bfloat16)
    with BF16:
        ours = CASE.ours(wide, "reference")
    expected = CASE.ours(rounded, "reference")
    for a, b in zip((*ours.out, ours.mean, ours.var), (*expected.out, expected.mean, expected.var), strict=True):
        assert a.dtype is b.dtype and torch.equal(a, b)
    found = torch.autograd.grad(ours.out, [*wide.values()], grads)
    for a, b in zip(found, torch.autograd.grad(expected.out, [*rounded.values()], grads), strict=True):
        assert a.dtype is torch.float32 and torch.equal(a, b.float())


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


def supernet():
    model = Network(4, 10, 2, nn.CrossEntropyLoss(), 1, 1)
    passes = Passes(model, side_effects=False)
    train, valid = ((torch.randn(8, 3, 8, 8), torch.randint(10, (8,))) for _ in range(2))
    weights = list(passes.weights().values())
    return passes, train, valid, Descent(0.1, torch.optim.SGD(weights, 0.1), 0.9, 1e-3)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_products_and_curvature_under_autocast_are_those_without():
    """Bit for bit, while the gradient itself takes part: 2⁻⁸ is the rounding of a bfloat16."""
    passes, train, valid, descent = supernet()
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
    passes, train, *_ = supernet()
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


TINY = SearchConfig(
    epochs=1, channels=4, layers=3, nodes=1, batch_size=16, samples=64, threads=1, device="cpu", precision="bf16"
)
STEPS = [{"unrolled": True}, {"method": "random-ws", "candidates": 2}, {"method": "random", "candidates": 1}]


@pytest.mark.parametrize("settings", STEPS, ids=["unrolled", "random-ws", "random"])
def test_a_search_in_bf16_leaves_float32_and_says_where_it_is_slow(tmp_path, capsys, settings):
    found = search(dataclasses.replace(TINY, run=tmp_path / "run", **settings))
    said = capsys.readouterr().err
    assert ("precision bf16 runs in plain PyTorch, several times slower: " in said) == bool(
        why_plain(CPU, torch.bfloat16)
    )
    assert 0 <= found["valid_error"] <= 100 and 'precision = "bf16"' in (tmp_path / "run" / "config.toml").read_text()
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
    sizes = {"epochs": 1, "channels": 4, "layers": 3, "batch_size": 16, "samples": 48, "threads": 1, "device": "cpu"}
    results = [
        evaluate(EvaluateConfig(genotype="DARTS_V2", run=tmp_path / p, precision=p, **sizes))
        for p in ("bf16", "float32")
    ]
    kept = [torch.load(tmp_path / p / "weights_seed_0.pt") for p in ("bf16", "float32")]
    assert all(0 <= result["test_error"] <= 100 for result in results)
    assert any(not torch.equal(a, b) for a, b in zip(*(weights.values() for weights in kept), strict=True))
    assert {w.dtype for w in kept[0].values()} == {torch.float32, torch.int64}


@pytest.mark.skipif(not why_plain(CPU, torch.bfloat16), reason="kernels know bfloat16 here")
def test_where_plain_pytorch_is_forbidden_bf16_without_kernels_is_refused(tmp_path):
    command = [
        sys.executable,
        "-m",
        "fastdarts",
        "search",
        "--precision=bf16",
        "--device=cpu",
        f"--run={tmp_path / 'r'}",
    ]
    done = subprocess.run(command, env=os.environ | {"FASTDARTS_STRICT": "1"}, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "r").exists()
    assert "FASTDARTS_STRICT=1 forbids plain PyTorch, but the native kernels know" in done.stderr
