"""What is measured and how: times in turn, page faults, memory, and the machine's own peak."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.endings import follow_parent
from fastdarts.functional import release_memory

ROUNDS = 3, 101  # at least, at most
MIB = 2**20
SHORT = 1.0  # seconds: what takes longer does not notice how it finds the caches


class Timing(NamedTuple):
    """Seconds of each round, and page faults per call in their median round."""

    seconds: list[float]
    faults: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(sides: dict[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """Time the sides in turn (A B C A B C ...) for about ``seconds``, after a turn or two that are not timed.

    What disturbs the machine disturbs all sides alike, so that their ratios count where the times alone do not. A turn
    of a short side begins with a call that is not timed: whoever uses one side only never finds the caches as another
    left them, which costs fastdarts 15 % at C16 32×32 and the eager sides nothing.
    """
    lasted: dict[str, float] = {}
    begun = time.perf_counter()
    for turn in range(2):  # the first builds what is built once, the second lets the heap grow to its size
        if not turn or time.perf_counter() - begun < seconds:
            for name, run in sides.items():
                start = time.perf_counter()
                run()
                _wait()
                lasted[name] = time.perf_counter() - start
    times, faults = ({name: [] for name in sides} for _ in range(2))
    rounds, begun = 0, time.perf_counter()
    gc.collect()
    while rounds < ROUNDS[0] or (rounds < ROUNDS[1] and time.perf_counter() - begun < seconds):
        for name, run in sides.items():
            if lasted[name] < SHORT:
                run()
            _wait()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            start = time.perf_counter()
            run()
            _wait()
            times[name].append(time.perf_counter() - start)
            faults[name].append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        rounds += 1
    return {name: Timing(times[name], int(statistics.median(faults[name]))) for name in sides}


def _wait() -> None:
    """Until a GPU that is in use has done all it was asked for."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def pin_malloc() -> bool:
    """Make glibc's malloc keep what it has for the rest of this process; False where there is no such malloc.

    Under its defaults fresh buffers of several MiB come from the kernel and page-fault at every call, which slows eager
    PyTorch up to four times. From outside the same is
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1 MALLOC_TOP_PAD_=67108864.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        [mallopt(mmap_max, 0), mallopt(trim_threshold, -1), mallopt(top_pad, 64 * 2**20)]
    )


def give_back() -> None:
    """Return the memory of what is not used any more to the system, which a pinned malloc never does by itself."""
    gc.collect()
    release_memory()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def saved_bytes(forward: Callable[[], Tensor], *apart: Tensor) -> int:
    """Bytes that one forward pass keeps for its backward pass, each storage once, those of ``apart`` not at all."""
    known = {tensor.untyped_storage().data_ptr() for tensor in apart}
    kept = {}  # the storages themselves, so that none is freed and its address given to the next

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor.detach()  # a result itself, saved by what made it, would keep both alive for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def peak_memory(prepare: Callable[..., Callable[[], object]], *args: object) -> int:
    """Bytes by which the peak of a whole process exceeds its size before, over one call of ``prepare(*args)``.

    The process is a fresh one under malloc's defaults; ``prepare`` is a function of a module, as it is sent there.
    """
    return _apart(_peak_memory, prepare, *args)


def seconds_apart(seconds: float, pinned: bool, prepare: Callable[..., Callable[[], object]], *args: object) -> float:
    """The median time of what ``prepare(*args)`` returns, in a fresh process, which pins its malloc if told so."""
    return _apart(_seconds, prepare, *args, options=(seconds, pinned))


def _apart(measure: Callable, prepare: Callable[..., Callable[[], object]], *args: object, options: tuple = ()) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([prepare.__module__])
    with ProcessPoolExecutor(1, context, follow_parent, (partial(os._exit, 1),)) as pool:
        return pool.submit(measure, torch.get_num_threads(), prepare, args, *options).result()


def _seconds(
    threads: int, prepare: Callable[..., Callable[[], object]], args: tuple, seconds: float, pin: bool
) -> float:
    torch.set_num_threads(threads)
    if pin:
        pin_malloc()
    return interleave({"": prepare(*args)}, seconds)[""].median


def _peak_memory(threads: int, prepare: Callable[..., Callable[[], object]], args: tuple) -> int:
    torch.set_num_threads(threads)
    run = prepare(*args)
    give_back()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM falls to VmRSS
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def gpu_peak_memory(run: Callable[[], object]) -> int:
    """Bytes by which the tensors on the GPU exceed, at their peak, those before, over one call."""
    _wait()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    _wait()
    return torch.cuda.max_memory_allocated() - before


def captured(run: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
    """``run`` as a CUDA graph: what is returned replays its launches and returns the same tensors every time."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as the capture asks for: what is made once is made before it
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()

    def replay() -> dict[str, Tensor]:
        graph.replay()
        return results

    return replay


def copy_bandwidth(device: str, mib: int = 1024) -> float:
    """Bytes read and written per second by the copy of a large tensor."""
    a, b = (torch.ones(mib, 2**18, device=device) for _ in range(2))
    return 2 * a.nbytes / interleave({"copy": lambda: a.copy_(b)}, seconds=1.0)["copy"].median


def sgemm_peak(device: str = "cpu") -> float:
    """Floating-point operations per second of torch.mm on square float32 matrices."""
    size = 2048 if device == "cpu" else 8192
    a, b, out = (torch.randn(size, size, device=device) for _ in range(3))
    timing = interleave({"mm": lambda: torch.mm(a, b, out=out)}, seconds=1.0)
    return 2 * size**3 / timing["mm"].median


def conv_flops(model: nn.Module, forward: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions in one forward pass: 2 · outputs · C_in / groups · k²."""
    total = 0

    def count(conv: nn.Conv2d, _: tuple, out: Tensor) -> None:
        nonlocal total
        total += 2 * out.numel() * conv.weight[0].numel()

    hooks = [conv.register_forward_hook(count) for conv in model.modules() if isinstance(conv, nn.Conv2d)]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return total


def number(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return "failed"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def reason(error: Exception) -> str:
    """The first line of an error, with its kind."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
