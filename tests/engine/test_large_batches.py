"""The host does the same for every batch: a step starts as many operations for 24 images as for two."""

from collections import Counter

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from fastdarts.bench.cases import OURS, EvaluationCase, StepCase


class Operations(TorchDispatchMode):
    """Counts them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[func.name()] += 1
        return func(*args, **(kwargs or {}))


def operations(case: StepCase | EvaluationCase) -> Counter[str]:
    work = case.work(OURS)
    work.run()  # which makes the state of optimizers
    with Operations() as counted:
        work.run()
    return counted.names


@pytest.mark.parametrize("kind", ["first order", "second order", "PC-DARTS", "evaluation"])
def test_a_step_starts_as_many_operations_for_every_batch(kind: str) -> None:
    def case(batch: int) -> StepCase | EvaluationCase:
        if kind == "evaluation":
            return EvaluationCase(channels=4, layers=3, batch=batch, size=16)
        return StepCase(kind == "second order", kind == "PC-DARTS", channels=8, layers=3, batch=batch, size=8)

    small, large = operations(case(2)), operations(case(24))
    assert small == large and sum(small.values()) > 100
