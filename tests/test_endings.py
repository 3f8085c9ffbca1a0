"""How processes end: those that make batches, runs after signals, output that nobody reads."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastdarts.endings import stoppable
from fastdarts.engine.search import search
from fastdarts.runs.checkpoint import load_checkpoint
from fastdarts.tasks.settings import SearchConfig
from fastdarts.testing.outcomes import difference, outcome
from tests.support.paths import ROOT

TINY = {"epochs": 2, "channels": 4, "layers": 3, "nodes": 1, "batch_size": 8, "samples": 100, "gap_every": 0}
FLAGS = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()] + ["--threads=1", "--device=cpu"]
CODES = {"return": 0, "slow": 0, "exception": 1, "exit": 7, "SIGINT": -signal.SIGINT, "SIGTERM": -signal.SIGTERM,
         "SIGKILL": -signal.SIGKILL}  # fmt: skip


def lives(pid: int) -> bool:
    """Whether a process works; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at other processes in /proc")
@pytest.mark.parametrize(
    ("method", "ending"),
    [
        *(("fork", ending) for ending in CODES),
        *((method, ending) for method in ("spawn", "forkserver") for ending in ("exception", "SIGKILL")),
        ("bench", "SIGKILL"),
    ],
)
def test_processes_live_for_all_passes_and_end_with_their_parent(method, ending):
    command = [sys.executable, "-m", "tests.support.endings_script", method, ending]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        begun = time.monotonic()
        if method == "bench":
            process.kill()
        assert process.wait(60) == CODES[ending], process.stderr.read()
        assert time.monotonic() - begun < 20
    assert 1 <= len(pids) <= 2 and process.pid not in pids  # the same two for all four passes
    while any(map(lives, pids)) and time.monotonic() - begun < 20:
        time.sleep(0.05)
    assert not any(map(lives, pids))


SCRIPT = """
import sys
from pathlib import Path
from fastdarts.tasks.settings import SearchConfig
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
def step(*_):
    raise RuntimeError("a fault of the step")
SearchStep.step = step
search(SearchConfig(**{settings}, workers=2, threads=1, device="cpu", run=Path(sys.argv[1])))
"""


def test_an_exception_that_leaves_a_search_with_workers_ends_the_script_and_leaves_no_folder(tmp_path):
    script, run = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT.format(settings=TINY), encoding="utf-8")
    done = subprocess.run([sys.executable, script, run], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "RuntimeError: a fault of the step" in done.stderr
    assert not run.exists()


def begin(run: Path, *flags: str, **options) -> subprocess.Popen:
    """A search with small steps, that has begun to work."""
    command = [sys.executable, "-m", "fastdarts", "search", *FLAGS, "--epochs=10", f"--run={run}", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
    while not (run / "checkpoint.pt").exists():
        time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.3)
    return process


def test_ctrl_c_saves_the_step_names_the_folder_and_the_run_goes_on_the_same(tmp_path):
    run = tmp_path / "run"
    process = begin(run, "--workers=1", "--checkpoint-minutes=60", start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all processes
    _, errors = process.communicate(timeout=120)
    *before, last = errors.splitlines()
    assert process.returncode == 130
    assert "fastdarts: interrupted: stopping after this step is saved; Ctrl-C again stops at once" in before
    assert last == f"fastdarts: interrupted; go on with: fastdarts search --resume {run}"
    state = load_checkpoint(run / "checkpoint.pt", "search")
    assert (state["epoch"], state["step"]) > (0, 0)
    settings = dict(TINY, epochs=10, threads=1, device="cpu")
    short = SearchConfig(**settings, workers=1, checkpoint_minutes=60)
    search(SearchConfig(**vars(short) | {"resume": run}))
    search(SearchConfig(**vars(short) | {"run": tmp_path / "whole"}))
    assert not difference(outcome(run), outcome(tmp_path / "whole"))


def test_a_second_ctrl_c_ends_at_once_and_names_the_folder_too(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "from fastdarts.cli.entry import main\n"
        "from fastdarts.engine.step import SearchStep\n"
        "def step(*_):\n"
        "    print('step', file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
        "original, SearchStep.step, steps = SearchStep.step, lambda *a: step() if len(steps) > 1 else once(*a), []\n"
        "def once(*a):\n"
        "    steps.append(1)\n"
        "    return original(*a)\n"
        "main(sys.argv[1:])\n",
        encoding="utf-8",
    )
    run = tmp_path / "run"
    command = [sys.executable, script, "search", *FLAGS, f"--run={run}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.stderr.readline() != "step\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again" in process.stderr.readline()
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - begun < 30
    assert errors == (
        "fastdarts: interrupted; what came after the last checkpoint is lost; "
        f"go on with: fastdarts search --resume {run}\n"
    )
    assert (run / "checkpoint.pt").exists()


def test_ctrl_c_while_pytorch_is_imported_is_one_line():
    code = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from fastdarts.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "fastdarts: interrupted\n")


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""Where output is buffered, as in most shells, what nobody reads is still in the buffer at the end."""


def test_a_search_goes_on_when_nobody_reads_its_output(tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "fastdarts", "search", *FLAGS, f"--run={run}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=BUFFERED)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    assert json.loads((run / "result.json").read_text(encoding="utf-8"))["epochs"] == 2


def test_a_sentence_that_nobody_reads_leaves_its_exit_code(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "fastdarts", "report", tmp_path / "nowhere"], stderr=subprocess.PIPE, env=BUFFERED
    )
    process.stderr.close()
    assert process.wait(60) == 2


@pytest.mark.skipif(not Path("/bin/sh").exists(), reason="needs a shell that closes streams")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "2>/dev/full"])
def test_a_search_needs_no_streams_at_all(tmp_path, closed):
    command = f"{sys.executable} -m fastdarts search {' '.join(FLAGS)} --epochs=1 --run={tmp_path / 'run'} {closed}"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, env=BUFFERED, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert (tmp_path / "run" / "report.html").exists()


def test_a_run_goes_on_without_its_terminal(tmp_path):
    """The terminal ends, and no signal says so, as after disown: writing to it fails from then on."""
    run, (terminal, its_end) = tmp_path / "run", os.openpty()
    command = [sys.executable, "-m", "fastdarts", "search", *FLAGS, f"--run={run}"]
    environment = BUFFERED | {"TERM": "xterm"}
    process = subprocess.Popen(command, stdout=its_end, stderr=its_end, env=environment, start_new_session=True)
    os.close(its_end)
    while not (run / "checkpoint.pt").exists():
        time.sleep(0.01)
        assert process.poll() is None
    os.close(terminal)
    assert process.wait(120) == 0
    assert (run / "report.html").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_workers_start_is_saved_too(tmp_path, number):
    """By spawn, where they import PyTorch first; the signal reaches all processes, as from a terminal."""
    script, run = tmp_path / "script.py", tmp_path / "run"
    script.write_text(
        "import multiprocessing, sys\n"
        "from fastdarts.cli.entry import main\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    main(sys.argv[1:])\n",
        encoding="utf-8",
    )
    command = [sys.executable, script, "search", *FLAGS, "--workers=2", f"--run={run}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (run / "checkpoint.pt").exists():
        time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.5)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGINT else 0), errors
    assert "Traceback" not in errors and f"go on with: fastdarts search --resume {run}" in errors.splitlines()[-1]
    assert load_checkpoint(run / "checkpoint.pt", "search")["step"] >= 1


def test_signals_are_those_of_the_caller_afterwards_and_nested_listeners_are_one():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stoppable() as outer, stoppable() as inner:
        assert outer is inner and not outer
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer and outer.signal == signal.SIGTERM
        with pytest.raises(SystemExit) as ended:
            outer.leave(None)
        assert ended.value.code == 0
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
