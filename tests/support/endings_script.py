"""A script that makes batches in processes and then ends in one of many ways: test_endings.py starts it.

`endings_script.py METHOD ENDING`: the start method of multiprocessing, or bench, and how it ends. It prints the numbers
of the processes that it has started.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable

import torch

from fastdarts.bench.measure import seconds_apart
from fastdarts.tasks.images.batches import Batches, Workers


class Numbers(torch.utils.data.Dataset):
    """Image i is the number of the process that reads it; a slow one is read for ever."""

    def __init__(self, slow: bool) -> None:
        self.slow = slow

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        while self.slow and index > 40:
            time.sleep(0.1)
        return torch.tensor([[[os.getpid()]]]), index


def whole(image: torch.Tensor) -> torch.Tensor:
    return image


def measured() -> Callable[[], None]:
    """A case of a benchmark that takes for ever."""
    print(os.getpid(), flush=True)
    return lambda: time.sleep(0.1)


def main(method: str, ending: str) -> None:
    if method == "bench":
        seconds_apart(10**6, False, measured)
    multiprocessing.set_start_method(method)
    data = Numbers(slow=ending == "slow")
    with Workers(2, data) as workers:
        pids = set()
        if ending != "slow":
            for number in range(3):
                pids |= {pid for x, _ in Batches(data, range(64), 4, whole, number, workers=workers).epoch(number)
                         for pid in x.flatten().tolist()}  # fmt: skip
        batches = Batches(data, range(64), 4, whole, 0, workers=workers).in_order()
        pids |= {int(next(batches)[0][0]) for _ in range(6)}
        print(*sorted(pids), flush=True)
        if ending == "exception":
            raise RuntimeError("a fault of the script")
        if ending in ("SIGINT", "SIGTERM", "SIGKILL"):
            os.kill(os.getpid(), getattr(signal, ending))
            time.sleep(60)
        if ending == "exit":
            os._exit(7)


if __name__ == "__main__":
    main(*sys.argv[1:])
