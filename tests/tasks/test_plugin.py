"""A task of a user's own, in one file of public names: examples/task_plugin.py."""

import json
import re
import sys

import pytest
import torch
from sklearn.datasets import load_digits

from fastdarts.cli.entry import main
from fastdarts.engine.search import search
from fastdarts.errors import FastdartsError
from fastdarts.registry import load_plugin, methods
from fastdarts.spaces import find_space
from fastdarts.tasks.images.arrays import ranks
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, resolve
from fastdarts.tasks.task import find_task
from fastdarts.testing import TINY, check_method, check_space
from tests.support.paths import ROOT

PLUGIN = ROOT / "examples" / "task_plugin.py"
SETTINGS = TINY | {"space": "numbers", "nodes": 2, "plugin": (str(PLUGIN),)}


@pytest.fixture
def numbers(registries):
    """The space and the task of the example, which is forgotten after the test."""
    before = set(sys.modules)
    load_plugin(PLUGIN)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("fastdarts_plugin_task_plugin"):
            del sys.modules[name]


def test_a_task_of_ones_own_searches_repeats_and_goes_on_after_a_kill(tmp_path, numbers):
    check_method("darts", tmp_path, kills=4, **SETTINGS)


@pytest.mark.parametrize("name", ["gdas", "fair-darts", "joint", "darts-es"])
def test_methods_that_need_no_more_than_a_mixture_search_by_it(tmp_path, numbers, name):
    found = search(SearchConfig(**SETTINGS | {"method": name, "epochs": 1, "run": tmp_path}))
    assert found["genotype"]["space"] == "numbers" and 0 < found["valid_rmse"] < 10


def test_its_space_is_a_space(numbers):
    check_space("numbers", layers=3)


def test_the_error_of_a_constant_is_the_deviation_of_the_labels(numbers):
    """Of all training digits: those of every class but its last fifth, in file order."""
    config = resolve(SearchConfig(**SETTINGS | {"samples": None}))
    problem = find_task("numbers").problem(config, find_space("numbers"))
    labels = load_digits().target.tolist()
    labels = torch.tensor([label for label, rank in zip(labels, ranks(labels), strict=True) if rank < 0.8])
    labels = labels[len(labels) // 2 :].double()

    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.full((len(x), 1), labels.mean().item())

    *_, valid = problem.streams(config, config.build(find_space("numbers")), 64, 0, 1)
    row = problem.measure(Constant(), valid.in_order(), torch.device("cpu"), "valid")
    assert row["valid_rmse"] == pytest.approx(labels.std(correction=0).item(), rel=1e-5)
    assert row["valid_loss"] == pytest.approx(row["valid_rmse"] ** 2)


def test_the_command_searches_and_the_report_shows_the_metric(tmp_path, numbers, capsys):
    flags = ["--samples", "32", "--channels", "4", "--layers", "3", "--epochs", "2", "--batch-size", "16"]
    main(["search", "darts", "--plugin", str(PLUGIN), "--space", "numbers", *flags, "--run", str(tmp_path / "run")])
    said = capsys.readouterr().err
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert f"epoch 2/2  valid error {row['valid_rmse']:.2f} digits" in said
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<span>Valid error</span><strong>[0-9.]+ digits</strong>", page)
    assert re.search(r"<strong>Error</strong>.*train <b>[0-9.]+ digits</b>.*valid <b>[0-9.]+ digits</b>", page)


@pytest.mark.parametrize(
    "name", [name for name, method in methods().items() if "class logits" in method.settings.needs]
)
def test_a_method_that_judges_by_classes_refuses_it(numbers, name):
    with pytest.raises(FastdartsError, match="needs class logits, which searches in space numbers do not have"):
        search(SearchConfig(**SETTINGS | {"method": name}))


def test_what_needs_classes_or_an_evaluation_is_refused_in_one_sentence(tmp_path, numbers, capsys):
    search(SearchConfig(**SETTINGS | {"samples": 32, "epochs": 1, "run": tmp_path / "run"}))
    capsys.readouterr()
    refused = {
        ("project", str(tmp_path / "run")): "has no class logits in space numbers",
        ("evaluate", "--genotype", str(tmp_path / "run")): "task numbers (numbers in images) has no evaluations",
        (
            "search",
            "--space",
            "numbers",
            "--gap-every",
            "1",
        ): "is for images (--space darts), not for numbers in images",
    }
    for arguments, expected in refused.items():
        with pytest.raises(SystemExit) as stop:
            main([*arguments, *(["--plugin", str(PLUGIN)] if arguments[0] != "project" else [])])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and said.count("\n") == 1 and expected in said
    with pytest.raises(FastdartsError, match=r"task numbers .* has no evaluations"):
        EvaluateConfig(genotype=str(tmp_path / "run"))
