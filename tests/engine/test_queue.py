"""Trials on storages of Optuna: taken once, taken over, ended once, whatever processes do and whenever they die."""

import contextlib
import json
import subprocess
import sys

import pytest

from fastdarts.engine import queue as queues
from fastdarts.engine.queue import DECIDED, OUTCOME, WORKER, Lost, Queue, create_study
from fastdarts.engine.storage import open_storage
from fastdarts.errors import FastdartsError

optuna = pytest.importorskip("optuna", reason="needs the extra blackbox")
STATE = optuna.trial.TrialState


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    """The name of a storage that is not there yet."""
    return str(tmp_path / "trials.journal") if request.param == "journal" else f"sqlite:///{tmp_path}/trials.db"


def made(storage, trials=3):
    """A study of so many trials that are decided by who takes them."""
    create_study(open_storage(storage, create=True), "s", ["maximize"], {"trials": trials}, [{}] * trials)
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
    for trial in taken:
        a.decide(trial, {"query": trial.number}, {"decision": (1, "abc")})
    assert a.finish(taken[0], [0.5], {"metric": 0.5}) and not b.finish(taken[0], [0.9], {"metric": 0.9})
    assert b.finish(taken[1], None, {"failed": "too large"})
    first, second, *_ = begin().trials()
    assert first.values == [0.5] and first.user_attrs[OUTCOME] == {"metric": 0.5} and first.params == {"decision": "b"}
    assert second.state is STATE.FAIL and second.user_attrs[OUTCOME] == {"failed": "too large"}
    for trial in taken[2:]:
        a.finish(trial, [1.0], {})
    assert begin().done()


def test_two_that_want_the_same_trial_do_not_both_get_it(storage):
    begin = made(storage, 1)
    a, b = begin(), begin()
    trial = a.trials()[0]
    assert [a._is_taken(trial), b._is_taken(trial)] == [True, False]


def test_the_trial_of_a_process_that_is_gone_is_taken_over(storage):
    begin = made(storage, 2)
    a, b = begin(), begin()
    trial = a.take()
    a.decide(trial, {"query": 0}, {})
    assert b.take().number == 1 and b.take() is None  # a is alive
    gone(a, trial)
    again = b.take()
    assert again.number == 0 and again.user_attrs[DECIDED] == {"query": 0} and again.user_attrs[WORKER]["lost"] == 1
    assert b.finish(again, [1.0], {}) and not a.finish(trial, [2.0], {}) and a.trials()[0].values == [1.0]


def test_a_trial_that_was_left_is_taken_over_at_once(storage):
    begin = made(storage, 1)
    a, b = begin(), begin()
    trial = a.take()
    a.decide(trial, {"query": 0}, {})
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
    a.decide(trial, {"query": 0}, {})
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


def test_a_process_lost_before_it_has_decided_leaves_room_for_another_trial(storage):
    begin = made(storage, 2)
    a, b = begin(), begin()
    trial = a.take()
    gone(a, trial)
    assert [b.take().number, b.take().number] == [1, 2]
    with pytest.raises(Lost):  # it was not gone, only slow: too late
        a.decide(trial, {"query": 0}, {})
    assert [trial.number for trial in b.trials()] == [1, 2] and len(b.all()) == 3
    assert b.all()[0].state is STATE.FAIL


def test_a_trial_that_takes_processes_with_it_fails_at_last(storage):
    begin = made(storage, 1)
    for lost in range(queues.LIVES):
        queue = begin()
        trial = queue.take()
        assert trial.user_attrs[WORKER]["lost"] == lost
        if not lost:
            queue.decide(trial, {"query": 0}, {})
        gone(queue, trial)
    assert begin().take() is None and begin().done()
    assert begin().trials()[0].user_attrs[OUTCOME] == {"failed": "3 processes that worked on it have died"}


def test_a_study_that_is_half_made_is_completed_and_until_then_refused(storage, monkeypatch):
    opened, add, count = open_storage(storage, create=True), queues._add, []

    def killed(*arguments):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        add(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(queues, "_add", killed)
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
    a.decide(trial, {"query": 1}, {})
    assert begin().trials()[1].user_attrs[DECIDED] == {"query": 1}
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
