"""Workers that are killed again and again, three at a time, until a search has ended: engine/test_workers.py starts it.

It is a process of its own since it forks: a worker then starts in milliseconds.
"""

import functools
import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path

import torch

import fastdarts
from fastdarts.engine import queue
from fastdarts.engine.storage import JOURNAL, Journal, _blank_part
from fastdarts.policies.searchers.optuna_samplers import import_optuna
from fastdarts.study.worker import work
from tests.support.kills import in_a_fork

HOW = ("before", "torn", "written", "after")
"""Where in a write to the journal a worker is killed: before it, when a part or all of it is written, after it."""


def die_in_write(number: int, how: str) -> None:
    """Kill this process in write ``number`` to a journal, counted from now."""
    real, left = Journal.append_logs, [number]

    def append(journal: Journal, logs: list) -> None:
        left[0] -= 1
        if left[0]:
            return real(journal, logs)
        if how in ("torn", "written"):
            with open(journal._path, "r+b") as file, journal._locked(file):
                _blank_part(file)
                file.seek(0, os.SEEK_END)
                if how == "written":
                    journal._file.append_logs(logs)
                else:
                    text = json.dumps(logs[0]).encode()
                    file.write(text[: len(text) // 2])
                    file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        elif how == "after":
            real(journal, logs)
        os.kill(os.getpid(), signal.SIGKILL)

    Journal.append_logs = append


def worker(storage: str, study: str, plan: tuple[int, str] | None, log: Path) -> int:
    """Start a worker, and return the number of its process."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with open(log, "a", encoding="utf-8") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            if plan is not None:
                die_in_write(*plan)
            work(storage, study)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def main(scratch: str, kills: str) -> None:
    folder, killed = Path(scratch), 0
    torch.set_num_threads(1)  # a pool of threads does not live through a fork
    journal = import_optuna().storages.journal
    # What a killed worker holds is free after a second instead of 30.
    journal.JournalFileSymlinkLock = functools.partial(journal.JournalFileSymlinkLock, grace_period=1)
    queue.GRACE, queue.LIVES = 1.0, 100  # one trial may meet all kills
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    draw = random.Random(settings["method"])

    def search() -> None:
        fastdarts.search(**settings, run=folder / "run", processes=0)

    assert in_a_fork(lambda: _until_left(search), folder / "log") == 0, (folder / "log").read_text(encoding="utf-8")
    storage, running = str(folder / "run" / JOURNAL), set()
    done = False
    while running or not done:
        # A trial takes four writes, and no worker makes more than five before it is killed. Nobody else works until all
        # are killed that shall be, so that the search is not over before.
        while len(running) < 3 and not done and (killed == int(kills) or killed + len(running) < int(kills)):
            plan = (draw.randrange(1, 6), draw.choice(HOW)) if killed < int(kills) else None
            running.add(worker(storage, "run", plan, folder / "workers.log"))
        pid, status = os.wait()
        running.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, -signal.SIGKILL), (folder / "workers.log").read_text(encoding="utf-8")
        killed += code != 0
        done = done or code == 0
    assert in_a_fork(search, folder / "log") == 0, (folder / "log").read_text(encoding="utf-8")
    print(f"killed {killed}")


def _until_left(search) -> None:
    try:
        search()
    except SystemExit as left:
        assert left.code == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
