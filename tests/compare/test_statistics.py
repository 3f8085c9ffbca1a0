"""Means and intervals against numbers from tables and by hand."""

import math

import pytest

from fastdarts.compare.statistics import mean_of, paired, quantile


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
