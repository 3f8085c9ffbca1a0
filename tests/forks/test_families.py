"""Structures of public families of code, accelerated: after steps of training they are what they were, in float64."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import fastdarts
from fastdarts import FastdartsError
from fastdarts.forks.hosts import Accelerated
from fastdarts.functional import native
from tests.support import families
from tests.support.families import FAMILIES
from tests.support.fused import kinds, note_calls

fused = pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")
ALPHAS = ("alphas_normal", "alphas_reduce")
EDGE = ["max_pool", "avg_pool", "skip", "sep_conv", "sep_conv", "dil_conv", "dil_conv"]
HALVING = ["factorized_reduce" if kind == "skip" else kind for kind in EDGE]
KINDS = {  # of each fused call of a pass, where that is not EDGE twice and HALVING twice
    "DrNAS": [["skip"], EDGE[:3], ["factorized_reduce"], HALVING[:3]],
    "DARTS-PT": [["skip"], EDGE[:3], ["factorized_reduce"], HALVING[:3]],
    "P-DARTS": [[kind for kind in EDGE if kind != "skip"]] * 2 + [HALVING] * 2,
    "DARTS-": [[*EDGE, "skip"]] * 2 + [[*HALVING, "factorized_reduce"]] * 2,
    "RobustDARTS": [pair for skip in ("skip", "factorized_reduce") for pair in (["max_pool", skip], EDGE[4:6])],
    "NAS-Bench-201": [["skip", "sep_conv", "avg_pool"]] * 6,
}


def wide(model: nn.Module) -> nn.Module:
    """``model`` and its alphas in float64."""
    model.double()
    for name in ALPHAS:
        if hasattr(model, name):
            alphas = getattr(model, name)
            alphas.data = alphas.data.double()
    return model


def leaves(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *(getattr(model, name) for name in ALPHAS if hasattr(model, name))]


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> list[torch.Tensor]:
    """Logits, all gradients and buffers over some steps, and those of an evaluation."""
    found = []
    torch.manual_seed(3)
    for _ in range(steps):
        x = torch.randn(3, 3, 6, 6).double()
        optimizer.zero_grad()
        logits = model.train()(x)
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
        found += [logits.detach(), *(None if p.grad is None else p.grad.clone() for p in leaves(model))]
        optimizer.step()
        found += [b.clone() for b in model.buffers()]
    return [*found, model.eval()(x).detach()]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(leaves(model), 0.05, momentum=0.9, weight_decay=1e-3)


def assert_same(found: list, expected: list) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@fused
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_as_before_on_fused_calls(name, monkeypatch, capsys) -> None:
    model = wide(FAMILIES[name]())
    plain, optimizer = copy.deepcopy(model), sgd(model)
    before, keys = [*map(id, (*model.parameters(), *model.buffers()))], [*model.state_dict()]
    report = fastdarts.accelerate(model, torch.randn(4, 3, 6, 6).double())
    assert capsys.readouterr().out == f"{report}\n"
    assert [*map(id, (*model.parameters(), *model.buffers()))] == before and [*model.state_dict()] == keys
    assert not report.left and len(report.fused) == (2 if name == "NAS-Bench-201" else 4)
    for place in report.fused:
        assert isinstance(model.get_submodule(place), type(plain.get_submodule(place)))
    expected = trained(plain, sgd(plain))
    calls = note_calls(monkeypatch, kinds)
    assert_same(trained(model, optimizer), expected)
    passes = [calls[i : i + len(calls) // 3] for i in range(0, len(calls), len(calls) // 3)]
    if name not in ("GDAS", "SGAS"):  # where alphas say what is called
        assert passes == [KINDS.get(name, [EDGE] * 2 + [HALVING] * 2)] * 3
    assert len(calls) >= 3


@fused
def test_what_the_example_did_not_reach_is_right_too() -> None:
    """SGAS decides an edge, and P-DARTS switches its dropout, long after the example."""
    edge = families.Selected(4, 1).double()
    plain = copy.deepcopy(edge)
    x, w = torch.randn(3, 4, 6, 6).double(), torch.rand(8).double()
    assert fastdarts.accelerate(edge, (x, w)).fused
    for chosen in (None, 3, 2, 7):
        torch.testing.assert_close(edge(x, w, chosen), plain(x, w, selected_idx=chosen), rtol=1e-9, atol=1e-11)
    assert edge(x, w, 2) is x  # the skip connection's output is its input


@fused
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save", "state_dict"])
def test_copies_and_files_of_an_accelerated_model(how) -> None:
    model = wide(FAMILIES["DARTS"]())
    x = torch.randn(3, 3, 6, 6).double()
    fastdarts.accelerate(model, x)
    model.relax = model.cells[0].call = model.cells[1].call = None  # lambdas cannot be pickled
    edge, row = model.cells[0]._ops[0], torch.rand(8).double()
    s = torch.randn(3, 8, 6, 6).double()
    if how == "deepcopy":
        twin = copy.deepcopy(edge)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(edge))
    elif how == "torch.save":
        torch.save(edge, file := io.BytesIO())
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    else:
        twin = families.Darts(8, 1).double()
        twin.load_state_dict(edge.state_dict())
    assert isinstance(twin, Accelerated) == (how != "state_dict") and isinstance(twin, families.Darts)
    assert type(twin).__name__ == "Darts"
    expected = edge(s, row)
    torch.testing.assert_close(twin(s, row), expected, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    torch.testing.assert_close(edge(s, row), expected, rtol=1e-9, atol=1e-11)  # which has its own parameters
    assert not torch.allclose(twin(s, row), expected)


@fused
def test_a_second_call_leaves_what_is_fused_alone() -> None:
    model, x = FAMILIES["RobustDARTS"](), torch.randn(3, 3, 6, 6)
    first = fastdarts.accelerate(model, x)
    kinds = [type(m) for m in model.modules()]
    second = fastdarts.accelerate(model, x)
    assert len(first.fused) == 4 and not second.fused and not second.left
    assert [type(m) for m in model.modules()] == kinds


@fused
def test_the_model_and_the_random_state_are_left_as_they_were() -> None:
    model, x = FAMILIES["P-DARTS"](), torch.randn(3, 3, 6, 6)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fastdarts.accelerate(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert all(p.grad is None for p in leaves(model)) and model.training


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (3, torch.ones(1), "got a model that is int: expected a torch.nn.Module"),
        (nn.Linear(2, 2), None, "got example NoneType: expected an input of the model, a tensor"),
        (nn.Linear(2, 2), (), "expected an input of the model, a tensor"),
    ],
)
def test_what_cannot_be_meant_is_refused(model, example, message) -> None:
    with pytest.raises(FastdartsError, match=message):
        fastdarts.accelerate(model, example)


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = FAMILIES["DARTS"]()
    model.cache = torch.ones(2, requires_grad=True) * 2
    with pytest.raises(FastdartsError, match=r"the model cannot be copied \(.*\): expected one that copy.deepcopy"):
        fastdarts.accelerate(model, torch.randn(2, 3, 6, 6))


def test_an_example_that_does_not_fit_raises_what_the_model_raises() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        fastdarts.accelerate(FAMILIES["DARTS"](), torch.randn(2, 4, 6, 6))


def test_a_model_without_mixed_operations_is_left_alone(capsys) -> None:
    report = fastdarts.accelerate(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), torch.randn(2, 3, 4, 4))
    assert not report.fused and not report.left
    assert capsys.readouterr().out == "fastdarts.accelerate: modules fused: 0, left as they were: 0\n"


@fused
def test_only_samples_of_an_example_are_left_out() -> None:
    """Weights that are as many as the samples are all needed, and so is what belongs to each sample."""

    class PerSample(families.Darts):
        def forward(self, x, weights, each):
            return super().forward(x, weights) * each[:, None, None, None]

    edge = PerSample(4, 1, ["sep_conv_3x3", "skip_connect", "dil_conv_3x3", "none"])
    report = fastdarts.accelerate(edge, (torch.randn(4, 4, 6, 6), torch.rand(4), torch.rand(4)))
    assert [*report.fused[""].candidates.values()] == ["sep_conv", "skip", "dil_conv", "none"]
