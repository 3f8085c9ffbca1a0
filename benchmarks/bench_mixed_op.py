"""Whole mixed operations, forward and backward with all gradients, at the widths of DARTS and of PC-DARTS."""

from collections.abc import Callable

import pytest

from fastdarts.bench.cases import SUITES, Case


@pytest.mark.parametrize("case", SUITES["mixed-op"], ids=str)
def bench_mixed_op(compare: Callable, case: Case) -> None:
    compare(case)


@pytest.mark.parametrize("case", SUITES["pc-darts"], ids=str)
def bench_pc_darts(compare: Callable, case: Case) -> None:
    compare(case)
