"""How OpenMP's threads wait: chosen by the command line before PyTorch is imported, by what else runs."""

import os
import subprocess
import sys

import pytest
import torch

from fastdarts import waiting
from fastdarts.engine import device
from fastdarts.waiting import busy_elsewhere, choose_waiting


@pytest.fixture
def load(monkeypatch, tmp_path):
    """load(n): so many threads of other processes run; this machine has four cores."""
    file = tmp_path / "loadavg"
    monkeypatch.setattr(waiting, "_LOAD", file)
    monkeypatch.setattr(waiting, "cores", lambda: 4)
    monkeypatch.setattr(device, "cores", lambda: 4)
    return lambda others: file.write_text(f"0.52 0.58 0.59 {others + 1}/467 11436\n", encoding="ascii")


@pytest.mark.parametrize(
    ("others", "arguments", "chosen"),
    [
        (0, [], waiting.SPIN),
        (1, [], waiting.SLEEP),
        (1, ["--threads", "3"], waiting.SPIN),
        (2, ["--threads=3"], waiting.SLEEP),
        (3, ["--threads", "8"], waiting.SLEEP),
    ],
)
def test_threads_sleep_where_others_leave_too_few_cores(load, others, arguments, chosen):
    load(others)
    environ = {}
    choose_waiting(["search", *arguments], environ)
    assert environ == {"GOMP_SPINCOUNT": chosen}


def test_what_the_user_chose_stays(load):
    load(9)
    for name in waiting.BY_USER:
        environ = {name: "x"}
        choose_waiting([], environ)
        assert environ == {name: "x"}


def test_without_a_load_nothing_is_busy(monkeypatch, tmp_path):
    monkeypatch.setattr(waiting, "_LOAD", tmp_path / "absent")
    assert busy_elsewhere() == 0


def test_the_load_is_that_of_the_system(monkeypatch):
    if not waiting._LOAD.exists():
        pytest.skip("needs /proc/loadavg, this system has none")
    before = busy_elsewhere()
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    try:
        assert max(busy_elsewhere() for _ in range(20)) >= min(before, 1) + 5
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def test_the_program_chooses_before_pytorch_is_imported():
    code = (
        "import os, sys, fastdarts.__main__ as program\n"
        "def chosen(arguments): print(arguments, 'torch' in sys.modules); sys.exit()\n"
        "program.choose_waiting = chosen\n"
        "program.main()"
    )
    said = subprocess.check_output([sys.executable, "-c", code, "info"], text=True, env=os.environ)
    assert said == "['info'] False\n"


def test_a_run_says_that_others_take_its_cores(load):
    threads = torch.get_num_threads()
    load(4 - threads)
    assert device.check_cores(torch.device("cpu")) == ""
    load(5 - threads)
    said = device.check_cores(torch.device("cpu"))
    assert said.startswith(f"other processes compete for the 4 cores (busy threads: {5 - threads})")
    assert device.check_cores(torch.device("cuda")) == ""
