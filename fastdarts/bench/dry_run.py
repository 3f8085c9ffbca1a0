"""Launches in CUDA C++, prepared as for a GPU, counted, and left out: no GPU is needed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import library

from fastdarts.bench.host import Counts
from fastdarts.functional import on_cpu, ops_of


@contextlib.contextmanager
def cuda(name: str = "fastdarts_dry") -> Iterator[Counts]:
    """Inside, mixed_op of CPU tensors goes the way of CUDA ones up to the launch, by the ops of this library.

    Results are zeros, which a GPU does not set. Ops of other kinds are left out of the time.
    """
    ops = getattr(torch.ops, name)
    counts = Counts(elsewhere=lambda: ops.dry_run(True))

    def computed(reference: Callable, *arguments: Any) -> Any:
        with counts.leaving_out():
            return reference(*arguments)

    ops.dry_run(True)
    try:
        with on_cpu(name, *ops_of("mixed_op")), library._scoped_library("fastdarts", "IMPL") as ours:
            for folder in ("mixed_sum", "interleave", "recurrent", "flat"):
                for op_name, op in ops_of(folder).items():
                    ours.impl(op_name, functools.partial(computed, op.reference), "CPU", allow_override=True)
            yield counts
    finally:
        counts.launches, counts.elsewhere = counts.launches + ops.dry_run(False), int
