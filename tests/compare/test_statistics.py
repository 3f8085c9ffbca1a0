"""Means and intervals against numbers from tables and by hand."""

import itertools
import math
import statistics

import pytest

from fastdarts.compare.statistics import expected_best, mean_of, paired, pairs_needed, power, quantile


@pytest.mark.parametrize(
    ("degrees", "value"),
    [(1, 12.706205), (2, 4.302653), (3, 3.182446), (4, 2.776445), (9, 2.262157), (30, 2.042272), (1000, 1.962339)],
)
def test_quantiles_are_those_of_printed_tables(degrees, value):
    assert quantile(0.975, degrees) == pytest.approx(value, abs=1e-6)


def test_a_standard_deviation_divides_by_n_minus_1():
    assert mean_of([2.0, 4.0, 9.0]) == (5.0, math.sqrt((9 + 1 + 16) / 2), 3)
    assert mean_of([2.0]) == (2.0, None, 1) and mean_of([]) is None


def test_differences_are_of_common_seeds():
    found = paired({1: 3.0, 2: 5.0, 3: 10.0, 9: 0.0}, {1: 1.0, 2: 4.0, 3: 7.0, 8: 50.0})
    half = 4.302653 * 1.0 / math.sqrt(3)  # of 2, 1 and 3, whose standard deviation is 1
    assert found.mean == 2.0 and found.n == 3
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert paired({1: 3.0}, {1: 1.0}) == (2.0, None, None, 1) and paired({1: 3.0}, {2: 1.0}) is None


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6), (2.0, 5)])
def test_pairs_are_those_of_printed_tables(effect, pairs):
    """Sample sizes of the paired t-test at 5 %, two-sided, for a power of 80 % (those of G*Power)."""
    assert pairs_needed(1.0, effect) == pairs_needed(3.0, -3 * effect) == pairs


def test_power_is_the_level_of_the_test_without_a_difference_and_1_for_a_huge_one():
    assert power(1.0, 0.0, 5) == pytest.approx(0.05) and power(1e-9, 50.0, 5) == 1.0
    assert power(1.0, 0.5, 34) == pytest.approx(0.8078, abs=1e-3)


def test_some_differences_need_more_pairs_than_anybody_has():
    assert pairs_needed(1.0, 1e-3) is None and pairs_needed(0.0, 1.0) == 2
    with pytest.raises(ValueError, match="no number of pairs"):
        pairs_needed(1.0, 0.0)


def test_the_best_of_k_is_the_mean_over_all_draws():
    values = [5.0, 1.0, 4.0, 2.0, 9.0]
    assert expected_best(values, 1) == pytest.approx(4.2) and expected_best(values, 5) == 1.0
    for k in (2, 3, 4):
        draws = [min(draw) for draw in itertools.combinations(values, k)]
        assert expected_best(values, k) == pytest.approx(statistics.fmean(draws))
    with pytest.raises(ValueError, match="the best of 6"):
        expected_best(values, 6)
