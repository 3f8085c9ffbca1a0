"""How long a benchmark will take: said before its first case, corrected by every case that is done."""

from __future__ import annotations

from collections.abc import Sequence

from fastdarts.bench.cases import Case
from fastdarts.bench.measure import ROUNDS

# Shares of the machine's matrix-product peak at which the sides usually compute: eager NCHW, eager channels-last and
# fastdarts (docs/benchmarks.md). They only set what is said before anything is measured.
USUAL_SHARES = 0.025, 0.05, 0.3
CALLS = ROUNDS[0] + 3  # the rounds, two turns that are not timed, and one call for the bytes that are kept
APART = 15.0  # seconds: three processes that measure memory and import torch
COMPILING = 60.0


class Forecast:
    """Seconds that are left for ``cases``, each of which gets ``seconds`` or as many rounds as are needed.

    A case is expected to take its turns at the usual shares of ``sgemm_gflops``. What is done corrects what is left by
    the ratio of measured to expected seconds.
    """

    def __init__(self, cases: Sequence[Case], seconds: float, compile: bool, sgemm_gflops: float):
        self._expected = {case: self._expect(case, seconds, compile, sgemm_gflops) for case in cases}
        self._done = self._taken = 0.0

    @staticmethod
    def _expect(case: Case, seconds: float, compile: bool, sgemm_gflops: float) -> float:
        turn = sum(case.flops() / 1e9 / sgemm_gflops / share for share in USUAL_SHARES)
        return APART + COMPILING * compile + turn + max(seconds, CALLS * turn)

    @property
    def left(self) -> float:
        scale = self._taken / self._done if self._done else 1.0
        return scale * sum(self._expected.values())

    def after(self, case: Case, seconds: float) -> float:
        """The seconds that are left after ``case`` has taken ``seconds``."""
        self._done += self._expected.pop(case)
        self._taken += seconds
        return self.left


def format_duration(seconds: float) -> str:
    """``40 s``, ``7 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
