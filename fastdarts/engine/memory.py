"""How much memory a stretch of work takes, found without doing it: by running it on fake tensors.

Fake tensors have shapes, types and devices but no content. The very code that will run makes, keeps and drops them, so
that everything that lives at once is counted: parameters, gradients, momentum, what autograd keeps, other copies of
the weights. What a kernel takes for itself while it runs is added from its own account.
"""

from __future__ import annotations

import dataclasses
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastdarts.endings import is_no_memory
from fastdarts.errors import FastdartsError, OutOfMemory
from fastdarts.functional import working_memory
from fastdarts.ranks import alone, world
from fastdarts.runs.checks import AUTO, parse_bytes
from fastdarts.tasks.images.settings import ImageSupernetConfig
from fastdarts.tasks.settings import SupernetConfig

MODES = get_args(get_type_hints(ImageSupernetConfig)["memory"])  # the fastest first
POOLED = 256 * 1024  # bytes: what is smaller is left to malloc (csrc/cpu/result_memory.h)
SURE = 0.9  # of a GPU's memory: an allocator loses some, and estimates are off by a few percent
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True)
class Estimate:
    """Bytes of tensors.

    Attributes:
        peak: the most that live at once, from the first parameter to the end of the work.
        kept: what is left when it ends: parameters, buffers, the state of optimizers, gradients.
    """

    peak: int
    kept: int


def estimate(work: Callable[[], Any], device: torch.device) -> Estimate:
    """What ``work()`` would take if all tensors that it makes without naming a device were on ``device``.

    It must not depend on values: whatever number it reads from a tensor is 1. The random state stays as it is. The
    interpreter, its libraries and the images of the data set are not counted, nor what an allocator loses.
    """
    ledger = _Ledger()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of code that meets fake tensors; the work itself will warn
        with FakeTensorMode(), torch.device(device), ledger:
            left = work()
            kept = ledger.live + ledger.pool.live
            del left
    return Estimate(ledger.peak, kept)


class _Ledger(TorchDispatchMode):
    """Adds up the storages that live, each once, and what is kept around them."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0  # tensors that are not in the pool
        self.scratch = 0  # what kernels keep between their calls, in no tensor
        self.pool = _Pool()
        self._known: set[int] = set()

    @property
    def total(self) -> int:
        return self.live + self.scratch + self.pool.live + sum(self.pool.cached)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        native = func.namespace == "fastdarts" and any(t.device.type == "cpu" for t in tensors)
        for tensor in tensors:
            self._enter(tensor.untyped_storage(), native)
        blocks, between = working_memory(func, args)
        self.scratch = max(self.scratch, between)
        taken = [self._take(size, native) for size in blocks]
        self.peak = max(self.peak, self.total)
        for size, give in zip(blocks, taken, strict=True):
            give(size)
        return out

    def _enter(self, storage: torch.UntypedStorage, native: bool) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            give = self._take(storage.nbytes(), native)
            weakref.finalize(storage, self._leave, storage._cdata, storage.nbytes(), give)

    def _take(self, size: int, native: bool) -> Callable[[int], None]:
        """Counts ``size`` bytes; returns what counts them no more."""
        if native and size >= POOLED:
            self.pool.take(size)
            return self.pool.give
        self.live += size
        return self._drop

    def _drop(self, size: int) -> None:
        self.live -= size

    def _leave(self, key: int, size: int, give: Callable[[int], None]) -> None:
        self._known.discard(key)
        give(size)


class _Pool:
    """The memory of the native kernels' results, which is used again: csrc/cpu/block_cache.h says what is kept."""

    def __init__(self) -> None:
        self.live = self.most = 0
        self.cached: list[int] = []  # the longest unused first

    def take(self, size: int) -> None:
        self.live += size
        self.most = max(self.most, self.live)
        if size in self.cached:
            self.cached.remove(size)
            return
        while self.cached and self.live + sum(self.cached) > self.most * 3 // 2:
            del self.cached[0]

    def give(self, size: int) -> None:
        self.live -= size
        self.cached.append(size)


def fit(config: SupernetConfig, estimated: Callable[[SupernetConfig], Estimate]) -> tuple[SupernetConfig, str]:
    """``config`` with the least that makes a step fit into its ``max_memory``: first other ways to keep what backward
    needs, then batches in 2, 4, 8, ... parts, each with the fastest way that fits.

    Never less saving than ``config`` asks for. ``estimated`` says what a step takes. Returns the settings, and a line
    that says them with their estimate. Raises :class:`FastdartsError` if nothing fits.
    """
    first = estimated(config)
    limit = parse_bytes(config.max_memory, "--max-memory")
    at_once: dict[str, Estimate] = {config.memory: first}
    parts = config.accumulate
    while parts == config.accumulate or (config.batch_size >= 2 * parts and not config.why_whole()):
        for memory in MODES[MODES.index(config.memory) :]:
            if parts > config.accumulate:  # what grows with the batch cannot shrink by more than the parts
                before = at_once[memory]
                if before.kept + (before.peak - before.kept) * config.accumulate / parts > limit:
                    continue
            chosen = dataclasses.replace(config, memory=memory, accumulate=parts)
            found = first if chosen == config else estimated(chosen)
            at_once.setdefault(memory, found)
            if found.peak <= limit:
                why = "" if chosen == config else f", as {config.memory} takes {format_bytes(first.peak)}"
                return chosen, f"{_line(chosen, found)} of {format_bytes(limit)}{why}"
        parts *= 2
    raise FastdartsError(
        f"--max-memory is {config.max_memory} but a step takes {format_bytes(first.peak)}, and more than allowed with "
        "everything that saves memory: raise it, or lower --batch-size, --channels or --layers"
    )


def free_memory(device: torch.device) -> int | None:
    """Bytes that new tensors may take on a GPU; None for a CPU, where that is not known before."""
    if device.type != "cuda":
        return None
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserved - allocated


def measured_limit(text: str | None, free: int | None) -> str | None:
    """The setting ``max_memory``, with the amount that "auto" stands for: nine tenths of what is ``free`` on a GPU."""
    if text != AUTO:
        return text
    if free is None:
        raise FastdartsError(
            f"--max-memory is {AUTO}, but the device is a CPU, whose memory others use too: name an amount such as 4GiB"
        )
    return f"{int(SURE * free) // UNITS['MiB']}MiB"


@contextmanager
def explaining(
    batch: int, estimated: Callable[[int], Estimate], device: torch.device, smaller: str, spare: str = ""
) -> Iterator[None]:
    """Inside, whatever ends for want of a GPU's memory does so with a sentence that names the largest batch that fits.

    Args:
        batch: images of a step, of all ranks together.
        estimated: what a step on so many images takes on one rank.
        smaller: flags that make a network smaller.
        spare: another way out than a smaller batch.
    """
    free, ranks = free_memory(device), world()
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if free is None or not is_no_memory(error):
            raise
        with alone():  # the other ranks may be elsewhere
            own = -(-batch // ranks)
            whole = estimated(own)
            fits = ranks * largest_batch(own, whole, estimated, free)
        found = f"use --batch-size {fits}, which is estimated to fit" if fits else f"lower {smaller}"
        raise OutOfMemory(
            f"out of memory: a step on --batch-size {batch} takes an estimated {format_bytes(whole.peak)}, and "
            f"{format_bytes(free)} were free on {device}: {found}{spare and ', or use '}{spare}"
        ) from None


def largest_batch(batch: int, whole: Estimate, estimated: Callable[[int], Estimate], free: int) -> int:
    """The largest batch below ``batch``, which did not fit into ``free`` bytes, that is estimated to; 0 if none is.

    What did not fit takes more than is free, whatever its estimate says.
    """
    limit = SURE * min(free, whole.peak)
    half = max(batch // 2, 1)
    small = estimated(half)
    each = max((whole.peak - small.peak) / max(batch - half, 1), 1)
    fits = min(batch - 1, int(half + (limit - small.peak) / each))
    while fits > 1 and estimated(fits).peak > limit:  # as what a step takes is not quite a line
        fits = int(0.9 * fits)
    return fits if fits > 1 else 0


def _line(config: SupernetConfig, found: Estimate) -> str:
    parts = f" in {config.accumulate} parts" if config.accumulate > 1 else ""
    return f"memory {config.memory}{parts}: a step takes an estimated {format_bytes(found.peak)}"


def format_bytes(count: int) -> str:
    """Three digits and a unit: 1.86 GiB, 939 MiB."""
    unit = max((u for u, factor in UNITS.items() if count >= factor), key=UNITS.get, default="B")
    value = count / UNITS[unit]
    return f"{value:.{max(0, 2 - (value >= 10) - (value >= 100))}f} {unit}" if unit != "B" else f"{count} B"
