"""Means and paired differences over seeds, with the number of seeds always said."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


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
