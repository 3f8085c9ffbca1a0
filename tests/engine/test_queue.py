"""Trials on storages of Optuna: taken once, taken over, ended once, whatever processes do and whenever they die."""

import contextlib
import json
import subprocess
import sys

import pytest

from fastdarts.engine import queue as queues
from fastdarts.engine.queue import DECIDED, NUMBER, WORKER, Lost, Queue, create_study, outcome_of
from fastdarts.engine.storage import open_storage
from fastdarts.errors import FastdartsError

optuna = pytest.importorskip("optuna", reason="needs the extra blackbox")
STATE = optuna.trial.TrialState


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    """The name of a storage that is not there yet."""
    return str(tmp_path / "trials.journal") if request.param == "journal" else f"sqlite:///{tmp_path}/trials.db"


def made(storage, trials=3, search=False):
    """A study of so many trials; those of a search are decided by workers."""
    points = [] if search else [{"point": number} for number in range(trials)]
    create_study(open_storage(storage, create=True), "s", ["maximize"], {"trials": trials}, points)
    return lambda **more: Queue(open_storage(storage), "s", **more)


def gone(queue, trial):
    """From now on the process that has the trial is one of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    queue._set(trial, WORKER, queue._me | {"pid": process.pid, "lost": trial.user_attrs[WORKER]["lost"]})


def elsewhere(queue, trial):
    """From now on the process that has the trial is one of another machine."""
    queue._set(trial, WORKER, queue._me | {"host": "elsewhere", "lost": 0})


def test_each_trial_is_taken_once_and_ends_once(storage):
    begin = made(storage, 4)
    a, b = begin(), begin()
    taken = [worker.take() for worker in (a, b, b, a)]
    assert [trial.number for trial in taken] == [0, 1, 2, 3] and a.take() is None and not a.done()
    a.show(taken[0], {"decision": (1, "abc")})
    assert a.finish(taken[0], [0.5], {"metric": 0.5}) and not b.finish(taken[0], [0.9], {"metric": 0.9})
    assert b.finish(taken[1], None, {"failed": "too large"})
    first, second, *_ = begin().trials()
    assert first.values == [0.5] and outcome_of(first) == {"metric": 0.5} and first.params == {"decision": "b"}
    assert second.state is STATE.FAIL and outcome_of(second) == {"failed": "too large"}
    for trial in taken[2:]:
        a.finish(trial, [1.0], {})
    assert begin().done()


def test_trials_of_a_search_are_made_when_they_are_decided(storage):
    begin = made(storage, 2, search=True)
    a, b = begin(), begin()
    assert a.take() is None and a.trials() == [] and not a.done()
    first = a.decide(0, {"query": 0}, {"decision": (1, "abc")})
    assert b.take() is None  # a is alive
    second = b.decide(1, {"query": 1}, {"decision": (2, "abc")})
    assert [trial.user_attrs[DECIDED] for trial in a.trials()] == [{NUMBER: n, "query": n} for n in (0, 1)]
    assert [trial.params for trial in a.trials()] == [{"decision": "b"}, {"decision": "c"}]
    assert not a.done() and a.finish(first, [1.0], {}) and b.finish(second, None, {"failed": "no"}) and a.done()


def test_what_a_stalled_process_decides_too_late_is_void_whenever_it_comes(storage):
    """It wants to decide trial 1, and is heard after that is decided, or even finished, by another one."""
    begin = made(storage, 3, search=True)
    stalled, other = begin(), begin()
    stalled.decide(0, {"query": 0}, {})
    trial = other.decide(1, {"query": 1, "by": "other"}, {})
    for _ in range(2):  # the second time the other one has its result
        with pytest.raises(Lost):
            stalled.decide(1, {"query": 1, "by": "stalled"}, {})
        other.finish(trial, [1.0], {})
    assert [one.state for one in other.all()[2:]] == [STATE.FAIL] * 2
    last = other.decide(4, {"query": 2}, {})
    assert [one.number for one in stalled.trials()] == [0, 1, 4] and last.number == 4
    assert stalled.trials()[1].user_attrs[DECIDED]["by"] == "other" and stalled.trials()[1].state is STATE.COMPLETE


def test_a_void_trial_whose_process_was_killed_is_ended_by_others(storage, monkeypatch):
    begin = made(storage, 2, search=True)
    a, b = begin(), begin()
    a.decide(0, {"query": 0}, {})
    with monkeypatch.context() as patch, pytest.raises(Lost):
        patch.setattr(b, "_end", lambda *_: None)  # it was killed before
        b.decide(0, {"query": 0}, {})
    gone(b, a.all()[1])
    assert a.take() is None and a.all()[1].state is STATE.FAIL and [one.number for one in a.trials()] == [0]


def test_deciding_goes_by_turns(storage, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(queues.time, "monotonic", lambda: clock[0])
    begin = made(storage, 4, search=True)
    a, b = begin(), begin()
    b._me["host"] = "elsewhere"
    assert b.has_turn(0) and not a.has_turn(0) and b.has_turn(0)
    b.decide(0, {"query": 0}, {})
    assert a.has_turn(1) and not b.has_turn(1)  # of the next one
    a.decide(1, {"query": 1}, {})
    assert b.has_turn(2) and not a.has_turn(2)
    clock[0] = queues.GRACE + 1  # b is stalled
    assert a.has_turn(2) and not b.has_turn(2)


def test_the_turn_of_a_process_of_this_machine_that_is_killed_passes_at_once(storage):
    begin = made(storage, 4, search=True)
    a, b = begin(), begin()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    b._me["pid"] = process.pid
    assert b.has_turn(0) and a.has_turn(0)


def test_of_two_results_at_a_time_the_one_that_ends_the_trial_counts(storage, monkeypatch):
    """A stalled process writes what it knows after another one has written its own, and before that ends the trial."""
    begin = made(storage, 1)
    a, b = begin(), begin()
    trial, real = a.take(), b._end

    def end(*arguments):
        a._set(trial, f"{queues.OUTCOME} of {a._me['token'][:8]}", {"metric": 2.0, "values": [2.0]})
        return real(*arguments)

    monkeypatch.setattr(b, "_end", end)
    assert b.finish(trial, [1], {"metric": 1.0})
    assert outcome_of(a.trials()[0]) == {"metric": 1.0} and a.trials()[0].values == [1.0]


def test_two_that_want_the_same_trial_do_not_both_get_it(storage):
    begin = made(storage, 1)
    a, b = begin(), begin()
    trial = a.trials()[0]
    assert [a._is_taken(trial), b._is_taken(trial)] == [True, False]


def test_the_trial_of_a_process_that_is_gone_is_taken_over(storage):
    begin = made(storage, 2)
    a, b = begin(), begin()
    trial = a.take()
    assert b.take().number == 1 and b.take() is None  # a is alive
    gone(a, trial)
    again = b.take()
    assert again.number == 0 and again.user_attrs[DECIDED] == {"point": 0} and again.user_attrs[WORKER]["lost"] == 1
    assert b.finish(again, [1.0], {}) and not a.finish(trial, [2.0], {}) and a.trials()[0].values == [1.0]


def test_a_trial_that_was_left_is_taken_over_at_once(storage):
    begin = made(storage, 1)
    a, b = begin(), begin()
    trial = a.take()
    with contextlib.suppress(KeyboardInterrupt), a.beating(trial):
        raise KeyboardInterrupt
    again = b.take()
    assert again.number == 0 and again.user_attrs[WORKER]["lost"] == 0  # nobody was lost


def test_the_heart_of_a_process_elsewhere_is_heard(storage, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(queues.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(queues, "BEAT", 0.01)
    begin = made(storage, 1)
    a, b = begin(lease=100), begin(lease=100)
    trial = a.take()
    elsewhere(a, trial)
    for clock[0] in (0.0, 99.0):
        assert b.take() is None
    with a.beating(trial):
        while queues.BEATS not in b.trials()[0].user_attrs:
            pass
    for clock[0] in (150.0, 249.0):  # it has beaten since, and b looks again
        assert b.take() is None
    clock[0] = 251.0
    assert b.take().number == 0
    assert a.take() is None  # which believes that b is alive


def test_a_process_that_is_stalled_while_it_takes_a_trial_finds_it_done(storage, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(queues.time, "monotonic", lambda: clock[0])
    begin = made(storage, 1)
    a, b = begin(), begin()
    real = a._set

    def stalled(*arguments):
        for clock[0] in (0.0, queues.GRACE + 1):
            taken = b.take()
        b.finish(taken, [1.0], {})
        real(*arguments)

    monkeypatch.setattr(a, "_set", stalled)
    assert a.take() is None and a.done() and a.trials()[0].values == [1.0]


def test_a_trial_that_takes_processes_with_it_fails_at_last(storage):
    begin = made(storage, 1)
    for lost in range(queues.LIVES):
        queue = begin()
        trial = queue.take()
        assert trial.user_attrs[WORKER]["lost"] == lost
        gone(queue, trial)
    assert begin().take() is None and begin().done()
    assert outcome_of(begin().trials()[0]) == {"failed": "3 processes that worked on it have died"}


def test_a_study_that_is_half_made_is_completed_and_until_then_refused(storage, monkeypatch):
    opened, count = open_storage(storage, create=True), []
    real = opened.create_new_trial

    def killed(*arguments):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(opened, "create_new_trial", killed)
        create_study(opened, "s", ["maximize"], {"trials": 5}, [{"n": n} for n in range(5)])
    with pytest.raises(FastdartsError, match="study s is not complete: give --storage and --study to the command"):
        Queue(opened, "s")
    found = create_study(opened, "s", ["maximize"], {"trials": 5, "other": 1}, [{"n": n} for n in range(5)])
    assert found == {"trials": 5, "ready": True}  # as it was begun
    assert [trial.user_attrs[DECIDED] for trial in Queue(opened, "s").trials()] == [{"n": n} for n in range(5)]


def test_what_is_not_there_or_is_anothers_is_refused(storage, tmp_path):
    with pytest.raises(FastdartsError, match=r"^(there is no file|--storage sqlite:.* cannot be used)"):
        Queue(open_storage(storage), "s")
    opened = open_storage(storage, create=True)
    with pytest.raises(FastdartsError, match="the storage has no study s: give --storage and --study to the command"):
        Queue(opened, "s")
    own = optuna.create_study(storage=opened, study_name="mine")
    own.set_user_attr("mine", 1)
    with pytest.raises(FastdartsError, match="has a study mine that is none of fastdarts: choose another --study"):
        create_study(opened, "mine", ["maximize"], {"trials": 1}, [{}])
    with pytest.raises(FastdartsError, match="expected grpc://HOST:PORT"):
        open_storage("grpc://localhost")
    with pytest.raises(FastdartsError, match="--storage postgresql://host/db cannot be used") as caught:
        open_storage("postgresql+nothing://me:secret@host/db".replace("+nothing", ""))
    assert "secret" not in str(caught.value)


def test_a_line_that_a_kill_has_torn_is_blanked(tmp_path):
    begin = made(str(tmp_path / "trials.journal"), 2)
    a, b = begin(), begin()
    a.take()
    with open(tmp_path / "trials.journal", "ab") as file:
        file.write(b'{"op_code": 5, "worker_')
    trial = b.take()  # reads what stands before it, and writes
    assert trial.number == 1
    a.finish(trial, [1.0], {"metric": 1.0})
    assert outcome_of(begin().trials()[1]) == {"metric": 1.0}
    lines = (tmp_path / "trials.journal").read_bytes().split(b"\n")
    assert lines.pop() == b"" and sum(line.startswith(b" ") for line in lines) == 1
    assert all(json.loads(line) for line in lines)


def test_a_reader_that_meets_a_line_at_the_place_of_a_torn_one_reads_again(tmp_path, monkeypatch):
    begin = made(str(tmp_path / "trials.journal"), 1)
    queue, waits = begin(), []
    whole = (tmp_path / "trials.journal").read_bytes()
    (tmp_path / "trials.journal").write_bytes(whole + b'{"op_code": 5{"op_code": 4}\n{}\n')

    def sleep(_):
        waits.append(1)
        (tmp_path / "trials.journal").write_bytes(whole)

    monkeypatch.setattr("fastdarts.engine.storage.time.sleep", sleep)
    assert queue.take().number == 0 and waits == [1]
