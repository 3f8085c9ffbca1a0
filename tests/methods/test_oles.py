"""OLES: how like two gradients are, and what becomes of operations that are frozen."""

import json
from collections.abc import Callable

import pytest
import torch

from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.policies.freezing import likeness, operations
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve

TINY = {
    "method": "oles", "channels": 4, "layers": 3, "nodes": 1, "space": "tiny", "batch_size": 8, "device": "cpu",
    "threads": 1, "epochs": 2,
}  # fmt: skip


def test_likeness_is_that_of_the_public_code():
    g, p = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert likeness(g, p).item() == pytest.approx(0.89442719, abs=5e-8)  # both columns are
    assert likeness(g[:, :1], p[:, :1]).item() == pytest.approx(0.89442719, abs=5e-8)
    assert likeness(g, -g).item() == pytest.approx(-1)
    assert likeness(g, torch.zeros(2, 2)) == 0


def stepping(**settings) -> tuple[SearchStep, Callable[[int], tuple]]:
    supernet = SearchStep(SearchConfig(**TINY | settings), ImageProblem.of_shape(10, 1, (8, 8)), torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)

    def step(number: int) -> tuple:
        x = torch.randn(2, 8, 1, 8, 8, generator=generator)
        y = torch.randint(10, (2, 8), generator=generator)
        supernet.step((x[0], y[0]), (x[1], y[1]), Meter(), 0, number)
        return (x[1], y[1])

    return supernet, step


def test_the_sums_are_of_the_gradients_of_both_batches():
    """Against gradients that are taken here; the first step has no training gradient yet."""
    supernet, step = stepping(freeze_window=10, freeze_below=0.0)
    freezing, model, optimizer = supernet.recipe.selection, supernet.model, supernet.optimizer
    step(0)
    assert freezing.steps == 0 and freezing.sums is None
    training = {id(p): g.clone() for p, g in optimizer.gathered()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    alphas = [alpha.detach().clone() for alpha in model.alpha_tables()]
    batch = step(1)
    model.load_state_dict(state)
    with torch.no_grad():
        for alpha, before in zip(model.alpha_tables(), alphas, strict=True):
            alpha.copy_(before)
    known = [*operations(model)]
    expected = []
    for operation in known:
        own = [*operation.module.parameters()]
        gradients = torch.autograd.grad(model._loss(*batch), own)
        expected.append(
            sum(likeness(g, training[id(p)]).item() for g, p in zip(gradients, own, strict=True)) / len(own)
        )
    assert freezing.steps == 1
    torch.testing.assert_close(freezing.sums, torch.tensor(expected, dtype=torch.float64), rtol=1e-3, atol=1e-5)


def test_frozen_weights_stay_and_the_rest_learns():
    supernet, step = stepping(freeze_window=2, freeze_below=0.999)
    step(0), step(1), step(2)
    frozen = {event["operation"] for event in supernet.recipe.selection.frozen}
    known = {operation.name: operation.module for operation in operations(supernet.model)}
    assert frozen == {*known}
    before = {name: p.clone() for name, p in supernet.model.named_parameters()}
    alphas = [alpha.detach().clone() for alpha in supernet.model.alpha_tables()]
    step(3)
    ours = {id(p) for module in known.values() for p in module.parameters()}
    for name, p in supernet.model.named_parameters():
        assert torch.equal(p, before[name]) == (id(p) in ours), name
    assert not any(map(torch.equal, supernet.model.alpha_tables(), alphas))
    assert [event["likeness"] < 0.999 for event in supernet.recipe.selection.frozen] == [True] * len(known)


def test_nothing_is_frozen_while_the_gradients_are_alike():
    supernet, step = stepping(freeze_window=1, freeze_below=0.0)
    supernet.recipe.selection.least = -1.1
    for number in range(3):
        step(number)
    assert supernet.recipe.selection.frozen == []


def test_a_result_names_what_was_frozen(tmp_path):
    found = search(SearchConfig(**TINY, samples=48, gap_every=0, freeze_window=2, freeze_below=0.9, run=tmp_path / "r"))
    assert found["frozen"] and json.loads((tmp_path / "r" / "result.json").read_text(encoding="utf-8"))["frozen"]
    assert all(event["likeness"] < 0.9 for event in found["frozen"])
    config = resolve(SearchConfig(method="oles"))
    assert (config.freeze_window, config.freeze_below, config.batch_size, config.epochs) == (20, 0.4, 64, 50)
