"""Means and paired differences over seeds, how many seeds a difference needs, and the best of random draws."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

CONFIDENCE = 0.95
POWER = 0.8
MOST_PAIRS = 10_000


class Mean(NamedTuple):
    """The mean of ``n`` numbers and their sample standard deviation (n - 1), None for one number."""

    mean: float
    std: float | None
    n: int


class Difference(NamedTuple):
    """The mean difference over ``n`` pairs, and the ends of its 95 % interval, None for one pair."""

    mean: float
    low: float | None
    high: float | None
    n: int


def mean_of(values: Sequence[float]) -> Mean | None:
    """mean = Σ x / n and std = sqrt(Σ (x - mean)² / (n - 1)); None without values."""
    if not values:
        return None
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The difference from ``baseline`` over the seeds that both have: mean ± t · std / sqrt(n).

    t is the 97.5 % quantile of Student's distribution with n - 1 degrees of freedom. None without a common seed.
    """
    found = mean_of([values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())])
    if found is None or found.std is None:
        return None if found is None else Difference(found.mean, None, None, found.n)
    half = quantile(0.5 + CONFIDENCE / 2, found.n - 1) * found.std / math.sqrt(found.n)
    return Difference(found.mean, found.mean - half, found.mean + half, found.n)


def quantile(share: float, degrees: int) -> float:
    """The number below which a ``share`` of Student's t distribution with so many ``degrees`` of freedom lies."""
    from scipy.special import stdtrit  # here, as it takes a while to import

    return float(stdtrit(degrees, share))


def power(std: float, difference: float, n: int) -> float:
    """The probability that a two-sided paired t-test with n pairs finds a true ``difference`` at 5 %.

    With t the 97.5 % quantile of Student's distribution of n - 1 degrees of freedom, and T' the noncentral one with
    noncentrality d = difference * sqrt(n) / std: P(T' > t) + P(T' < -t). ``std`` is that of the differences of pairs.
    """
    from scipy.special import nctdtr

    t, shift = quantile(0.5 + CONFIDENCE / 2, n - 1), abs(difference) * math.sqrt(n) / std
    if shift > 100:  # scipy gives no number far out, where all of T' lies above t
        return 1.0
    return float(1 - nctdtr(n - 1, shift, t) + nctdtr(n - 1, shift, -t))


def pairs_needed(std: float, difference: float) -> int | None:
    """The least number of pairs with which :func:`power` is 80 %, None if it is more than 10,000.

    Raises ValueError if ``difference`` is 0 or ``std`` is negative.
    """
    if not difference or std < 0:
        raise ValueError(f"no number of pairs shows a difference of {difference} at a spread of {std}")
    if not std:
        return 2
    low, high = 1, 2
    while power(std, difference, high) < POWER:
        if high >= MOST_PAIRS:
            return None
        low, high = high, min(2 * high, MOST_PAIRS)
    while high - low > 1:  # power rises with n: `high` is enough, and `low` is not
        middle = (low + high) // 2
        low, high = (low, middle) if power(std, difference, middle) >= POWER else (middle, high)
    return high


def expected_best(values: Sequence[float], k: int) -> float:
    """The mean of the lowest of k numbers drawn from ``values`` without putting them back, over all draws.

    With the n values in ascending order it is Σ_i x_i · C(n - i, k - 1) / C(n, k), as x_i is the lowest where the other
    k - 1 are among the n - i above it.

    Raises ValueError if there are fewer than k values, or k is below 1.
    """
    n = len(values)
    if not 1 <= k <= n:
        raise ValueError(f"the best of {k} cannot be told from {n} values")
    ways = math.comb(n, k)
    return math.fsum(x * (math.comb(n - i, k - 1) / ways) for i, x in enumerate(sorted(values), start=1))
