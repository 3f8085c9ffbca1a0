"""Workers on a shared disk, on PostgreSQL, on a gRPC server and as tasks of Ray: each with two of this machine."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import fastdarts
from fastdarts.runs.writer import read_metrics
from tests.support.paths import ROOT
from tests.support.tables import TINY_SPACE, accuracy_of, write_table

pytest.importorskip("optuna", reason="needs the extra blackbox")
PATIENCE = 900
"""Seconds after which a command counts as hanging: a busy machine takes ten times as long as a quiet one."""
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if os.name == "posix" else []
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install ray")
needs_postgresql = pytest.mark.skipif(
    not BINARIES or find_spec("psycopg") is None,
    reason="needs PostgreSQL and its driver: apt-get install postgresql; pip install 'psycopg[binary]'",
)


@pytest.fixture
def settings(tmp_path):
    """Of a search in a table, whose folder and name all workers know."""
    table = write_table(tmp_path / "accuracy.csv", TINY_SPACE)
    shared = {"space": "tiny", "table": table, "method": "evolution", "population": 4, "queries": 12}
    return shared | {"device": "cpu", "threads": 1, "run": tmp_path / "run", "processes": 0}


def begin(settings, storage):
    with pytest.raises(SystemExit):
        fastdarts.search(**settings, storage=storage)


def start_worker(storage, study="run"):
    command = [sys.executable, "-m", "fastdarts", "worker", "--storage", storage, "--study", study]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def two_workers(storage):
    """What both have printed, once they have ended."""
    processes = [start_worker(storage) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return said


def check_all_is_found(settings, storage):
    found = fastdarts.search(**settings, storage=storage)
    assert found["queries"] == len({entry["architecture"] for entry in found["history"]}) == 12
    for entry in found["history"]:
        assert entry["metric"] == pytest.approx(accuracy_of(entry["architecture"], TINY_SPACE), abs=1e-6)
    assert len(read_metrics(settings["run"])) == 12


BLOCK = re.compile(r"^```(bash|toml)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def page(tmp_path):
    """The blocks of the manual, on another shared disk, and a function that starts one where there is an srun."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"fastdarts": f'exec {sys.executable} -m fastdarts "$@"', "srun": 'exec "$@"'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    paths = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8").replace("/shared", str(tmp_path / "shared"))

    def start(text):
        return subprocess.Popen(["bash", "-ec", text], cwd=tmp_path, env=os.environ | paths)

    return [text for _, text in BLOCK.findall(text)], start


def test_the_commands_of_the_manual_run(tmp_path, page):
    """Where it starts one worker, two work here."""
    (one_machine, many, slurm, *_), start = page
    assert start(one_machine).wait(PATIENCE) == 0 and (tmp_path / "runs" / "evolution" / "report.html").exists()
    first, worker, last = many.strip().splitlines()
    assert start(first).wait(PATIENCE) == 0 and worker in slurm and last == first
    assert [job.wait(PATIENCE) for job in [start(slurm), start(slurm)]] == [0, 0]
    assert start(last).wait(PATIENCE) == 0
    found = json.loads((tmp_path / "shared" / "runs" / "evolution" / "result.json").read_text(encoding="utf-8"))
    assert found["queries"] == 8 and "valid_error" in found


def test_the_sweeps_of_the_manual_run(tmp_path, page):
    (*_, toml, here, sweeps), start = page
    assert toml == (ROOT / "examples" / "sweep.toml").read_text(encoding="utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert start(here).wait(PATIENCE) == 0
    first, worker, last = sweeps.strip().splitlines()
    assert start(first).wait(PATIENCE) == 0
    assert [job.wait(PATIENCE) for job in [start(worker), start(worker)]] == [0, 0]
    assert start(last).wait(PATIENCE) == 0
    found = [json.loads((tmp_path / at / "runs" / "sweep" / "sweep.json").read_text("utf-8")) for at in (".", "shared")]
    assert [one["metric"] for one in found[0]["points"]] == [one["metric"] for one in found[1]["points"]]
    assert len(found[0]["points"]) == 4 and (tmp_path / "shared" / "runs" / "sweep" / "compare.html").exists()


def test_a_worker_that_is_terminated_leaves_its_trial(tmp_path, settings):
    """Children are trained, and a worker gets SIGTERM in the middle of one, as before the end of a job of SLURM."""
    storage = str(tmp_path / "shared.journal")
    trained = {"table": None, "dataset": "digits", "samples": 64, "channels": 4, "layers": 3, "batch_size": 16}
    settings |= trained | {"method": "random", "queries": 2, "epochs": 40}
    settings = {name: value for name, value in settings.items() if name != "population"}
    begin(settings, storage)
    worker, row = start_worker(storage), settings["run"] / "trials" / "0" / "metrics.jsonl"
    while not (row.exists() and row.read_bytes()) and worker.poll() is None:
        time.sleep(0.05)
    worker.terminate()
    said = worker.communicate(timeout=PATIENCE)[0]
    assert worker.returncode == 0 and "terminated; other workers go on with study run" in said
    done = row.read_bytes().count(b"\n")
    assert 0 < done < 40
    two_workers(storage)
    found = fastdarts.search(**settings, storage=storage)
    assert found["queries"] == 2 and len(read_metrics(settings["run"])) == 80


def test_a_grpc_server_before_a_database(tmp_path, settings):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = (
        "from optuna.storages import get_storage, run_grpc_proxy_server\n"
        f"run_grpc_proxy_server(get_storage('sqlite:///{tmp_path}/trials.db'), host='localhost', port={port})\n"
    )
    server = subprocess.Popen([sys.executable, "-c", script])
    try:
        storage = f"grpc://localhost:{port}"
        begin(settings, storage)
        two_workers(storage)
        check_all_is_found(settings, storage)
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def postgresql():
    """The URL of a database on a server of its own, which only this machine reaches."""
    folder = Path(tempfile.mkdtemp())  # not tmp_path, into which the server's own user may not look
    user = {"user": "postgres"} if os.getuid() == 0 else {}
    if user:
        shutil.chown(folder, "postgres")
    data, options = folder / "data", f"-c listen_addresses='' -k {folder}"
    quiet = {"stdout": subprocess.DEVNULL, "check": True, "cwd": folder}
    subprocess.run([BINARIES[-1] / "initdb", "-D", data, "-U", "me", "-A", "trust"], **user, **quiet)
    control = [BINARIES[-1] / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], **user, **quiet)
    try:
        yield f"postgresql://me@/postgres?host={folder}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **user, **quiet)
        shutil.rmtree(folder)


@needs_postgresql
def test_postgresql(settings, postgresql):
    begin(settings, postgresql)
    two_workers(postgresql)
    check_all_is_found(settings, postgresql)


@needs_ray
def test_tasks_of_ray(tmp_path, settings):
    """The script of the manual."""
    storage = str(tmp_path / "shared.journal")
    begin(settings, storage)
    script = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert "import ray" in script and "/shared/evolution.journal" in script
    script = script.replace("/shared/evolution.journal", storage).replace('"evolution"', '"run"')
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(done.stdout.splitlines()[-1])) == 12
    check_all_is_found(settings, storage)
