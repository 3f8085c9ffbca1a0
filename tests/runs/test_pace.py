"""How long a run takes, by a clock that is told the time."""

from datetime import datetime

import pytest

from fastdarts.runs.pace import Pace, duration, remaining, roughly


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def go(pace, clock, *seconds):
    for some in seconds:
        clock.now += some
        pace.step()


def test_the_first_step_does_not_count_and_whole_epochs_count_with_their_measurements(clock):
    pace = Pace(clock)
    pace.begin(10, 10, 4)
    assert pace.left is None and pace.per_epoch is None and pace.after_epoch() is None
    go(pace, clock, 30.0)  # it compiles
    assert pace.left is None
    go(pace, clock, 2.0, 4.0)
    assert pace.per_epoch == 30.0 and pace.left == 7 * 3.0 + 4 * 30.0
    go(pace, clock, *[3.0] * 7)
    clock.now += 13.0  # a measurement
    pace.end()
    assert pace.per_epoch == 70.0 and pace.after_epoch() == 4 * 70.0
    pace.begin(10, 10, 3)
    assert pace.left == 4 * 70.0
    go(pace, clock, 5.0, 5.0)
    assert pace.left == 8 * 5.0 + 3 * 70.0


def test_an_epoch_that_was_begun_elsewhere_is_no_whole_one(clock):
    pace = Pace(clock)
    pace.begin(2, 10, 1)
    go(pace, clock, 1.0, 1.0)
    pace.end()
    assert pace.per_epoch == 10.0  # ten steps of a second, and not the two seconds of what was left
    pace.begin(10, 10, 0)
    assert pace.per_epoch is None


def test_a_run_of_days_is_announced_with_flags_that_take_hours(clock):
    pace = Pace(clock)
    pace.begin(100, 100, 599)
    go(pace, clock, 20.0, 20.0)
    assert not pace.warning(600, None, "--channels")  # too few steps
    go(pace, clock, 20.0)
    # 600 epochs of 2000 s, 60 s of which are over: six hours are 1.8 % of that, 10.8 epochs
    text = pace.warning(600, 50_000, "--channels or --layers")
    assert text == (
        "this run will take about 13.9 days here (3 steps were measured): Ctrl-C stops it, and a new run with "
        "--epochs 10 would take about 6 hours; --channels or --layers make each step shorter"
    )
    pace.begin(100, 100, 19)
    go(pace, clock, 200.0, 200.0, 200.0)
    # 20 epochs of 20000 s: one of them in six hours, or five with 1/5 of 1.08 epochs' images
    assert "--epochs 5 --samples 10" in pace.warning(20, 50_000, "-") and "--epochs 1 would" in pace.warning(
        20, None, "-"
    )


def test_a_run_of_hours_is_not(clock):
    pace = Pace(clock)
    pace.begin(100, 100, 0)
    go(pace, clock, *[100.0] * 5)
    assert pace.left == 95 * 100.0 and not pace.warning(1, 1000, "-")


def test_times_in_words():
    assert [duration(s) for s in (0, 59.6, 3599, 3600, 90_061)] == ["0:00", "1:00", "59:59", "1:00:00", "25:01:01"]
    assert [roughly(s) for s in (40, 720, 21_600, 216_000)] == ["40 s", "12 minutes", "6 hours", "2.5 days"]
    now = datetime(2026, 11, 30, 23, 50)
    assert remaining(300, now) == "5:00 left, done at 23:55"
    assert remaining(900, now) == "15:00 left, done at Tue 1 Dec 00:05"
