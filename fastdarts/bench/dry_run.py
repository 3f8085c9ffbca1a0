"""Launches in CUDA C++, prepared as for a GPU, counted, and left out: no GPU is needed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import library

from fastdarts.bench.host import Counts
from fastdarts.functional import ops_of


@contextlib.contextmanager
def cuda(name: str = "fastdarts_dry") -> Iterator[Counts]:
    """Inside, mixed_op of CPU tensors goes the way of CUDA ones up to the launch, by the ops of this library.

    A call goes through Python once more than on a GPU. What that way does not take is left out of the time: setting
    results to a number, and all other ops, which are launches of another kind.
    """
    counts, ops = Counts(), getattr(torch.ops, name)

    def launched(op: Callable, *arguments: Any) -> Any:
        results = op(*arguments)
        counts.launches += ops.dry_run(True)
        counts.fill(results)
        return results

    def computed(reference: Callable, *arguments: Any) -> Any:
        with counts.leaving_out():
            return reference(*arguments)

    ops.dry_run(True)
    try:
        with library._scoped_library("fastdarts", "IMPL") as ours:
            for folder in ("mixed_op", "mixed_sum", "interleave", "recurrent", "flat"):
                for op_name, op in ops_of(folder).items():
                    dry = folder == "mixed_op"
                    run = functools.partial(*((launched, getattr(ops, op_name)) if dry else (computed, op.reference)))
                    ours.impl(op_name, run, "CPU", allow_override=True)
            yield counts
    finally:
        ops.dry_run(False)
