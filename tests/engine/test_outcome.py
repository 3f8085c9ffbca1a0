"""The report of a run at work: written after epochs, seldom, and never what ends the run."""

import types
from itertools import pairwise

import pytest

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
