"""What the report says of a run: every rule on either side of its threshold, and commands that can be typed."""

import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import fastdarts
import fastdarts.report.findings as rules
from fastdarts.cli.entry import main
from fastdarts.report.findings import findings, findings_block
from fastdarts.report.reader import Records, read_records
from fastdarts.spaces import DARTS
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.named import DARTS_V1, DARTS_V2
from tests.support.reports import Page, page_of, search, search_row
from tests.support.target_tables import write_discs

CONFIG = {"epochs": 50, "arch_learning_rate": 3e-4, "weight_decay": 3e-4, "method": "darts", "dataset": "cifar10"}
DONE = {"kind": "search"}


def run(rows=(), *, config=CONFIG, result=DONE, genotype=DARTS_V2, parts=None, classes=10):
    """Records of a run whose epochs count from 1."""
    rows = [{"epoch": epoch, **row} for epoch, row in enumerate(rows, start=1)]
    return Records(Path("runs/a b"), rows, config, {"classes": classes}, result, genotype, parts, DARTS)


def evaluation(rows=(), **more):
    config = more.pop("config", {"epochs": 600, "genotype": "DARTS_V2", "weight_decay": 3e-4})
    return run(rows, config=config, result=more.pop("result", {"kind": "evaluate"}), **more)


def holds(rule, records):
    found = rule(records)
    assert found is None or (found.says and found.does and found.rule)
    return found is not None


def test_a_run_without_a_result_is_unfinished():
    found = rules.unfinished(run([{}, {}], result={}))
    assert "2 of 50 epochs" in found.says and found.command == "fastdarts search --resume 'runs/a b'"
    assert rules.unfinished(evaluation(result={})).command.startswith("fastdarts evaluate --resume")
    assert rules.unfinished(run(config=CONFIG | {"supernet": "x"}, result={})).command.startswith("fastdarts project")
    assert not holds(rules.unfinished, run())


@pytest.mark.parametrize(("make", "least"), [(run, rules.FEW_SEARCH), (evaluation, rules.FEW_TRAINING)])
def test_few_epochs(make, least):
    def of(epochs):
        return make(config={"epochs": epochs} | ({"genotype": "x"} if make is evaluation else {}))

    assert holds(rules.few_epochs, of(least - 1)) and not holds(rules.few_epochs, of(least))
    assert (least, make) in [(25, run), (100, evaluation)]
    assert not holds(rules.few_epochs, run(config={"epochs": 2, "supernet": "x"}))  # of a projection
    stopped = DONE | {"epochs": 13, "rollbacks": [{"epoch": 10, "detected": 13}]}
    assert not holds(rules.few_epochs, run([{}] * 13, result=stopped))  # 50 were asked for
    assert not holds(rules.still_changing, run(changing(12, 13), result=stopped))


@pytest.mark.parametrize(("error", "said"), [(81.0, True), (80.9, False)])  # of 10 classes: 0.9 * 90 %
def test_an_error_like_that_of_guessing(error, said):
    assert holds(rules.learned_nothing, run([{"valid_error": error}])) == said
    assert holds(rules.learned_nothing, evaluation(result={"test_error": error})) == said
    assert not holds(rules.learned_nothing, run([{"valid_error": error}], classes="ten"))


def table(edge):
    return {"weights_normal": [edge] * 14, "weights_reduce": [edge] * 14}


def peaked(share, k=8):
    """Weights of a candidate at ``share`` and others alike."""
    return [share] + [(1 - share) / (k - 1)] * (k - 1)


def test_mixing_weights_that_are_nearly_uniform():
    # 0.98 of ln 8 lies between the entropies at 0.20 and at 0.25
    assert -(0.25 * math.log(0.25) + 0.75 * math.log(0.75 / 7)) < 0.98 * math.log(8)
    assert -(0.2 * math.log(0.2) + 0.8 * math.log(0.8 / 7)) > 0.98 * math.log(8)
    found = rules.nearly_uniform(run([table(peaked(0.9)), table(peaked(0.2))]))  # the last epoch counts
    assert "normal cell" in found.says and found.command.endswith("--epochs 50 --arch-learning-rate 0.003")
    assert not holds(rules.nearly_uniform, run([table(peaked(0.25))]))
    one_decided = table(peaked(0.2)) | {"weights_reduce": [peaked(0.25)] * 14}
    assert not holds(rules.nearly_uniform, run([one_decided]))
    assert not holds(rules.nearly_uniform, run([table([0.5] * 8)]))  # gates, which do not sum to 1
    assert not holds(rules.nearly_uniform, run([table(peaked(0.2))], config={"epochs": 50}))  # no alphas learn


@pytest.mark.parametrize(("gap", "said"), [(5.0, True), (4.99, False), (-9.0, False)])
def test_a_large_discretisation_gap(gap, said):
    assert holds(rules.large_gap, run([{"discretisation_gap": 50.0}, {"discretisation_gap": gap}])) == said


def test_a_large_gap_is_projected_where_that_is_possible():
    row = [{"discretisation_gap": 9.0}]
    assert rules.large_gap(run(row)).command == "fastdarts project 'runs/a b'"
    partial = run(row, config=CONFIG | {"partial": 4})
    assert rules.large_gap(partial).command == "fastdarts evaluate --genotype 'runs/a b' --dataset cifar10"
    joint = run(row, config=CONFIG | {"method": "joint"})  # which no method projects
    assert rules.large_gap(joint).command.startswith("fastdarts evaluate")


def skipping(count):
    edges = [("skip_connect" if k < count else "sep_conv_3x3", k % 2) for k in range(8)]
    return Genotype(edges, range(2, 6), DARTS_V2.reduce, range(2, 6))


def test_many_skip_connections():
    assert holds(rules.many_skips, run(genotype=skipping(4))) and not holds(rules.many_skips, run(genotype=skipping(3)))
    assert "4 of the 8" in rules.many_skips(run(genotype=skipping(4))).says
    assert not holds(rules.many_skips, run(genotype=DARTS_V2))  # 5 of 8 in its reduction cell, as published
    assert rules.many_skips(evaluation(genotype=skipping(8))).level == "note"
    found = rules.many_skips(run(genotype=skipping(4)))
    assert found.command.endswith(STOPPED) and "(--method p-darts)" in found.does
    random = {"method": "random", "queries": 8, "candidates": 8, "dataset": "digits"}  # nothing of it runs too long
    found = rules.many_skips(run(config=random, genotype=skipping(4)))
    assert not found.command and "too long" not in found.says and found.does == "Compare it with another one."


def changing(last, epochs):
    """Rows whose genotype changes in the middle and, for good, in epoch ``last``."""
    return [{"genotype": DARTS_V1 if epoch < last else DARTS_V2} for epoch in range(1, epochs + 1)]


@pytest.mark.parametrize(("last", "epochs", "said"), [(46, 50, True), (45, 50, False), (8, 10, True), (7, 10, False)])
def test_a_genotype_that_still_changes(last, epochs, said):
    found = rules.still_changing(run(changing(last, epochs)))  # the last tenth, at least three epochs
    assert (found is not None) == said and (not said or f"epoch {last}" in found.says)
    assert not holds(rules.still_changing, run(changing(last, epochs), config={"supernet": "x", "epochs": epochs}))


STOPPED = "--eigenvalue-stop --eigenvalue-every 2"


def eigenvalues(values):
    return [{"eigenvalue": value} for value in values]


def test_a_rising_eigenvalue():
    # the mean of five: 0.3 at first, and at the end 0.3 * 4 / 3 = 0.4
    found = rules.rising_eigenvalue(run(eigenvalues([0.3] * 5 + [0.4 + 1e-9] * 5)))
    assert "1.33 times" in found.says and "epoch 5" in found.does and found.command.endswith(STOPPED)
    assert not holds(rules.rising_eigenvalue, run(eigenvalues([0.3] * 5 + [0.399] * 5)))
    assert not holds(rules.rising_eigenvalue, run(eigenvalues([0.1] * 4 + [0.9] * 5)))  # too few to tell
    assert not holds(rules.rising_eigenvalue, run(eigenvalues([0.9] * 5 + [0.1] * 5)))
    back = DONE | {"rollbacks": [{"epoch": 5, "detected": 10}]}
    assert not holds(rules.rising_eigenvalue, run(eigenvalues([0.1] * 5 + [0.9] * 5), result=back))


@pytest.mark.parametrize(("running", "said"), [(25.0, True), (24.9, False)])
def test_running_statistics_that_lag(running, said):
    rows = [{"valid_error": running, "supernet_error_batch_stats": 20.0}]
    assert holds(rules.lagging_statistics, run(rows)) == said
    assert not holds(rules.lagging_statistics, run([{"valid_error": running}]))


@pytest.mark.parametrize(("error", "said"), [(15.0, True), (14.9, False)])
def test_validation_far_from_training(error, said):
    assert holds(rules.overfitted, run([{"train_error": 5.0, "valid_error": error}])) == said
    assert holds(rules.overfitted, evaluation([{"train_error": 5.0, "test_error": error}])) == said
    # what lagging statistics add is not overfitting
    lagging = {"train_error": 5.0, "valid_error": 80.0, "supernet_error_batch_stats": error}
    assert holds(rules.overfitted, run([lagging])) == said


def test_one_seed_and_what_comes_next():
    assert holds(rules.one_seed, evaluation(result={"test_errors": [3.0]}))
    assert not holds(rules.one_seed, evaluation(result={"test_errors": [3.0, 3.1]}))
    assert rules.next_step(run()).command == "fastdarts evaluate --genotype 'runs/a b' --dataset cifar10"
    config = CONFIG | {"dataset": "folder", "data": "my photos", "task": "regression", "split_seed": 3}
    words = "--task regression --data 'my photos' --split-seed 3"  # a regression is of a folder by default
    assert rules.next_step(run(config=config)).command == f"fastdarts evaluate --genotype 'runs/a b' {words}"
    found = rules.next_step(run(config=CONFIG | {"dataset": "own"}))
    assert found.command == "fastdarts.evaluate(genotype='runs/a b', train=..., test=...)"
    assert rules.next_step(evaluation()).command == "fastdarts predict 'runs/a b' IMAGE"
    assert not holds(rules.next_step, run(result={}))


def test_a_sound_search_only_says_what_comes_next():
    rows = [
        {"train_error": 5.0, "valid_error": 9.0, "supernet_error_batch_stats": 8.0, "discretisation_gap": 1.0}
        | {"genotype": DARTS_V1 if epoch < 30 else DARTS_V2, "eigenvalue": 0.2}
        | table(peaked(0.5))
        for epoch in range(50)
    ]
    assert [found.level for found in findings(run(rows))] == ["next"]


def test_strange_files_say_nothing_and_break_nothing():
    config = {"epochs": "many", "weight_decay": [], "arch_learning_rate": None, "partial": "x"}
    rows = [{"train_error": None, "valid_error": "?", "discretisation_gap": True, "eigenvalue": []}]
    found = findings(run(rows, config=config, classes=None))
    assert [one.level for one in found] == ["note", "next"]  # one row is few epochs


def test_the_block_shows_sentence_rule_and_command(tmp_path):
    found = [rules.unfinished(run(result={}))]
    page = Page(findings_block(found))
    assert "Rule: There is no result.json." in page.text and "fastdarts search --resume 'runs/a b'" in page.text
    assert findings_block([]) == ""
    page = page_of(search(tmp_path, [search_row(epoch) for epoch in range(6)]))
    assert page.text.index("What this says") < page.text.index("Curves")
    assert "This search has 6 epochs, and the published one 50." in page.text


RUN = ("search", "regression", "random", "evaluation")
"""Kinds of runs whose commands are typed; those of the others differ by what is looked at without."""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The records of finished runs of several kinds, by what they are."""
    above = tmp_path_factory.mktemp("runs")
    write_discs(above / "my photos", count=20)
    small = {"epochs": 1, "channels": 4, "layers": 3, "batch_size": 8, "threads": 1, "loggers": [], "device": "cpu"}
    digits = small | {"samples": 32}
    own = TensorDataset(torch.rand(16, 1, 8, 8), torch.arange(16) % 2)
    made = {
        "search": digits,
        "tiny": digits | {"space": "tiny"},
        "joint": digits | {"method": "joint"},
        "regression": small | {"task": "regression", "data": above / "my photos" / "numbers.csv"},
        "random": digits | {"method": "random", "queries": 2},
        "counted": digits | {"method": "evolution", "evaluator": "parameters", "queries": 3, "population": 1,
                             "tournament": 1},
        "own": small | {"train": own, "valid": own},
    }  # fmt: skip
    for name, settings in made.items():
        fastdarts.search(**settings, run=above / name)
    fastdarts.evaluate(**digits, genotype="DARTS_V2", run=above / "evaluation")
    return {name: read_records(above / name) for name in (*made, "evaluation")}


def everything(records):
    """The same run with numbers at which all rules hold, finished and not."""
    table = {f"weights_{kind}": [peaked(0.2)] * 14 for kind in records.space.kinds}
    wrong = {"train_error": 5.0, "valid_error": 95.0, "test_error": 95.0, "supernet_error_batch_stats": 60.0}
    rows = [
        row | table | wrong | {"epoch": epoch, "discretisation_gap": 9.0, "eigenvalue": 0.1 * epoch}
        for epoch, row in enumerate([row | {"seed": 0} if records.is_evaluation else row for row in changing(9, 10)], 1)
    ]
    skips = {} if records.space.cell.made_of else {"genotype": skipping(8)}
    result = records.result | {name: 95.0 for name in ("valid_error", "test_error") if name in records.result}
    for change in ({}, {"rows": rows, "result": result}, {"rows": rows, "result": result} | skips, {"result": {}}):
        yield replace(records, **change)


def test_every_command_of_a_real_run_is_refused_for_nothing_but_a_device_that_is_not_there(real, capsys):
    """It is looked for when all else is known to fit: settings, genotype, images and network."""
    said = {}
    for name, records in real.items():
        said[name] = {one.command for made in everything(records) for one in findings(made) if one.command}
    for name, commands in said.items():
        if name == "own":
            folder = str(real["own"].folder)
            assert commands == {f"fastdarts.evaluate(genotype={folder!r}, train=..., test=...)"}
            continue
        for text in commands if name in RUN else ():
            _, *words = shlex.split(text)
            with pytest.raises(SystemExit):
                main([*words, "--device", "cuda:99"])
            assert "--device cuda:99 cannot be used" in capsys.readouterr().err, f"{name}: {text}"
    verbs = {tuple(command.split()[1:2]) for commands in said.values() for command in commands if " " in command}
    assert {("search",), ("evaluate",), ("project",), ("predict",)} <= verbs
    assert sum(len(said[name]) for name in RUN) > 20 and len(said["joint"]) > 4
    assert not any(" project " in command for name in ("joint", "regression", "random") for command in said[name])
    assert any(STOPPED in command for command in said["search"])
    assert not any(STOPPED in command for name in ("random", "counted", "joint") for command in said[name])
    assert "p-darts" not in " ".join(one.does for made in everything(real["tiny"]) for one in findings(made))


def test_what_is_known_after_a_search_follows_from_what_it_looked_at(real):
    known = {name: rules.next_step(records).says for name, records in real.items()}
    assert "those of the supernet" in known["search"] and "those of the supernet" in known["joint"]
    assert "candidates that were trained for a short time" in known["random"]
    assert "No network was trained" in known["counted"]
