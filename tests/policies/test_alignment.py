"""Layer alignment against its formulas, its regulariser against double backward, and whole searches by Λ-DARTS."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn as nn

import fastdarts.engine.search
from fastdarts import FastdartsError
from fastdarts.engine.search import search
from fastdarts.policies.alignment import Alignment, aligned_cells, alignment, correlation, directions
from fastdarts.report.write import write_report
from fastdarts.runs.checkpoint import load_checkpoint
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES
from fastdarts.tasks.settings import SearchConfig

SMALL = {
    "space": "s4", "nodes": 2, "channels": 4, "layers": 5, "samples": 64, "batch_size": 16, "threads": 1,
    "device": "cpu", "epochs": 3, "gap_every": 0, "checkpoint_minutes": 0,
}  # fmt: skip


def pairwise(gradients, signed):
    """The formulas of the paper, pair by pair."""
    total, n = 0.0, len(gradients)
    for a, b in itertools.combinations([g.flatten() for g in gradients], 2):
        total += (a @ b / (a.abs() @ b.abs() if signed else a.norm() * b.norm())).item()
    return 2 * total / (n * (n - 1))


@pytest.mark.parametrize("signed", [False, True])
def test_the_correlation_and_its_gradient_are_the_published_formulas(signed):
    gs = [torch.randn(5, 3).double() for _ in range(4)]
    assert correlation(gs, signed).item() == pytest.approx(pairwise(gs, signed), rel=1e-12)
    assert correlation([gs[0], 2 * gs[0]], signed).item() == pytest.approx(1)
    assert correlation([gs[0], -gs[0]], signed).item() == pytest.approx(-1)
    c = 2 / (len(gs) * (len(gs) - 1))
    for index, (g, u) in enumerate(zip(gs, directions(gs, signed), strict=True)):
        if signed:
            expected = torch.zeros_like(g)
            for other in gs[:index] + gs[index + 1 :]:
                scale = (g.abs() * other.abs()).sum()
                expected += (other - (g * other).sum() / scale * g.sign() * other.abs()) / scale
        else:
            unit, all_units = g / g.norm(), sum(h / h.norm() for h in gs)
            expected = (all_units - (unit * all_units).sum() * unit) / g.norm()
        torch.testing.assert_close(u, c * expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("signed", [False, True])
def test_gradients_of_zero_agree_with_none_and_have_no_direction(signed):
    nothing = [torch.zeros(3, 2)] * 3
    assert correlation(nothing, signed) == 0
    assert all(u.isfinite().all() for u in directions([torch.zeros(3, 2), torch.ones(3, 2)], signed))
    assert all((u == 0).all() for u in directions(nothing, signed))


def supernet(name, layers=5):
    space = SPACES[name]
    model = space.supernet(4, 10, layers, nn.CrossEntropyLoss(), space.nodes, in_channels=3, memory="store")
    for alpha in model.arch_parameters():
        alpha.data.normal_()
    return model


def by_double_backward(model, x, y, signed):
    """The loss, its gradient in the weights, and that of Λ."""
    cells = [w.detach().clone().requires_grad_() for w in model.cell_weights()]
    with model.with_cell_weights(cells):
        loss = model._loss(x, y)
    own = torch.autograd.grad(loss, [cells[place] for place in aligned_cells(model)], create_graph=True)
    weights = list(model.parameters())
    plain = torch.autograd.grad(loss, weights, retain_graph=True)
    slopes = torch.autograd.grad(correlation(own, signed), weights, allow_unused=True, materialize_grads=True)
    return loss, *(torch.cat([g.flatten() for g in gradients]) for gradients in (plain, slopes))


@pytest.mark.parametrize(
    ("name", "signed", "kept"),
    [
        *((name, signed, False) for name in ("tiny", "s4", "nasbench201") for signed in (False, True)),
        ("s4", False, True),
    ],
)
def test_the_regularised_gradient_is_that_of_double_backward(name, signed, kept):
    """In float64; noise and drop path are drawn as in a single pass, statistics move as in a single pass."""
    model = supernet(name, 8 if name == "nasbench201" else 5).double()
    model.drop_path_prob = 0.2
    x, y = torch.randn(6, 3, 8, 8).double(), torch.arange(6)
    weights, state = list(model.parameters()), torch.get_rng_state()
    before = {key: value.clone() for key, value in model.state_dict().items()}

    loss, plain, slopes = by_double_backward(model, x, y, signed)
    after, once = torch.get_rng_state(), {key: value.clone() for key, value in model.state_dict().items()}

    model.load_state_dict(before)
    torch.set_rng_state(state)
    # So near, no ReLU and no maximum changes sides: each that does is an error of its own, however small the radius.
    regulariser = Alignment(0.5, 1e-6, signed, kept)
    found, logits = regulariser.backward(model, (x, y), weights, share=0.5)
    assert found.item() == pytest.approx(loss.item(), rel=1e-10) and logits.shape == (6, 10)
    assert torch.equal(torch.get_rng_state(), after)
    assert all(torch.allclose(value, once[key], rtol=1e-10) for key, value in model.state_dict().items())
    added = torch.cat([w.grad.flatten() for w in weights]) - plain
    truth = -0.25 * slopes
    assert truth.norm() > 1e-3 * plain.norm()
    # Of second order in the radius, 1e-12, and the rounding of gradients, some 1e-15, over 2e-6.
    assert (added - truth).norm() <= 1e-6 * truth.norm()


def test_with_kept_kinks_the_published_difference_is_right_and_without_them_it_is_not():
    """In float32 at the published radius; the truth is float64."""
    model = supernet("s2")
    x, y = torch.randn(16, 3, 16, 16), torch.arange(16) % 10
    _, plain, slopes = by_double_backward(copy.deepcopy(model).double(), x.double(), y, False)
    weights, truth, errors = list(model.parameters()), -0.125 * slopes, {}
    for kept in (False, True):
        Alignment(0.125, 1e-4, keep_kinks=kept).backward(model, (x, y), weights)
        added = torch.cat([w.grad.flatten() for w in weights]).double() - plain
        errors[kept] = ((added - truth).norm() / truth.norm()).item()
    assert errors[True] < 0.05 < 1 < errors[False], errors


def test_the_monitor_is_the_mean_over_batches_and_changes_nothing():
    model = supernet("tiny")
    batches = [(torch.randn(6, 3, 8, 8), torch.arange(6)) for _ in range(2)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found, expected = alignment(model, batches), []
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for x, y in batches:
        cells = [w.detach().clone().requires_grad_() for w in model.cell_weights()]
        with model.with_cell_weights(cells):
            model._loss(x, y).backward()
        expected.append([pairwise([cells[place].grad for place in (0, 2, 4)], signed) for signed in (False, True)])
    for name, column in zip(("alignment", "alignment_signed"), zip(*expected, strict=True), strict=True):
        assert found[name] == pytest.approx(sum(column) / 2, rel=1e-3)


@pytest.mark.parametrize("settings", [{}, {"lambda_correlation": "signed", "unrolled": True}])
def test_a_search_by_lambda_darts_killed_and_resumed_ends_bit_identical(tmp_path, monkeypatch, settings):
    config = SearchConfig(**SMALL, method="lambda-darts", lambda_strength=1.0, drop_path_prob=0.1, **settings)
    config = dataclasses.replace(config, alignment_every=2)
    whole = search(dataclasses.replace(config, run=tmp_path / "whole"))
    rows = read_metrics(tmp_path / "whole")
    assert [("alignment" in row, "alignment_signed" in row) for row in rows] == [
        (False,) * 2,
        (True,) * 2,
        (False,) * 2,
    ]
    assert -1 <= rows[1]["alignment"] <= 1 and "Layer alignment" in write_report(tmp_path / "whole").read_text(
        encoding="utf-8"
    )

    plain = {"unrolled": settings.get("unrolled", False), "drop_path_prob": 0.1}
    search(SearchConfig(**SMALL, **plain, run=tmp_path / "darts"))
    theirs = read_metrics(tmp_path / "darts")
    assert rows[0]["train_loss"] == theirs[0]["train_loss"]  # the strength rises from 0
    assert rows[1]["train_loss"] != theirs[1]["train_loss"]

    step, calls = fastdarts.engine.search.SearchStep.step, []

    def stops(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(fastdarts.engine.search.SearchStep, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        search(dataclasses.replace(config, run=tmp_path / "stopped"))
    again = search(dataclasses.replace(config, resume=tmp_path / "stopped"))
    assert again["genotype"] == whole["genotype"] and again["valid_error"] == whole["valid_error"]
    states = [load_checkpoint(tmp_path / run / "checkpoint.pt", "search")["supernet"] for run in ("whole", "stopped")]
    assert all(torch.equal(a, b) for a, b in zip(*(state["model"].values() for state in states), strict=True))
    assert all(map(torch.equal, *(state["alphas"] for state in states)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "lambda-darts", "layers": 2}, "compares normal cells, but the supernet has 0"),
        ({"method": "lambda-darts", "lambda_radius": 0.0}, "--lambda-radius is 0.0"),
        ({"method": "random-ws", "alignment_every": 1}, "--alignment-every is 1 but method random-ws"),
        ({"method": "lambda-darts", "lambda_strength": math.inf}, "--lambda-strength is inf"),
    ],
)
def test_what_cannot_be_aligned_is_refused_by_name(tmp_path, settings, words):
    with pytest.raises(FastdartsError, match=words):
        search(SearchConfig(**settings, run=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
