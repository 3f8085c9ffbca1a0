"""Kinds of settings: the type of a field together with the range of its values.

A field says all that can be checked without the other fields: ``tau_start: Positive = 10.0``.
"""

from __future__ import annotations

import math
import os
from typing import Annotated, NamedTuple

LEAST = 1e-30
"""The least number above 0: float32 computes with a smaller one as with 0."""
MOST = 1e30
"""The largest number: with rates and whole numbers it has products that fit into float32."""


class Range(NamedTuple):
    """The values that a setting may have: from ``low`` to ``high``, ``low`` itself only if ``closed``."""

    low: float
    high: float
    closed: bool = True

    def expected(self, value: float) -> str:
        """What the setting must be if ``value`` is outside; "" if it is inside."""
        if isinstance(value, float) and not math.isfinite(value):
            return "a finite number"
        if value < self.low or (value == self.low and not self.closed):
            return "0 or more" if self.closed and self.low == 0 else "a number above 0"
        if 0 < value < LEAST:
            return f"at least {LEAST}"
        if value > self.high:
            return f"at most {self.high}"
        return ""


class Share(NamedTuple):
    """From 0 to less than 1."""

    def expected(self, value: float) -> str:
        """What the setting must be if ``value`` is outside; "" if it is inside."""
        if isinstance(value, float) and not math.isfinite(value):
            return "a finite number"
        return "" if 0 <= value < 1 else "at least 0 and less than 1"


Positive = Annotated[float, Range(0, MOST, closed=False)]
NotNegative = Annotated[float, Range(0, MOST)]
Portion = Annotated[float, Share()]
"""A share of something: 0 or more, less than 1."""
Factor = Annotated[float, Range(0, 1, closed=False)]
"""Above 0, at most 1."""
Count = Annotated[int, Range(1, 10**9)]
NotNegativeInt = Annotated[int, Range(0, 10**9)]
Epochs = Annotated[int, Range(1, 10**6)]
EpochsOrNone = Annotated[int, Range(0, 10**6)]
"""A number of epochs that may be 0."""
Batch = Annotated[int, Range(1, 10**6)]
Width = Annotated[int, Range(1, 10**5)]
"""Channels, pixels, time steps: what decides how large a tensor is."""
Few = Annotated[int, Range(1, 1000)]
"""A number of parts that are made one by one, such as cells."""
Nodes = Annotated[int, Range(1, 100)]
Seeds = Annotated[int, Range(1, 10**4)]
Seed = Annotated[int, Range(0, 2**31 - 1)]
Workers = Annotated[int, Range(0, 61 if os.name == "nt" else 1000)]  # Windows waits for no more
