"""Searches without gradients as a whole: tables, failures, kills, trainings, shared weights and costs."""

import itertools
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

import fastdarts
from fastdarts.compare.table import compare
from fastdarts.engine import blackbox, children, judges
from fastdarts.engine.children import Rungs
from fastdarts.engine.training import Training
from fastdarts.errors import FastdartsError, NotFinite, OutOfMemory
from fastdarts.policies import latency
from fastdarts.runs.run import Run
from fastdarts.runs.writer import processor, read_metrics
from fastdarts.spaces import find_space, parse_architecture
from fastdarts.testing import TINY
from tests.support.tables import NB201, accuracy, write_table

SEARCHERS = ("random", "evolution", "reinforce", "nas-rl", "ppo", "nsga2", "tpe")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """All 15,625 architectures."""
    return write_table(tmp_path_factory.mktemp("table") / "accuracy.csv")


def run(folder, table, **settings):
    shared = {"space": "nasbench201", "queries": 40, "seed": 5, "device": "cpu", "threads": 1}
    return fastdarts.search(**shared | {"table": table} | settings, run=folder)


@pytest.mark.parametrize("method", SEARCHERS)
def test_a_search_in_a_table_leaves_its_history(tmp_path, table, method):
    found = run(tmp_path / "run", table, method=method)
    stored = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    history = stored["history"]
    assert stored["queries"] == len(history) == 40 and stored["failed"] == 0
    for entry in history:
        choice = NB201.encode(NB201.from_text(entry["architecture"]))
        assert entry["metric"] == pytest.approx(accuracy(choice), abs=1e-6)
    assert stored["best"] == max(entry["metric"] for entry in history) == found["best"]
    assert found["genotype"]["architecture"] == max(history, key=lambda entry: entry["metric"])["architecture"]
    assert found["valid_error"] == pytest.approx(100 - found["best"]) and found["baseline"] == (method == "random")
    rows = read_metrics(tmp_path / "run")
    assert [row["architecture"] for row in rows] == [entry["architecture"] for entry in history]
    assert [row["best"] for row in rows] == [*itertools.accumulate((e["metric"] for e in history), max)]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Best so far over queries" in page and "of 40" in page and history[0]["architecture"] in page


def test_the_command_of_the_manual_runs_and_goes_on(tmp_path, table):
    """The same command in a folder that has a finished search, and in one whose search was killed."""
    flags = f"--queries 60 --seed 3 --population 10 --checkpoint-minutes 0 --space nasbench201 --table {table}"
    command = [sys.executable, "-m", "fastdarts", "search", "--method", "evolution", *flags.split()]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = subprocess.run([*command, "--run", str(whole)], capture_output=True, text=True, timeout=240)
    assert first.returncode == 0, first.stderr
    assert "best accuracy" in first.stdout and "of 60 queries" in first.stdout
    history = json.loads((whole / "result.json").read_text(encoding="utf-8"))["history"]
    script = (
        "import os, signal\nfrom fastdarts.runs.run import Run\nreal, count = Run.record, []\n"
        "def record(*arguments):\n    count.append(1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if len(count) == 27 else None\n    return real(*arguments)\n"
        "Run.record = record\nfrom fastdarts.cli.entry import main\nmain()\n"
    )
    arguments = [*command[3:], "--run", str(killed)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(read_metrics(killed)) < 60 and not (killed / "result.json").exists()
    with open(killed / "metrics.jsonl", "ab") as file:
        file.write(b'{"epoch": 99, "arch')  # torn off
    again = subprocess.run([*command, "--run", str(killed)], capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    assert json.loads((killed / "result.json").read_text(encoding="utf-8"))["history"] == history
    other = subprocess.run([*command, "--run", str(killed), "--seed", "4"], capture_output=True, text=True, timeout=240)
    assert other.returncode == 2 and "--seed is 4 but the run to resume has 3" in other.stderr


@pytest.mark.parametrize("method", ["evolution", "reinforce", "ppo", "nsga2"])
def test_a_search_that_ends_anywhere_goes_on_to_the_same_history(tmp_path, table, method, monkeypatch):
    settings = {"method": method, "checkpoint_minutes": 0, "queries": 30}
    settings |= {"population": 6} if method in ("evolution", "nsga2") else {}
    settings |= {"policy_batch": 4} if method == "ppo" else {}
    whole = run(tmp_path / "whole", table, **settings)["history"]

    class Killed(BaseException):
        pass

    for place in (1, 2, 17, 29):
        real, folder, count = blackbox.Run.save, tmp_path / f"at {place}", []

        def save(*arguments, real=real, place=place, count=count):
            count.append(1)
            if len(count) > place:
                raise Killed
            return real(*arguments)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr("fastdarts.runs.run.Run.save", save)
            run(folder, table, **settings)
        assert run(folder, table, **settings)["history"] == whole


def test_on_epoch_ends_a_search(tmp_path, table):
    def stop(epoch):
        if epoch.row["epoch"] == 4:
            raise fastdarts.StopSearch

    found = run(tmp_path / "run", table, method="random", on_epoch=stop)
    assert found["queries"] == found["epochs"] == len(read_metrics(tmp_path / "run")) == 5


def test_what_a_table_lacks_has_failed_and_the_search_goes_on(tmp_path, table):
    rows = table.read_text(encoding="utf-8").splitlines()
    part = tmp_path / "part.csv"
    holes = (row if number % 2 else row.split(",")[0] + ",nan" for number, row in enumerate(rows[1:9000]))
    part.write_text("\n".join([rows[0], *holes]), encoding="utf-8")
    found = run(tmp_path / "run", part, method="evolution", population=5)
    reasons = {entry["failed"] for entry in found["history"] if "failed" in entry}
    assert reasons == {"the table does not have it", "its accuracy is not finite"}
    assert found["failed"] == sum("metric" not in entry for entry in found["history"]) > 0
    assert "architectures failed, such as one because" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    nothing = tmp_path / "nothing.csv"
    nothing.write_text(rows[1] + "\n", encoding="utf-8")
    with pytest.raises(
        FastdartsError, match="all 3 architectures have failed, the first one because the table does not"
    ):
        run(tmp_path / "failed", nothing, method="random", queries=3)


def test_a_table_that_changed_is_refused(tmp_path, table):
    (own := tmp_path / "own.csv").write_bytes(table.read_bytes())
    run(tmp_path / "run", own, method="random", queries=3)
    own.write_bytes(table.read_bytes() + b"\n")
    with pytest.raises(FastdartsError, match="the table has changed since the search began"):
        run(tmp_path / "run", own, method="random", queries=3)


def test_less_may_be_better(tmp_path, table):
    errors = tmp_path / "errors.csv"
    errors.write_text(table.read_text(encoding="utf-8").replace("accuracy", "test_error"), encoding="utf-8")
    low = run(tmp_path / "low", errors, method="evolution", population=10)
    assert low["direction"] == "minimize" and low["best"] == min(e["metric"] for e in low["history"])
    assert low["valid_error"] == low["best"]
    high = run(tmp_path / "high", errors, method="evolution", population=10, direction="maximize")
    assert high["best"] == max(entry["metric"] for entry in high["history"]) > low["best"]


def test_costs_make_a_front_and_a_limit(tmp_path, table):
    size = {"layers": 5, "channels": 4, "cost": "parameters", "samples": 32}
    found = run(tmp_path / "run", table, method="nsga2", queries=24, population=6, max_parameters="9000", **size)
    large = [entry for entry in found["history"] if "failed" in entry]
    assert large and all("parameters, more than 9000" in entry["failed"] for entry in large)
    known = [(entry["metric"], entry["cost"]) for entry in found["history"] if "metric" in entry]
    assert all(cost <= 9000 for _, cost in known)
    entries = found["history"]
    front = [(entries[k]["metric"], entries[k]["cost"]) for k in found["front"]]
    assert front == sorted(front) and [cost for _, cost in front] == sorted(cost for _, cost in front)
    for metric, cost in known:
        assert any(better >= metric and less <= cost for better, less in front)
    assert "Pareto front" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    aimed = run(tmp_path / "aimed", table, method="random", queries=10, target="1", **size)
    rewards = [entry["metric"] / 100 * entry["cost"] ** -0.07 for entry in aimed["history"]]
    assert aimed["best"] == aimed["history"][rewards.index(max(rewards))]["metric"]


def test_a_latency_is_measured_once_and_a_search_that_goes_on_counts_it_again(tmp_path, table, monkeypatch):
    size = {"layers": 5, "channels": 4, "cost": "latency", "target": "100us", "samples": 32, "queries": 8}
    measured, rows, folder = [], [], tmp_path / "run"
    real_measure, real_record = latency.measure, Run.record

    def measure(modules, device):
        measured.extend(modules)
        return real_measure(modules, device)

    class Killed(BaseException):
        pass

    def record(*arguments):
        rows.append(arguments)
        if len(rows) == 6:
            raise Killed
        return real_record(*arguments)

    monkeypatch.setattr(latency, "measure", measure)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "record", record)
        run(folder, table, method="random", **size)
    before = read_metrics(folder)
    found = run(folder, table, method="random", **size)
    assert len(before) == 5 and [row["cost"] for row in read_metrics(folder)][:5] == [row["cost"] for row in before]
    history = found["history"]
    assert len(measured) == len({entry["architecture"] for entry in history})  # the sixth was measured before the kill
    kept = latency.read_table(folder / "latency.json")
    assert kept.processor.startswith(processor(torch.device("cpu")))
    assert {entry["cost"] for entry in history} == {*kept.values.values()} and min(kept.values.values()) > 0
    rewards = [entry["metric"] / 100 * (entry["cost"] / 0.1) ** -0.07 for entry in history]
    assert found["best"] == history[rewards.index(max(rewards))]["metric"]
    assert "front over latency" in (folder / "report.html").read_text(encoding="utf-8")


def test_with_a_table_the_latency_of_a_chain_is_the_sum_of_its_layers(tmp_path):
    """In the space of MnasNet, which has no supernet. The table is from elsewhere, in the published format."""
    space, own = find_space("mnasnet"), tmp_path / "table.json"
    shared = {"space": "mnasnet", "dataset": "digits", "samples": 32, "image_size": 32, "device": "cpu", "threads": 1}
    shared |= {"method": "random", "evaluator": "parameters", "queries": 3, "seed": 1}
    plain = fastdarts.search(**shared, run=tmp_path / "plain")["history"]
    keys = [latency.chain_keys(parse_architecture(e["architecture"]).genotype, (32, 32), 1, 10) for e in plain]
    values = {key: {"mean": float(2**number)} for number, key in enumerate(dict.fromkeys(itertools.chain(*keys)))}
    own.write_text(json.dumps(values), encoding="utf-8")
    cost = {"cost": "latency", "target": "5ms", "cost_table": own}
    found = fastdarts.search(**shared, **cost, run=tmp_path / "run")["history"]
    assert [entry["cost"] for entry in found] == [sum(values[key]["mean"] for key in some) for some in keys]
    lacking = keys[2][-2]
    own.write_text(json.dumps({key: mean for key, mean in values.items() if key != lacking}), encoding="utf-8")
    with pytest.raises(FastdartsError, match=f"has no key {lacking}: add it"):
        fastdarts.search(**shared, **cost, run=tmp_path / "lacking")
    assert space.name == "mnasnet" and not space.has_supernet


def test_runs_are_compared_with_random_search(tmp_path, table):
    for method in ("random", "evolution"):
        for seed in (1, 2):
            settings = {"population": 5} if method == "evolution" else {}
            run(tmp_path / f"{method}-{seed}", table, method=method, seed=seed, **settings)
    found = compare([tmp_path], "random")
    assert {group.name: len(group.runs) for group in found.groups} == {"random": 2, "evolution": 2}
    assert not any("No random search" in note for note in found.notes)
    assert found.groups[0].runs[0].is_baseline != found.groups[1].runs[0].is_baseline


SMALL = TINY | {"space": "tiny", "epochs": 1, "method": "evolution", "population": 2, "tournament": 2, "queries": 4}


def test_children_are_trained_and_only_the_best_leaves_weights(tmp_path):
    found = fastdarts.search(**SMALL, run=tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    errors = {row["sample"]: row["valid_error"] for row in rows}
    assert [entry["metric"] for entry in found["history"]] == [errors[k] for k in range(4)]
    best = min(errors, key=errors.get)
    assert found["best"] == found["valid_error"] == errors[best]
    assert [file.name for file in (tmp_path / "run").glob("weights_*.pt")] == [f"weights_sample_{best}.pt"]
    assert len({entry["architecture"] for entry in found["history"]}) == 4


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotFinite("loss", float("nan"), "training", "epoch 0, step 1"), "the loss is nan at epoch 0, step 1"),
        (OutOfMemory("out of memory: a step takes too much"), "it needs more memory than there is"),
        (MemoryError(), "it needs more memory than there is"),
        (RuntimeError("shapes do not fit"), "its training failed (shapes do not fit)"),
    ],
    ids=["not-finite", "memory", "cpu-memory", "error"],
)
def test_a_child_that_fails_counts_as_failed_and_the_search_goes_on(tmp_path, monkeypatch, error, words):
    real, count = Training.step, []

    def step(*arguments):
        count.append(1)
        if len(count) == 4:  # in the second child
            raise error
        real(*arguments)

    monkeypatch.setattr(Training, "step", step)
    found = fastdarts.search(**SMALL, run=tmp_path / "run")
    history = found["history"]
    assert [entry.get("failed", "") for entry in history][1].startswith(words)
    assert found["failed"] == 1 and found["queries"] == 4 and all("metric" in e for e in history[:1] + history[2:])
    assert [row["failed"] for row in read_metrics(tmp_path / "run") if "failed" in row] == [history[1]["failed"]]
    # What is rebuilt from the files is the same.
    again = fastdarts.search(**SMALL, run=tmp_path / "run")
    assert again["history"] == history


def test_children_that_are_too_large_are_not_trained(tmp_path):
    settings = SMALL | {"method": "random", "candidates": 3, "max_macs": "1"}
    for name in ("population", "tournament", "queries"):
        del settings[name]
    with pytest.raises(FastdartsError, match=r"all 3 architectures have failed, .* macs, more than 1: allow larger"):
        fastdarts.search(**settings, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()  # nothing was trained


def test_a_rung_ends_what_is_not_among_the_best():
    rungs = Rungs((2,), 3)
    ended = [rungs.enough({"epoch": 1, "valid_error": error}) for error in (50.0, 60.0, 40.0, 45.0, 30.0, 39.0, 20.0)]
    assert ended == [False, True, False, True, False, False, False]
    assert not rungs.enough({"epoch": 0, "valid_error": 99.0})  # no rung


def test_rungs_end_trainings_early(tmp_path):
    settings = SMALL | {"epochs": 3, "rungs": (1,), "reduction": 4, "queries": 4}
    found = fastdarts.search(**settings, run=tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    epochs = [max(row["epoch"] for row in rows if row["sample"] == k) + 1 for k in range(4)]
    first = [next(row["valid_error"] for row in rows if row["sample"] == k) for k in range(4)]
    wanted = [3 if first[k] <= min(first[: k + 1]) else 1 for k in range(4)]
    assert epochs == wanted and epochs[0] == 3
    assert found["queries"] == 4


def test_a_supernet_judges_by_its_weights(tmp_path):
    shared = TINY | {"space": "tiny", "epochs": 1}
    supernet = tmp_path / "supernet"
    fastdarts.search(**shared, method="random-ws", candidates=2, run=supernet)
    settings = {"method": "evolution", "population": 3, "queries": 6, "shared_weights": supernet}
    found = fastdarts.search(**shared | settings, run=tmp_path / "run")
    assert found["metric"] == "valid_error" and found["best"] == min(entry["metric"] for entry in found["history"])
    again = fastdarts.search(**shared | settings, run=tmp_path / "again")
    assert again["history"] == found["history"]
    # The judge agrees with what the study of a space computes, which has code of its own.
    from fastdarts.runs.run import stored_config
    from fastdarts.study.tiny import architectures, one_shot_errors
    from fastdarts.tasks.settings import SearchConfig, resolve

    errors = one_shot_errors(resolve(stored_config(supernet, "search", SearchConfig)), supernet)
    by_text = {find_space("tiny").text(g): e for g, e in zip(architectures(), errors, strict=True)}
    for entry in found["history"]:
        assert entry["metric"] == pytest.approx(by_text[entry["architecture"]], abs=1e-6)
    with pytest.raises(FastdartsError, match="expected one that trains a supernet in space tiny"):
        fastdarts.search(**shared | settings | {"shared_weights": tmp_path / "run"}, run=tmp_path / "no")


def test_the_number_of_parameters_may_judge(tmp_path):
    shared = {"space": "nasbench201", "layers": 5, "channels": 4, "samples": 32, "device": "cpu", "threads": 1}
    found = fastdarts.search(**shared, method="random", evaluator="parameters", queries=5, run=tmp_path / "run")
    for entry in found["history"]:
        network = NB201.network("nasbench201", 4, 10, 5, False, NB201.from_text(entry["architecture"]), in_channels=1)
        assert entry["metric"] == sum(p.numel() for p in network.parameters())
    assert found["best"] == max(entry["metric"] for entry in found["history"]) and "valid_error" not in found


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"evaluator": "table"}, "--evaluator is table, which needs --table: give it"),
        ({"table": "here.csv", "evaluator": "macs"}, "--table is given but the evaluator is macs"),
        ({"column": "accuracy"}, "--column is accuracy but there is no --table"),
        ({"direction": "minimize"}, "--direction is minimize but there is no --table"),
        ({"table": "here.csv", "rungs": (1,)}, "--rungs end trainings early, but the evaluator is table"),
        ({"rungs": (3, 2)}, "--rungs is 3 2: expected ascending epochs below --epochs 50"),
        ({"rungs": (50,)}, "--rungs is 50: expected ascending"),
        ({"target": "5M"}, "--target is 5M but no cost is counted: add --cost"),
        ({"cost": "macs", "target": "5ms"}, "--target is '5ms': expected a number above 0"),
        ({"cost": "latency", "target": "5M"}, "--target is '5M': expected a time with its unit"),
        ({"cost": "macs", "cost_table": "here.json"}, "--cost-table holds latencies, but --cost is macs: leave one of"),
        ({"cost": "latency", "processes": 2}, "workers cannot measure latencies, .*: give a --cost-table or leave"),
        ({"cost": "macs", "target": "soon"}, "--target is 'soon': expected a number above 0"),
        ({"max_macs": "few"}, "--max-macs is 'few'"),
        ({"space": "rnn"}, "--method evolution needs training from scratch"),
        ({"table": "nowhere.csv"}, "--table is .*nowhere.csv, which cannot be read"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, settings, words):
    with pytest.raises(FastdartsError, match=words):
        fastdarts.search(**{"method": "evolution", "space": "nasbench201", "run": tmp_path / "run"} | settings)
    assert not (tmp_path / "run").exists()


def test_both_names_of_the_number_of_candidates(tmp_path, table):
    found = run(tmp_path / "run", table, method="random", queries=None, candidates=3)
    assert found["queries"] == 3
    with pytest.raises(FastdartsError, match="--candidates is 3 and --queries 4, which mean the same"):
        run(tmp_path / "other", table, method="random", queries=4, candidates=3)


def test_a_search_in_a_table_needs_no_data(tmp_path, table, monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr("fastdarts.tasks.images.task.prepare_data", refuse)
    monkeypatch.setattr(judges, "SearchStep", refuse)
    monkeypatch.setattr(children, "Trainer", refuse)
    state = torch.get_rng_state()
    assert run(tmp_path / "run", table, method="random", dataset="cifar10")["queries"] == 40
    assert torch.equal(state, torch.get_rng_state()) and os.getpid()
