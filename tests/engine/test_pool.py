"""Pieces of work in processes of their own: side by side, failing, stopped and killed with the one that began them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastdarts.engine import pool
from fastdarts.errors import FastdartsError
from fastdarts.runs.writer import Progress
from tests.support.paths import ROOT


def tasks(folder, work, names):
    made = []
    for name in names:
        (folder / name).mkdir(parents=True)
        made.append(pool.Task(name, folder / name / "result.json", 1, work, (folder / name,)))
    return made


def test_pieces_run_side_by_side_and_one_that_fails_says_why(tmp_path):
    good = tasks(tmp_path, meet, ["a", "b"])  # each waits for the other
    pool.run_tasks(good, 2, Progress(), "go on with it")
    assert {task.result.read_text(encoding="utf-8") for task in good} != {str(os.getpid())}
    assert good[0].log.read_text(encoding="utf-8") == "working\n"
    bad = tasks(tmp_path / "bad", fail, ["sentence", "crash"])
    with pytest.raises(FastdartsError, match=r"^sentence: the data is wrong$"):
        pool.run_tasks([bad[0], *tasks(tmp_path / "slow", endless, ["s"])], 2, Progress(), "go on with it")
    assert (tmp_path / "slow" / "s" / "stopped").exists()
    with pytest.raises(FastdartsError, match=r"^crash: exit code 3, see .*crash\.log; the same command goes on"):
        pool.run_tasks([bad[1], *tasks(tmp_path / "other", meet, ["alone"])], 2, Progress(), "go on with it")


def test_pieces_end_with_the_process_that_began_them(tmp_path):
    script = "import sys; from tests.engine.test_pool import begin; begin(sys.argv[1])"
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, -2), (signal.SIGKILL, -9)):
        folder = tmp_path / str(code)
        command = [sys.executable, "-c", script, str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        working = [folder / name / "working" for name in "ab"]
        while not all(path.exists() for path in working) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(30) == code
        deadline = time.monotonic() + 30
        while not all((folder / name / "stopped").exists() for name in "ab") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert all((folder / name / "stopped").exists() for name in "ab")


def begin(folder):
    pool.run_tasks(tasks(Path(folder), endless, ["a", "b"]), 2, Progress(), "go on with it")


def meet(folder):
    print("working")
    (folder / "here").touch()
    other = folder.parent / {"a": "b", "b": "a"}.get(folder.name, folder.name) / "here"
    deadline = time.monotonic() + 60
    while not other.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    (folder / "result.json").write_text(str(os.getpid()), encoding="utf-8")


def fail(folder):
    if folder.name == "crash":
        os._exit(3)
    while not (folder.parent.parent / "slow" / "s" / "working").exists():
        time.sleep(0.01)
    raise FastdartsError("the data is wrong")


def endless(folder):
    signal.signal(signal.SIGTERM, lambda *_: ((folder / "stopped").touch(), sys.exit(0)))
    (folder / "working").touch()
    while True:
        time.sleep(0.01)
