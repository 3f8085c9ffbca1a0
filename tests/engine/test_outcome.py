"""The report of a run at work: written after epochs, seldom, and never what ends the run."""

import signal
import types
from itertools import pairwise

import pytest

import fastdarts
from fastdarts.engine import outcome
from fastdarts.engine.outcome import LiveReport
from fastdarts.engine.search import search
from fastdarts.errors import FastdartsError
from fastdarts.notices import Notice
from fastdarts.tasks.settings import SearchConfig


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves, and the folders of which reports were written at which time."""
    found = types.SimpleNamespace(now=100.0, written=[], takes=0.0, fails=None)

    def write(folder):
        if found.fails:
            raise FastdartsError(found.fails)
        found.written.append((folder, found.now))
        found.now += found.takes

    monkeypatch.setattr(outcome, "time", types.SimpleNamespace(monotonic=lambda: found.now))
    monkeypatch.setattr(outcome, "write_report", write)
    return found


def test_reports_take_a_fiftieth_of_the_time(clock):
    report = LiveReport(types.SimpleNamespace(folder="here"))
    report.after_epoch()
    assert not clock.written  # an epoch that took no time
    clock.takes = 2.0
    for _ in range(400):
        clock.now += 1.0
        report.after_epoch()
    times = [when for _, when in clock.written]
    assert times[0] == pytest.approx(105.0)
    assert all(after - before >= 2.0 + 50 * 2.0 for before, after in pairwise(times))
    assert len(times) == 4


def test_a_report_that_cannot_be_written_is_said_and_no_more(clock):
    report = LiveReport(types.SimpleNamespace(folder="here"))
    clock.now += 10
    clock.fails = "its metrics are damaged"
    with pytest.warns(Notice, match="the report of the run at work is not written .*damaged"):
        report.after_epoch()


def test_a_search_at_work_has_a_page_after_every_epoch_but_the_last(tmp_path, monkeypatch):
    seen = []
    real = outcome.write_report

    def write(folder):
        path = real(folder)
        seen.append("follow" in path.read_text(encoding="utf-8").split("</header>")[0])
        return path

    monkeypatch.setattr(outcome, "write_report", write)
    monkeypatch.setattr(outcome, "_PAUSE", 0.0)
    monkeypatch.setattr(outcome, "_SHARE", 0.0)
    small = {"dataset": "digits", "samples": 32, "channels": 2, "layers": 2, "nodes": 1, "batch_size": 16}
    search(SearchConfig(**small, epochs=3, threads=1, gap_every=0, run=tmp_path / "run"))
    assert seen == [True, True, False]


SMALL = {"samples": 32, "channels": 4, "layers": 3, "batch_size": 16, "threads": 1, "loggers": [], "device": "cpu"}


@pytest.mark.parametrize(
    ("call", "settings"),
    [
        (fastdarts.search, {"epochs": 3, "gap_every": 0}),
        (fastdarts.search, {"method": "evolution", "evaluator": "parameters", "queries": 9}),
        (fastdarts.evaluate, {"genotype": "DARTS_V2", "epochs": 3}),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_a_signal_ends_leaves_a_report_that_says_how_to_go_on(tmp_path, call, settings, number):
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        call(**SMALL | settings, run=tmp_path / "run", on_epoch=lambda _: signal.raise_signal(number))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    verb = call.__name__
    assert "The run is unfinished" in page and f"fastdarts {verb} --resume {tmp_path / 'run'}" in page
    assert call(resume=tmp_path / "run")["kind"] == verb
