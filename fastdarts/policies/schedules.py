"""Learning rates of the weights that do not follow the cosine of DARTS."""

from __future__ import annotations

import math
from collections.abc import Sequence


def restarts(highest: float, lowest: float, epochs: int, first: int, warmup: int = 0) -> Sequence[float]:
    r"""Cosines that begin anew (Loshchilov and Hutter 2017): the rate of each epoch.

    Epoch t of a period of T has :math:`l + (h - l) (1 + \cos(\pi t / T)) / 2`, with h the ``highest`` and l the
    ``lowest`` rate. The ``first`` period has so many epochs, and each next one twice as many as the one before.

    In the first ``warmup`` epochs the rate rises by equal steps instead.
    """
    found, begin, period = [], 0, first
    for epoch in range(epochs):
        if epoch == begin + period:
            begin, period = epoch, 2 * period
        rate = lowest + (highest - lowest) * (1 + math.cos(math.pi * (epoch - begin) / period)) / 2
        found.append(highest * (epoch + 1) / warmup if epoch < warmup else rate)
    return found


def cosine_power(highest: float, lowest: float, epochs: int, power: float, warmup: int = 0) -> Sequence[float]:
    r"""Cosine power annealing of sharpDARTS (Hundt et al. 2019, section 3.3): the rate of each epoch.

    With :math:`c_t = (1 + \cos(\pi t / T)) / 2` for t = 1 to T, :math:`x^{c_t + 1}` goes from ``highest`` to
    ``lowest``, brought to these by its own largest and least value. x is the ``power``, at least 1; for x = 1 it is
    :math:`c_t`.

    With a ``warmup`` of W epochs, T is W less and t begins at 1 - W. Epochs 0 to W then rise to ``highest`` by equal
    steps instead.
    """
    count = epochs - warmup
    shares = [(1 + math.cos(math.pi * t / count)) / 2 for t in range(1 - warmup, count + 1)]
    raw = shares if power == 1 else [power ** (share + 1) for share in shares]
    least, span = min(raw), max(raw) - min(raw)
    found = [(q - least) / span if span else 1.0 for q in raw]
    found[: warmup + 1] = [(epoch + 1) / (warmup + 1) for epoch in range(warmup + 1)]
    return [lowest + (highest - lowest) * share for share in found]
