"""Early stopping by the largest eigenvalue, against published series and by hand."""

import pytest

from fastdarts import FastdartsError, early_stopping

EPOCHS = [*range(0, 50, 2), 49]
# S1 on CIFAR-10, no drop path, L2 3e-4: seeds 1 and 3 of the published logs
SEED_1 = [
    0.1788, 0.1482, 0.1703, 0.1464, 0.1211, 0.2488, 0.2311, 0.3595, 0.2246, 0.3859, 0.2085, 0.4298, 0.5083,
    0.2287, 0.4098, 0.5024, 0.4997, 0.25, 0.4574, 0.5168, 0.6438, 0.4592, 0.7071, 1.3192, 0.5272, 0.5212,
]  # fmt: skip
SEED_3 = [
    0.146, 0.2083, 0.3164, 0.1967, 0.2134, 0.1834, 0.3465, 0.2029, 0.25, 0.1714, 0.31, 0.3055, 0.2532,
    0.2609, 0.4074, 0.5918, 0.5956, 0.7893, 0.7326, 0.4814, 0.3652, 0.7857, 0.913, 0.3125, 0.8798, 1.0643,
]  # fmt: skip


@pytest.mark.parametrize(("series", "expected"), [(SEED_1, (22, 10)), (SEED_3, (30, 18))])
def test_published_series_stop_where_they_were_stopped(series, expected):
    assert early_stopping(EPOCHS, series) == early_stopping(EPOCHS, series, total_epochs=50) == expected
    # What comes later changes nothing, and nothing is known before.
    seen = EPOCHS.index(expected[0]) + 1
    assert early_stopping(EPOCHS[:seen], series[:seen]) == expected
    assert early_stopping(EPOCHS[: seen - 1], series[: seen - 1]) is None


def average(series, epoch):
    """The average that belongs to an epoch: two measurements to either side."""
    middle = epoch // 2
    return sum(series[middle - 2 : middle + 3]) / 5


@pytest.mark.parametrize("series", [SEED_1, SEED_3])
@pytest.mark.parametrize(("lag", "factor"), [(4, 1.3), (5, 0.75)])
def test_both_conventions_by_centred_averages(series, lag, factor):
    """The older epoch s is at least 10, the newer is s + 2 * lag, seen two measurements later."""
    ratios = {s: average(series, s + 2 * lag) / average(series, s) for s in range(10, 46 - 2 * lag, 2)}
    enough = 1.3 if factor == 1.3 else 1 / 0.75
    first = next((s for s, ratio in ratios.items() if ratio > enough), None)
    expected = None if first is None else (first + 2 * lag + 4, first)
    assert early_stopping(EPOCHS, series, lag=lag, factor=factor) == expected


def test_a_step_by_hand():
    # Averages of 1 belong to epochs up to 8 and rise by 0.2 (0.4, ...) from 10 on: 1.4 > 1.3 belongs to epoch 12.
    series = [1.0] * 7 + [2.0] * 10
    epochs = list(range(0, 34, 2))
    assert early_stopping(epochs, series, start=0) == (16, 4)
    assert early_stopping(epochs, series, start=6) == (18, 6)
    assert early_stopping(epochs, series, start=10) == (22, 10)  # 1.2 to 2
    assert early_stopping(epochs, series, start=14) is None
    assert early_stopping(epochs, series, start=0, factor=2.1) is None
    # A window of one measurement: no averaging and no delay.
    assert early_stopping([0, 1, 2, 3], [1, 1, 1, 2], window=1, lag=1, start=0) == (3, 2)


def test_an_even_window_returns_to_a_measured_epoch():
    # Averages of two belong to the earlier epoch: 1.5 to 20, 3 to 22; the first measurement alone belongs to none.
    assert early_stopping([20, 22, 24], [1, 2, 4], window=2, lag=1, start=0) == (24, 20)
    assert early_stopping([20, 22, 24], [1, 2, 4], window=4, lag=1, start=0) is None


def test_the_last_epoch_and_one_off_the_grid_are_not_tested():
    assert early_stopping([0, 1, 2, 3], [1, 1, 1, 2], window=1, lag=1, start=0, total_epochs=4) is None
    assert early_stopping([0, 2, 4, 5], [1, 1, 1, 2], window=1, lag=1, start=0) is None


def test_what_has_no_ratio_does_not_stop():
    for series in ([-1, -2, -3, -4], [0, 1, 0, 1], [1, -1, 1, -1]):
        assert early_stopping([0, 1, 2, 3], series, window=1, lag=1, start=0, factor=1.3) is None
        assert early_stopping([0, 1, 2, 3], series, window=1, lag=1, start=0, factor=0.75) is None
    assert early_stopping([], []) is None and early_stopping([0], [1.0]) is None


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (([0, 2], [1.0]), {}, "2 epochs and 1 eigenvalues"),
        (([0, 2], [1.0, float("nan")]), {}, "finite"),
        (([0, 2, 3, 5], [1.0] * 4), {}, "equal steps"),
        (([0, 2, 1], [1.0] * 3), {}, "equal steps"),
        (([0], [1.0]), {"window": 0}, "window=0"),
        (([0], [1.0]), {"lag": 0}, "lag=0"),
        (([0], [1.0]), {"window": 2.5}, "window=2.5, .* whole numbers"),
        (([0], [1.0]), {"lag": 1.0}, "lag=1.0, .* whole numbers"),
        (([0], [1.0]), {"factor": 1}, "factor=1"),
    ],
)
def test_nonsense_is_one_sentence(arguments, settings, words):
    with pytest.raises(FastdartsError, match=words):
        early_stopping(*arguments, **settings)
