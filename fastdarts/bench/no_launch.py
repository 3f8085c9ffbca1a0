"""Triton's launches, prepared as for a GPU, counted, and left out: no GPU is needed."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import library
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from fastdarts.bench.host import Counts
from fastdarts.functional import ops_of

_numbers = itertools.count(1 << 16)


class _Driver:
    """The driver of a GPU that is not there; Triton asks it for nothing but this on the way to a launch."""

    def __init__(self) -> None:
        self.device = next(_numbers)  # kernels are kept by device, and those of another one must not be found

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class _Compiled:
    """What stands for a compiled kernel."""

    function, packed_metadata = 1, ()

    def __init__(self, counts: Counts):
        self.counts = counts

    def launch_metadata(self, *_: object) -> None:
        return None

    def run(self, *_: object) -> None:
        self.counts.launches += 1


@contextlib.contextmanager
def triton(device: str = "cpu") -> Iterator[Counts]:
    """Inside, ops of CPU tensors go the way of CUDA ones up to the launch; or those of CUDA tensors themselves.

    What that way does not take is left out of the time: setting results to a number, and the updates of flat weights,
    which are launches of another kind.
    """
    counts, real = Counts(), JITFunction._do_compile

    def compiled(self: JITFunction, key: str, signature: object, device: int, *_: object) -> _Compiled:
        counts.variants += 1
        return self.device_caches[device][0].setdefault(key, _Compiled(counts))

    def launched(launch: Callable, *arguments: Any) -> Any:
        results = launch(*arguments)
        counts.fill(results)
        return results

    def computed(reference: Callable, *arguments: Any) -> Any:
        with counts.leaving_out():
            return reference(*arguments)

    kind = type(next(iter(ops_of("mixed_op").values())))
    before, launch = driver._active, kind.launch
    JITFunction._do_compile = compiled
    kind.launch = lambda op, *arguments: launched(functools.partial(launch, op), *arguments)  # without the dispatcher
    if device == "cpu":
        driver.set_active(_Driver())
    try:
        with library._scoped_library("fastdarts", "IMPL") as ours:
            for folder in ("mixed_op", "mixed_sum", "interleave", "recurrent", "flat"):
                for name, op in ops_of(folder).items():
                    run = op.launch if op.triton else functools.partial(computed, op.reference)
                    ours.impl(name, run, device.upper(), allow_override=True)
            yield counts
    finally:
        JITFunction._do_compile, kind.launch = real, launch
        driver._active = before
