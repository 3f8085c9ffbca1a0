"""The random state around passes that draw the same numbers again, and what a recorded pass makes of it.

A CUDA graph takes its random numbers from where the generator is when it is replayed, and cannot go back. So a pass
that goes back is recorded only if nothing draws in it: then there is nothing to put back, and nothing is done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# for all threads: backward passes have their own on a GPU
_recording = False
_rewinds = 0


@contextmanager
def recording() -> Iterator[None]:
    """Inside, a pass in which nothing draws is recorded."""
    global _recording
    _recording = True
    try:
        yield
    finally:
        _recording = False


def rewinds() -> int:
    """How often the random state was put back so far."""
    return _rewinds


def goes_back() -> bool:
    """Whether whoever wants to put the random state back has to: not while a pass is recorded. It counts as done."""
    global _rewinds
    _rewinds += not _recording
    return not _recording


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Leaves the random state as it found it: what is drawn inside is drawn again by whoever comes next."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=goes_back()):
        yield
