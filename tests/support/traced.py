"""What Triton kernels load and store, seen through the interpreter (in a process with TRITON_INTERPRET=1).

`trace` keeps, for every launch, the kernel's name and, by argument, the distinct bytes that all programs together load
and store: what a launch must move even if nothing is ever loaded twice. What a launch loads after it stored it counts
as stored only. Tables of 32-bit integers, a few hundred bytes that say what to do, are not counted.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder


class Launch(NamedTuple):
    """One launch: its programs, distinct bytes by argument, and all bytes that are asked for, each time again."""

    kernel: str
    programs: int
    reads: dict[str, int]
    writes: dict[str, int]
    loads: int

    @property
    def moved(self) -> tuple[int, int]:
        """Distinct bytes read and written."""
        return sum(self.reads.values()), sum(self.writes.values())


@contextmanager
def trace() -> Iterator[list[Launch]]:
    """The launches of the block, in their order."""
    launches: list[Launch] = []
    loaded: list[np.ndarray] = []
    stored: list[np.ndarray] = []
    run, load, store = (
        GridExecutor.__call__,
        InterpreterBuilder.create_masked_load,
        InterpreterBuilder.create_masked_store,
    )

    def touched(ptrs, mask) -> np.ndarray:
        """(address, size) of the values; the interpreter's pointers are addresses."""
        addresses = ptrs.data[np.broadcast_to(mask.data.astype(bool), ptrs.data.shape)].astype(np.uint64)
        size = ptrs.get_element_ty().primitive_bitwidth // 8
        return np.stack([addresses.ravel(), np.full(addresses.size, size, np.uint64)])

    def traced_load(self, ptrs, mask, *args):
        loaded.append(touched(ptrs, mask))
        return load(self, ptrs, mask, *args)

    def traced_store(self, ptrs, value, mask, *args):
        stored.append(touched(ptrs, mask))
        return store(self, ptrs, value, mask, *args)

    def traced_run(self, *args, **kwargs) -> None:
        loaded.clear(), stored.clear()
        run(self, *args, **kwargs)
        named = dict(zip(self.arg_names, args, strict=False)) | kwargs
        tensors = [
            (name, tensor)
            for name, value in named.items()
            for tensor in (value if isinstance(value, tuple) else (value,))
            if isinstance(tensor, torch.Tensor)
        ]
        writes = np.unique(np.concatenate(stored, 1), axis=1)
        everything = np.concatenate(loaded, 1)
        reads = np.unique(everything, axis=1)
        reads = reads[:, ~np.isin(reads[0], writes[0])]
        asked = by_argument(everything, tensors)
        parts = by_argument(reads, tensors), by_argument(writes, tensors)
        launches.append(Launch(self.fn.__name__, math.prod(self.grid), *parts, sum(asked.values())))

    GridExecutor.__call__ = traced_run
    InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store = traced_load, traced_store
    try:
        yield launches
    finally:
        GridExecutor.__call__ = run
        InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store = load, store


def by_argument(touched: np.ndarray, tensors: list[tuple[str, torch.Tensor]]) -> dict[str, int]:
    """Bytes of (address, size) by the first argument whose storage holds them."""
    found: dict[str, int] = defaultdict(int)
    addresses, sizes = touched
    left = np.ones(len(addresses), bool)
    for name, tensor in tensors:
        begin = tensor.untyped_storage().data_ptr()
        inside = left & (addresses >= begin) & (addresses < begin + tensor.untyped_storage().nbytes())
        left &= ~inside
        if tensor.dtype is not torch.int32 and inside.any():
            found[name] += int(sizes[inside].sum())
    assert not left.any(), "a kernel touched what is none of its arguments"
    return dict(found)
