"""Searches by several workers: the same as by one process, with nothing lost or found twice, whoever is killed."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

import fastdarts
from fastdarts.endings import Stop
from fastdarts.engine import queue, workers
from fastdarts.engine.queue import DECIDED, Queue, counts
from fastdarts.engine.storage import open_storage
from fastdarts.engine.training import Training
from fastdarts.engine.workers import HERE
from fastdarts.errors import FastdartsError
from fastdarts.runs.writer import Progress, read_metrics
from fastdarts.testing import TINY
from tests.support.paths import ROOT
from tests.support.tables import TINY_SPACE, accuracy, accuracy_of, write_table

optuna = pytest.importorskip("optuna", reason="needs the extra blackbox")
SEARCHERS = ("random", "evolution", "reinforce", "nas-rl", "ppo", "nsga2", "tpe")
FEW = {
    "evolution": {"population": 5},
    "ppo": {"policy_batch": 4},
    "nsga2": {"population": 6},
    "tpe": {"random_queries": 4},
}
SMALL = TINY | {"space": "tiny", "epochs": 1, "method": "evolution", "population": 2, "tournament": 2, "queries": 4}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table") / "accuracy.csv", TINY_SPACE)


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    """What waits for the disk waits for nothing: an entry of a journal takes 9 ms else."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def settings(table, method, **more):
    shared = {"space": "tiny", "queries": 20, "seed": 5, "device": "cpu", "threads": 1, "table": table}
    return shared | {"method": method} | FEW.get(method, {}) | more


def begun(folder, capsys, **more):
    """Begin a search that leaves all to workers elsewhere; returns where they find it."""
    with pytest.raises(SystemExit) as left:
        fastdarts.search(**more, run=folder, processes=0)
    assert left.value.code == 0
    said = re.search(r"fastdarts worker --storage (\S+) --study (\S+), and", capsys.readouterr().err)
    return said[1], said[2]


def steps_of(folder):
    """The steps of an epoch of a training: the half of the images, in batches."""
    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    return -(-int(config["samples"] * config["train_portion"]) // config["batch_size"])


def in_turns(storage, study, count):
    """So many workers, one step of each after another, until all have nothing to do."""
    team = [workers.SearchWorker(Queue(open_storage(storage), study), None, HERE) for _ in range(count)]
    for one in team:
        one.progress = Progress()
        one._problem.opened(one._config, one._device).__enter__()
    queue, stop, held = team[0].queue, Stop(), []
    while not queue.done():
        for one in team:  # all decide a trial before the first ends its own
            if (trial := one.take(stop)) is not None:
                held.append((one, trial))
        for one, trial in reversed(held):
            assert one.do(trial, stop)
        held.clear()


@pytest.mark.parametrize("method", SEARCHERS)
def test_one_worker_finds_what_the_search_alone_finds(tmp_path, table, method, capsys):
    alone = fastdarts.search(**settings(table, method), run=tmp_path / "alone")
    more = settings(table, method)
    where = begun(tmp_path / "run", capsys, **more)
    assert workers.judge_trials(*where) == 20
    found = fastdarts.search(**more, run=tmp_path / "run", processes=0)
    assert found["history"] == alone["history"] and found["genotype"] == alone["genotype"]
    assert found["baseline"] == alone["baseline"] and found["best"] == alone["best"]
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(tmp_path / name)]
        for name in ("alone", "run")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 20
    assert "of 20" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", SEARCHERS)
def test_workers_that_decide_in_turn_agree(tmp_path, table, method, capsys):
    more = settings(table, method)
    where = begun(tmp_path / "run", capsys, **more)
    in_turns(*where, 3)
    found = fastdarts.search(**more, run=tmp_path / "run", processes=0)
    assert found["queries"] == len(found["history"]) == 20 and found["failed"] == 0
    for entry in found["history"]:
        assert entry["metric"] == pytest.approx(accuracy_of(entry["architecture"], TINY_SPACE), abs=1e-6)
    trials = Queue(open_storage(where[0]), where[1]).all()
    assert [trial.user_attrs[DECIDED]["query"] for trial in trials] == [*range(20)]
    assert trials[5].user_attrs[DECIDED]["told"] == []  # the second of a round of three
    assert trials[6].user_attrs[DECIDED]["told"] == [3, 4, 5]
    if method == "random":  # which does not learn: the order changes nothing
        assert found["history"] == fastdarts.search(**more, run=tmp_path / "alone")["history"]


@pytest.mark.parametrize("method", ["random", "evolution", "ppo"])
def test_a_worker_that_is_stalled_while_it_decides_loses_no_trial(tmp_path, table, method, capsys, monkeypatch):
    """It has asked for trial 1, and is heard when another worker, which believes that it is gone, has done three."""
    more = settings(table, method, queries=8)
    where = begun(tmp_path / "run", capsys, **more)
    stalled, other = (workers.SearchWorker(Queue(open_storage(where[0]), where[1]), None, HERE) for _ in range(2))
    stalled.progress = other.progress = Progress()
    stop, real = Stop(), stalled.queue.decide
    assert stalled.do(stalled.take(stop), stop)
    monkeypatch.setattr(queue, "GRACE", 0.0)

    def decide(*arguments):
        monkeypatch.setattr(stalled.queue, "decide", real)
        for _ in range(3):
            assert other.do(other.take(stop), stop)
        return real(*arguments)

    monkeypatch.setattr(stalled.queue, "decide", decide)
    assert stalled.take(stop) is None
    for worker in (stalled, other, stalled, other):
        assert worker.do(worker.take(stop), stop)
    assert stalled.take(stop) is None and stalled.queue.done()
    assert [trial.number for trial in stalled.queue.all() if not counts(trial)] == [4]
    found = fastdarts.search(**more, run=tmp_path / "run", processes=0)
    # The two were never at work at the same time, so that the search is the one of a process alone.
    assert found["history"] == fastdarts.search(**more, run=tmp_path / "alone")["history"]


def test_trials_hold_decisions_by_name_for_the_dashboard(tmp_path, table, capsys):
    more = settings(table, "random", queries=3)
    storage, study = begun(tmp_path / "run", capsys, **more)
    workers.judge_trials(storage, study)
    loaded = optuna.load_study(study_name=study, storage=open_storage(storage))
    assert loaded.direction.name == "MAXIMIZE" and loaded.best_value == max(trial.value for trial in loaded.trials)
    for trial in loaded.trials:
        assert (
            trial.value == pytest.approx(accuracy([*trial.params.values()]), abs=1e-6)
            and next(iter(trial.params)) == TINY_SPACE.decisions(1)[0].name
        )


def test_processes_of_this_machine_find_the_same(tmp_path, table):
    more = settings(table, "random")
    found = fastdarts.search(**more, run=tmp_path / "run", processes=2)
    assert found["history"] == fastdarts.search(**more, run=tmp_path / "alone")["history"]
    logs = [(tmp_path / "run" / f"worker_{n}.log").read_text(encoding="utf-8") for n in (0, 1)]
    assert sum(log.count("accuracy") for log in logs) == 20


def test_children_of_workers_are_those_of_the_search_alone(tmp_path, capsys):
    alone = fastdarts.search(**SMALL, run=tmp_path / "alone")
    where = begun(tmp_path / "run", capsys, **SMALL)
    assert workers.judge_trials(*where) == 4
    found = fastdarts.search(**SMALL, run=tmp_path / "run", processes=0)
    assert found["history"] == alone["history"] and found["valid_error"] == alone["valid_error"]
    names = [sorted(p.name for p in (tmp_path / n).glob("weights*")) for n in ("alone", "run")]
    assert names[0] == names[1] and len(names[0]) == 1
    for name in names[0]:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert not (tmp_path / "run" / "trials").exists()
    trial = Queue(open_storage(where[0]), where[1]).all()[0]
    assert trial.intermediate_values == {1: found["history"][0]["metric"]}  # curves on the dashboard


def test_rungs_look_at_the_trainings_of_all_workers(tmp_path, capsys):
    more = SMALL | {"epochs": 3, "rungs": (1,), "reduction": 4}
    alone = fastdarts.search(**more, run=tmp_path / "alone")
    where = begun(tmp_path / "run", capsys, **more)
    for _ in range(4):  # each trial by another worker
        one = workers.SearchWorker(Queue(open_storage(where[0]), where[1]), None, HERE)
        one.progress = Progress()
        with one._problem.opened(one._config, one._device):
            assert one.do(one.take(Stop()), Stop())
    found = fastdarts.search(**more, run=tmp_path / "run", processes=0)
    assert found["history"] == alone["history"]
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")] == [
        r["epoch"] for r in read_metrics(tmp_path / "alone")
    ]


def test_a_worker_goes_on_with_the_training_of_another_one(tmp_path, capsys, monkeypatch):
    more = SMALL | {"epochs": 2, "checkpoint_minutes": 0, "queries": 2}
    alone = fastdarts.search(**more, run=tmp_path / "alone")
    where = begun(tmp_path / "run", capsys, **more)
    real, count = Training.step, []

    class Killed(BaseException):
        pass

    def step(*arguments):
        count.append(1)
        if len(count) == 4:
            raise Killed
        real(*arguments)

    monkeypatch.setattr(Training, "step", step)
    with pytest.raises(Killed):
        workers.judge_trials(*where)
    folder = tmp_path / "run" / "trials" / "0"
    assert len(read_metrics(folder)) == 3 // steps_of(folder) and (folder / "checkpoint.pt").exists()
    assert workers.judge_trials(*where) == 2
    assert len(count) - 1 == 2 * 2 * steps_of(tmp_path / "alone")  # no step was made twice
    assert fastdarts.search(**more, run=tmp_path / "run", processes=0)["history"] == alone["history"]


def test_what_fails_is_told_and_the_search_goes_on(tmp_path, table, capsys):
    rows = table.read_text(encoding="utf-8").splitlines()
    (part := tmp_path / "part.csv").write_text("\n".join(rows[:60]), encoding="utf-8")
    more = settings(part, "evolution", queries=30)
    alone = fastdarts.search(**more, run=tmp_path / "alone")
    workers.judge_trials(*begun(tmp_path / "run", capsys, **more))
    found = fastdarts.search(**more, run=tmp_path / "run", processes=0)
    assert found["history"] == alone["history"] and found["failed"] == alone["failed"] > 0


def test_costs_are_a_second_objective_of_the_study(tmp_path, table, capsys):
    more = settings(
        table, "nsga2", layers=5, channels=4, cost="parameters", samples=32, queries=8, max_parameters="9000"
    )
    alone = fastdarts.search(**more, run=tmp_path / "alone")
    where = begun(tmp_path / "run", capsys, **more)
    workers.judge_trials(*where)
    found = fastdarts.search(**more, run=tmp_path / "run", processes=0)
    assert found["history"] == alone["history"] and found["front"] == alone["front"]
    loaded = optuna.load_study(study_name=where[1], storage=open_storage(where[0]))
    assert [d.name for d in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_what_does_not_fit_is_refused(tmp_path, table, capsys, monkeypatch):
    more = settings(table, "evolution", queries=4)
    with pytest.raises(FastdartsError, match="--storage is x but no worker uses it: add --processes"):
        fastdarts.search(**more, storage="x")
    with pytest.raises(FastdartsError, match="need to know the folder of the search: name it with --run"):
        fastdarts.search(**more, processes=0)
    storage, study = begun(tmp_path / "run", capsys, **more)
    with pytest.raises(FastdartsError, match=r"another study run \(--seed is 6 but"):
        fastdarts.search(**more | {"seed": 6}, run=tmp_path / "other", storage=storage, study=study, processes=0)
    with pytest.raises(FastdartsError, match="--study is new but the run to resume is study run"):
        fastdarts.search(**more, run=tmp_path / "run", study="new", processes=0)
    with pytest.raises(FastdartsError, match="was begun with --processes: add it"):
        fastdarts.search(**more, run=tmp_path / "run")
    fastdarts.search(**more, run=tmp_path / "serial")
    with pytest.raises(FastdartsError, match="was begun without --processes: leave it out"):
        fastdarts.search(**more, run=tmp_path / "serial", processes=1)
    table_then = table.read_bytes()
    try:
        table.write_bytes(table_then + b"\n")
        with pytest.raises(FastdartsError, match=r"the digest of the table is .* here and .* where study run was made"):
            workers.judge_trials(storage, study)
    finally:
        table.write_bytes(table_then)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(FastdartsError, match=r"pip install 'fastdarts\[blackbox\]'"):
        fastdarts.search(**more, run=tmp_path / "without", processes=2)
    with pytest.raises(FastdartsError, match=r"pip install 'fastdarts\[blackbox\]'"):
        workers.judge_trials(storage, study)
    assert fastdarts.search(**more, run=tmp_path / "alone")["queries"] == 4


def test_another_version_of_a_searcher_is_noticed(tmp_path, table, capsys):
    storage, study = begun(tmp_path / "run", capsys, **settings(table, "evolution", queries=6))
    queue = Queue(open_storage(storage), study)
    other = TINY_SPACE.decode([0] * 6, 1)
    point = {"query": 0, "told": [], "choice": [0] * 6, "architecture": TINY_SPACE.text(other)}
    point["genotype"] = TINY_SPACE.to_dict(other)
    trial = queue.decide(0, point, {})
    queue.finish(trial, [1.0], {"metric": 1.0, "rows": [], "seconds": 0.0})
    with pytest.raises(FastdartsError, match="asks for another architecture than trial 0 of study run"):
        workers.judge_trials(storage, study)


@pytest.mark.parametrize("method", ["random", "evolution"])
def test_no_trial_is_lost_or_found_twice_whoever_is_killed(tmp_path, table, method):
    """Three workers at a time, of which nine are killed before, within and after writes to the journal."""
    more = settings(table, method, queries=20)
    (tmp_path / "settings.json").write_text(json.dumps(more, default=str), encoding="utf-8")
    command = [sys.executable, "-m", "tests.support.killed_workers", str(tmp_path), "9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == 9, done.stdout
    found = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    texts = [entry["architecture"] for entry in found["history"]]
    for entry in found["history"]:
        assert entry["metric"] == pytest.approx(accuracy_of(entry["architecture"], TINY_SPACE), abs=1e-6)
    assert found["queries"] == len(texts) == 20 and found["failed"] == 0
    trials = Queue(open_storage(str(tmp_path / "run" / "trials.journal")), "run").all()
    decided = [trial for trial in trials if counts(trial)]
    assert [trial.user_attrs[DECIDED]["query"] for trial in decided] == [*range(20)]
    assert all(trial.state.name == "COMPLETE" for trial in decided)
    # What does not count has no result; a worker that was killed before it could say so has not ended it.
    assert all(trial.state.name in ("FAIL", "RUNNING") for trial in trials if not counts(trial))
    if method == "random":
        assert found["history"] == fastdarts.search(**more, run=tmp_path / "alone")["history"]
    else:
        assert len({*texts}) == 20  # it asks for nothing twice
