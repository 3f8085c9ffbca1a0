"""The files of a run: what is on disk after kills and resumes, and what the progress prints."""

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastdarts.errors import FastdartsError
from fastdarts.runs.writer import Progress, Recorder, atomic_write, environment, read_metrics
from tests.support.paths import ROOT


def python(code, **options):
    """A fresh interpreter that can import the package."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, **options)


def scalars(run):
    events = EventAccumulator(str(run))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def record(run, rows, **options):
    with Recorder(run, **options) as recorder:
        for row in rows:
            recorder.epoch(row)
        return recorder.position()


def rows_to(epochs, start=0):
    return [{"epoch": e, "train_loss": 2.0 - e / 4} for e in range(start, epochs)]


# ---- atomic writes ----------------------------------------------------------------------------------------


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "genotype.json"
    for content in (b"old", b"", b"new \x00\xff"):
        atomic_write(path, content)
        assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["genotype.json"]


def test_atomic_write_keeps_the_old_content_when_it_fails(tmp_path):
    path = tmp_path / "genotype.json"
    atomic_write(path, b"old")
    with pytest.raises(TypeError):
        atomic_write(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["genotype.json"]


def test_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    atomic_write(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_kill_leaves_the_old_content_or_the_new(tmp_path):
    """A writer that does nothing but replace a large file is killed at random moments, with SIGKILL."""
    size, draw = 4_000_000, random.Random(0)
    writer = f"""
from pathlib import Path
from fastdarts.runs.writer import atomic_write
print(flush=True)
for turn in range(10**9):
    atomic_write(Path({str(tmp_path / "file")!r}), bytes([turn % 256]) * {size})
"""
    atomic_write(tmp_path / "file", b"a" * size)
    writers = [python(writer, stdout=subprocess.PIPE) for _ in range(2)]
    unfinished = 0
    for process in writers:
        process.stdout.readline()  # it has begun
    for _ in range(20):
        for process in writers:
            os.kill(process.pid, signal.SIGSTOP)  # the file must be whole at any moment, not only after the last
        content = (tmp_path / "file").read_bytes()
        assert len(content) == size and content == content[:1] * size
        unfinished += len(list(tmp_path.glob(".*.tmp"))) > 0
        for process in writers:
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(draw.uniform(0.002, 0.02))
    for process in writers:
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    content = (tmp_path / "file").read_bytes()
    assert len(content) == size and content == content[:1] * size
    assert unfinished  # or the moments were not the interesting ones

    Recorder(tmp_path).close()
    assert not list(tmp_path.glob(".*.tmp"))  # what the killed writers left


# ---- rows -----------------------------------------------------------------------------------------------


def test_rows_read_back_as_written(tmp_path):
    row = {"epoch": 0, "valid_error": 12.5, "arch_loss": None, "genotype": {"normal": [["ü\n", 1]]}}
    weights = torch.full((2, 3), 0.25)
    record(tmp_path / "deep" / "run", [row, {"epoch": 1, "weights_normal": weights}])
    rows = read_metrics(tmp_path / "deep" / "run")
    assert rows == [row, {"epoch": 1, "weights_normal": [[0.25] * 3] * 2}]


def test_a_row_is_on_disk_before_the_next_one(tmp_path):
    with Recorder(tmp_path) as recorder:
        for count, row in enumerate(rows_to(3), start=1):
            recorder.epoch(row)
            assert len(read_metrics(tmp_path)) == count
            assert recorder.position() == (tmp_path / "metrics.jsonl").stat().st_size


def test_a_killed_run_keeps_its_rows(tmp_path):
    process = python(
        f"""
from pathlib import Path
from fastdarts.runs.writer import Recorder
recorder = Recorder(Path({str(tmp_path)!r}))
for epoch in range(10**9):
    recorder.epoch(dict(epoch=epoch, weights_normal=[[0.125] * 8] * 14))
    print(epoch, flush=True)
""",
        stdout=subprocess.PIPE,
    )
    for _ in range(50):
        last = int(process.stdout.readline())
    process.kill()
    last = int((process.stdout.read().split() or [last])[-1])
    process.wait()
    process.stdout.close()
    rows = read_metrics(tmp_path)
    assert [row["epoch"] for row in rows] == list(range(len(rows)))
    assert len(rows) in (last + 1, last + 2)  # the row after may have been written and not yet announced


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor([1.0, float("nan")])])
def test_a_number_that_is_not_finite_stops_the_run_and_writes_nothing(tmp_path, value):
    with Recorder(tmp_path) as recorder:
        recorder.epoch({"epoch": 6, "train_loss": 1.0})
        with pytest.raises(FastdartsError, match=r"of epoch 7 is not a finite number: the run diverged") as error:
            recorder.epoch({"epoch": 7, "train_loss": value})
    assert ("train_loss" in str(error.value)) == isinstance(value, float)
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [6]


GOOD = b'{"epoch": 0}\n{"epoch": 1}\n'


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_is_left_out(tmp_path, cut):
    (tmp_path / "metrics.jsonl").write_bytes(GOOD + b'{"epoch": 2}'[:cut])
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [0, 1]


def test_a_last_row_without_its_newline_counts(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(GOOD + b'{"epoch": 2}')
    assert len(read_metrics(tmp_path)) == 3


@pytest.mark.parametrize(
    "damage",
    [
        b'{"epo\n' + GOOD,
        b"\n" + GOOD,
        GOOD + b"[1]\n",
        GOOD + b"\n",
        GOOD + b'{"a": NaN}\n',
        GOOD + b"\xff\n",
    ],
)
def test_any_other_damage_is_refused(tmp_path, damage):
    (tmp_path / "metrics.jsonl").write_bytes(damage)
    with pytest.raises(FastdartsError, match=r"metrics\.jsonl is damaged: line [13] is not a JSON object"):
        read_metrics(tmp_path)


def test_a_folder_without_metrics_is_not_a_run(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FastdartsError, match="is not a run folder"):
            read_metrics(folder)


# ---- resuming ---------------------------------------------------------------------------------------------


def test_resuming_cuts_what_came_after_the_checkpoint(tmp_path):
    position = record(tmp_path, rows_to(3))
    record(tmp_path, rows_to(5, start=3), resume_at=position)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"epoch": 5, "tr')  # torn by a kill
    record(tmp_path, [{"epoch": 3, "train_loss": 9.0}], resume_at=position)
    assert read_metrics(tmp_path) == [*rows_to(3), {"epoch": 3, "train_loss": 9.0}]
    # Without resuming a run of the same rows leaves the same bytes.
    record(tmp_path / "straight", [*rows_to(3), {"epoch": 3, "train_loss": 9.0}])
    straight = (tmp_path / "straight" / "metrics.jsonl").read_bytes()
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight


def test_resuming_at_the_very_beginning(tmp_path):
    record(tmp_path, rows_to(2), resume_at=0)
    record(tmp_path, rows_to(1), resume_at=0)
    assert read_metrics(tmp_path) == rows_to(1)


def test_a_shorter_file_than_the_checkpoint_knew_is_refused(tmp_path):
    position = record(tmp_path, rows_to(3))
    content = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(content[:-1])
    with pytest.raises(FastdartsError, match=f"has {position - 1} bytes but the checkpoint was taken at {position}"):
        Recorder(tmp_path, resume_at=position)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content[:-1]
    with pytest.raises(FastdartsError, match="has 0 bytes"):
        Recorder(tmp_path / "missing", resume_at=position)


def test_a_file_with_other_rows_than_the_checkpoint_knew_is_refused(tmp_path):
    position = record(tmp_path, rows_to(3))
    content = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(FastdartsError, match=f"no end of a row at byte {position - 4}"):
        Recorder(tmp_path, resume_at=position - 4)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path):
    record(tmp_path, rows_to(1))
    with pytest.raises(FastdartsError, match="already holds the metrics of a run"):
        Recorder(tmp_path)
    assert read_metrics(tmp_path) == rows_to(1)


# ---- other files ------------------------------------------------------------------------------------------


def test_json_and_text_files(tmp_path):
    with Recorder(tmp_path) as recorder:
        recorder.write_json("result.json", {"test_error": torch.tensor(2.5), "seeds": (0, 1)})
        recorder.write_text("normal.svg", "⟨svg⟩\n")
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == {"test_error": 2.5, "seeds": [0, 1]}
    assert (tmp_path / "normal.svg").read_text(encoding="utf-8") == "⟨svg⟩\n"


def test_tensorboard_gets_the_numbers(tmp_path):
    record(tmp_path, [row | {"seconds": 1, "genotype": {}, "arch_loss": None} for row in rows_to(3)])
    assert scalars(tmp_path) == {
        "train_loss": [(0, 2.0), (1, 1.75), (2, 1.5)],
        "seconds": [(e, 1.0) for e in range(3)],
    }


def test_tensorboard_tells_seeds_apart_and_forgets_what_a_resume_cut(tmp_path):
    first = [{"seed": 7} | row for row in rows_to(3)]
    second = [{"seed": 8} | row for row in rows_to(3)]
    position = record(tmp_path, [*first, *second[:1]])
    record(tmp_path, [{"seed": 8, "epoch": 1, "train_loss": 99.0}], resume_at=position)
    record(tmp_path, second[1:], resume_at=position)
    curve = [(0, 2.0), (1, 1.75), (2, 1.5)]
    assert scalars(tmp_path) == {"seed_7/train_loss": curve, "seed_8/train_loss": curve}
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_importing_the_recorder_does_not_import_tensorboard_or_rich():
    code = "import sys, fastdarts.runs.writer; sys.exit(any(m in sys.modules for m in ('tensorboard', 'rich')))"
    assert python(code).wait() == 0


def test_environment_says_where_a_run_ran():
    facts = environment(torch.device("cpu"))
    assert json.loads(json.dumps(facts)) == facts
    assert facts["torch"] == torch.__version__.split("+")[0] or facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["device"].startswith("cpu (")
    assert facts["command"] and facts["platform"] and facts["python"].startswith("3.")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", facts["started"])


# ---- progress ---------------------------------------------------------------------------------------------

PROGRESS = """
import time
from fastdarts.runs.writer import Progress
with Progress(interval={interval}) as progress:
    for epoch in range(2):
        progress.start(f"epoch {{epoch}}", 5)
        for step in range(5):
            progress.advance(train_loss=2.0 / (step + 1), lr=0.025)
            time.sleep(0.02)
        progress.line(f"epoch {{epoch}} done [100 %]")
"""


def test_progress_in_a_pipe_is_plain_lines():
    process = python(PROGRESS.format(interval=0), stderr=subprocess.PIPE)
    text = process.communicate()[1].decode()
    assert process.returncode == 0
    lines = text.splitlines()
    assert len(lines) == 2 * (5 + 1)
    assert re.fullmatch(r"epoch 0  1/5  train loss 2  lr 0\.025  0:00 left, done at \d\d:\d\d", lines[0])
    assert lines[5] == "epoch 0 done [100 %]"
    assert not re.search(r"[^\x20-\x7e\n]", text)  # no colours, no carriage returns, no bars


def test_progress_in_a_pipe_keeps_quiet_between_intervals():
    process = python(PROGRESS.format(interval=60), stderr=subprocess.PIPE)
    lines = process.communicate()[1].decode().splitlines()
    assert lines == ["epoch 0 done [100 %]", "epoch 1 done [100 %]"]


def test_progress_on_a_terminal_is_a_bar_and_keeps_the_lines():
    master, terminal = pty.openpty()
    process = python(PROGRESS.format(interval=60), stderr=terminal)
    os.close(terminal)
    output = b""
    while True:
        try:
            output += os.read(master, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
    os.close(master)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.decode())
    assert "\x1b[" in output.decode()  # it moved the cursor: a live bar
    assert "train loss" in text and "/5" in text
    assert text.count("epoch 0 done [100 %]") == text.count("epoch 1 done [100 %]") == 1


def test_progress_times_left(capsys):
    class Stopped(Progress):
        """A progress whose stretch began a given time ago."""

        def age(self, seconds):
            self._started = time.monotonic() - seconds

    with Stopped(interval=0) as progress:
        progress.start("epoch 3", 10)
        progress.age(3600)
        progress.advance(5)
        progress.advance(1, left=7260)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("epoch 3  5/10  1:00:00 left, done at ")  # of this stretch, as nothing else is known
    assert lines[1].startswith("epoch 3  6/10  2:01:00 left, done at ")  # of the whole run
