"""Whole steps of a search, alphas and weights, first and second order, and what a step of PC-DARTS is made of."""

from collections.abc import Callable

import pytest

from fastdarts.bench.cases import SUITES, Case


@pytest.mark.parametrize("case", [*SUITES["step"], *SUITES["partial"], *SUITES["nasbench201"]], ids=str)
def bench_step(compare: Callable, case: Case) -> None:
    compare(case)
