"""Regression and multi-label classification: whole runs, tables, class weights, and what is refused."""

import dataclasses
import json
import sys

import pytest
import torch

from fastdarts.cli.entry import main
from fastdarts.engine.projecting import projected
from fastdarts.errors import FastdartsError
from fastdarts.spaces import find_space
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.prepare import prepare_data
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.targets.table import read_labels, read_numbers
from fastdarts.tasks.task import find_task
from fastdarts.testing import check_task
from tests.support.target_tables import write_discs

TABLES = {"regression": "numbers.csv", "multilabel": "labels.csv"}


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return write_discs(tmp_path_factory.mktemp("discs") / "set", count=60, side=8)


def settings(task, discs, **more):
    return {"task": task, "dataset": "folder", "data": discs / TABLES[task], "space": "tiny"} | more


@pytest.mark.parametrize("task", TABLES)
def test_it_searches_trains_repeats_and_goes_on_after_a_kill(task, discs, tmp_path):
    given = settings(task, discs)
    del given["task"]
    check_task(task, tmp_path, kills=2, ranks=(1, 2) if task == "multilabel" else (1,), **given)
    with pytest.raises(FastdartsError, match=f"no class logits in space tiny for task {task}: project one for task"):
        projected(tmp_path / "search" / "whole")


def test_the_mean_of_the_targets_has_the_mean_absolute_deviation_as_its_error(discs):
    config = resolve(SearchConfig(**settings("regression", discs)))
    problem = find_task("regression").problem(config, find_space("tiny"))
    targets = torch.stack([torch.as_tensor(y) for _, y in problem.data.train.samples]).double()

    class Mean(torch.nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 2)  # standardised

    *_, valid = problem.streams(config, config.build(find_space("tiny")), 64, 0, 1)
    row = problem.measure(Mean(), valid.in_order(), torch.device("cpu"), "valid")
    half = targets[len(targets) // 2 :]
    assert row["valid_error"] == pytest.approx((half - targets.mean(0)).abs().mean().item(), rel=1e-5)
    wanted = ((half - targets.mean(0)) / targets.std(0, correction=0)).square().mean().item()
    assert row["valid_loss"] == pytest.approx(wanted, rel=1e-5)


def test_predictions_are_in_the_unit_of_the_targets_and_the_file_computes_them(discs, tmp_path, capsys):
    flags = ["--task", "regression", "--dataset", "folder", "--data", str(discs / "numbers.csv"), "--channels", "4"]
    flags += ["--layers", "3", "--epochs", "1", "--batch-size", "16", "--genotype", "DARTS_V2"]
    main(["evaluate", *flags, "--run", str(tmp_path / "run")])
    assert "test mean absolute error " in capsys.readouterr().out
    image = str(discs / "images" / "0.png")
    main(["predict", str(tmp_path / "run"), image, "--json"])
    [found] = json.loads(capsys.readouterr().out)
    assert found["names"] == ["radius", "brightness"]
    assert 0 < found["values"][1] < 40  # in percent; standardised it were within a few deviations of 0
    main(["export", str(tmp_path / "run"), "--format", "pt2", "--output", str(tmp_path / "run.pt2")])
    assert "numbers [N, 2] float32, radius, brightness" in capsys.readouterr().out
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Test mean absolute error" in page and "Numbers said" in page
    main(["predict", str(tmp_path / "run"), image, "--csv"])
    assert capsys.readouterr().out.startswith("image,radius,brightness\n")


def test_balanced_weights_have_the_mean_1_over_the_images():
    config = SearchConfig(class_weights="balanced", samples=100)
    data, indices = prepare_data(config)
    objective = Objective(data, range(30), config)
    labels = torch.tensor([data.train[k][1] for k in range(30)])
    numbers = torch.bincount(labels, minlength=10)
    torch.testing.assert_close(objective._weights * numbers, torch.full((10,), 3.0))
    outputs = torch.randn(30, 10)
    wanted = torch.nn.functional.cross_entropy(outputs, labels, weight=objective._weights, reduction="sum") / 30
    torch.testing.assert_close(objective.criterion(outputs, labels), wanted)
    with pytest.raises(FastdartsError, match="expected balanced, or 10 numbers above 0"):
        Objective(data, indices, dataclasses.replace(config, class_weights="1,2"))


def test_a_plugin_has_a_loss_a_metric_and_a_head(discs, tmp_path, capsys, registries):
    plugin = tmp_path / "own_loss.py"
    plugin.write_text(
        "import torch.nn as nn\n"
        "from fastdarts.tasks.images.heads import register_head\n"
        "from fastdarts.tasks.images.losses import register_loss\n"
        "from fastdarts.tasks.images.scores import register_metric\n"
        "register_loss('log-cosh', task='regression')(lambda x, y: (x - y).cosh().log())\n"
        "register_metric('worst', task='regression', title='worst error', unit=' px')("
        "lambda x, y: (x - y).abs().amax(1))\n"
        "register_head('dropped')(lambda features, outputs: nn.Sequential(nn.Dropout(0.1), nn.Linear(features, "
        "outputs)))\n",
        encoding="utf-8",
    )
    before = set(sys.modules)
    flags = ["--plugin", str(plugin), "--task", "regression", "--loss", "log-cosh", "--metric", "worst", "--head"]
    flags += ["dropped", "--dataset", "folder", "--data", str(discs / "numbers.csv"), "--space", "tiny"]
    main(["search", *flags, "--channels", "4", "--layers", "3", "--epochs", "1", "--batch-size", "16", "--run",
          str(tmp_path / "run")])  # fmt: skip
    assert "valid worst error " in (said := capsys.readouterr()).out and " px" in said.out
    for name in set(sys.modules) - before:
        if name.startswith("fastdarts_plugin_own_loss"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("read", "text", "where", "words"),
    [
        (read_numbers, "path,age\nimages/0.png,old\n", "line 2 of", "'old' in column age: expected a finite number"),
        (read_numbers, "path,age\nimages/0.png,nan\n", "", "'nan' in column age: expected a finite number"),
        (read_numbers, "path,age\nimages/0.png,\n", "", "'' in column age: expected a finite number"),
        (read_numbers, "path,age\nimages/x.png,1\n", "images/x.png", "which is no file"),
        (read_numbers, "path,age\nimages/0.png,1\nimages/0.png,2\n", "line 3", "as line 2 does"),
        (read_numbers, "path\nimages/0.png\n", "", "lists no targets"),
        (read_numbers, "path,age,age\nimages/0.png,1,2\n", "", "names 'age' twice"),
        (read_numbers, "file,age\nimages/0.png,1\n", "", "expected path among them"),
        (read_labels, "path,cat\nimages/0.png,2\n", "'2' in column cat", "expected 1 if the image has that label"),
        (read_labels, "path,labels\nimages/0.png,a||b\n", "'a||b'", "each once"),
        (read_labels, "path,labels\nimages/0.png,a|a\n", "'a|a'", "each once"),
    ],
)  # fmt: skip
def test_bad_tables_are_one_sentence(read, text, where, words, discs):
    (discs / "bad.csv").write_text(text, encoding="utf-8")
    with pytest.raises(FastdartsError) as error:
        read(discs / "bad.csv")
    assert where in str(error.value) and words in str(error.value) and "\n" not in str(error.value)


def test_labels_are_columns_or_names(discs):
    (discs / "columns.csv").write_text("path,cat,dog\nimages/0.png,1,0\nimages/1.png,1,1\n", encoding="utf-8")
    (discs / "names.csv").write_text("path,labels\nimages/0.png,cat\nimages/1.png,dog|cat\n", encoding="utf-8")
    columns, names = (read_labels(discs / f"{name}.csv") for name in ("columns", "names"))
    assert columns == names and columns.names == ("cat", "dog")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dataset": "digits"}, "--dataset is 'digits'"),
        ({"data": None}, "give --dataset folder --data FILE.csv"),
        ({"loss": "bce"}, "expected one of huber, l1, mse"),
        ({"method": "random-ws"}, "needs class logits"),
    ],
)
def test_what_regression_cannot_have_is_refused(given, words, discs):
    from fastdarts.engine.search import search

    with pytest.raises(FastdartsError) as error:
        search(SearchConfig(**settings("regression", discs) | given))
    assert words in str(error.value)


def test_a_target_that_never_changes_is_refused(discs):
    lines = "".join(f"images/{k}.png,1\n" for k in range(8))
    (discs / "flat.csv").write_text("path,age\n" + lines, encoding="utf-8")
    config = resolve(SearchConfig(**settings("regression", discs, data=discs / "flat.csv")))
    with pytest.raises(FastdartsError, match="the same number age"):
        find_task("regression").problem(config, find_space("tiny"))
