"""What belongs to the whole process: torch's generators, its number of threads, cuDNN's settings. One run at a time has
them, and leaves them as they were."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastdarts.notices import Notice

_one_run = threading.RLock()  # a study is a run that may hold others in its thread


@contextmanager
def isolated() -> Iterator[None]:
    """Inside, no other run of this process works, and after it torch's global state is what it was before.

    A run in another thread waits for its turn, with a warning: both would draw from the same generator, and neither
    would give what it gives alone.
    """
    if not _one_run.acquire(blocking=False):
        # No notice, which FASTDARTS_STRICT=1 would make an error: waiting changes nothing but the time.
        warnings.warn(
            "another run works in this process, and torch has one generator for both: this one waits for its end; "
            "start it in a process of its own to work on both at a time",
            Notice,
            stacklevel=4,
        )
        _one_run.acquire()
    try:
        with _state_kept():
            yield
    finally:
        _one_run.release()


@contextmanager
def _state_kept() -> Iterator[None]:
    cudnn, threads = torch.backends.cudnn, torch.get_num_threads()
    flags = cudnn.deterministic, cudnn.benchmark
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = flags
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
