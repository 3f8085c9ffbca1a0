"""The host does the same for every batch: a step starts as many operations for 24 images as for two."""

import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastdarts.bench.cases import OURS, EvaluationCase, StepCase
from fastdarts.engine.device import check_workers
from fastdarts.tasks.settings import SearchConfig, resolve


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


def test_on_a_gpu_images_are_better_prepared_by_others() -> None:
    gpu, config = torch.device("cuda"), resolve(SearchConfig(batch_size=1024))
    text = check_workers(config, gpu)
    assert re.search(r"waits while the 1024 images of a batch are prepared, .*: --workers [1-8] prepares them", text)
    assert not check_workers(config, torch.device("cpu"))
    assert not check_workers(replace(config, workers=4), gpu)
    assert not check_workers(resolve(SearchConfig(space="rnn")), gpu)  # a text has no images
