"""The device of a run, and what is to be said about it."""

from __future__ import annotations

import os

import torch

from fastdarts import ranks
from fastdarts.engine.capture import Graphs
from fastdarts.errors import FastdartsError
from fastdarts.functional import native, why_no_kinks, why_plain
from fastdarts.runs.settings import RunConfig
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig
from fastdarts.waiting import busy_elsewhere, cores

BFLOAT16 = "avx512bf16"
"""The instruction set of CPUs with units for products of bfloat16."""


def prepare_device(config: RunConfig) -> torch.device:
    """The device meant by ``config``, with torch set up for repeatable results; raises :class:`FastdartsError` if it
    is absent, or has no CUDA graphs and ``config`` insists on them."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = named_device(config.device)
    Graphs(config.graphs, device)  # which says no before any work
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return device


def named_device(name: str) -> torch.device:
    """The device of this name, of several ranks their own; "auto" is the GPU if there is one.

    Raises :class:`FastdartsError` if it is absent.
    """
    given = name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = ranks.own_device(name)
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # the meta device has no values
    except (RuntimeError, AssertionError) as error:  # torch asserts when it was built without CUDA
        reason = str(error).splitlines()[0].partition(". ")[0]
        if "device type at start of device string" in reason or "Invalid device string" in reason:
            reason = "expected cpu, cuda, cuda:N or auto"
        raise FastdartsError(f"--device {given} cannot be used ({reason}): try --device cpu") from error
    return torch.device("cpu") if device.type == "cpu" else device  # there is one CPU, whatever its index


def check_kinks(config: SearchConfig, device: torch.device) -> str:
    """What is to be said about ``config.keep_kinks`` on ``device``, where no kernel keeps them; else "".

    Raises :class:`FastdartsError` if FASTDARTS_STRICT=1 forbids to compute without.
    """
    reason = why_no_kinks(device) if config.keep_kinks else ""
    return f"passes with kept kinks run in plain PyTorch, several times slower: {reason}" if reason else ""


def check_precision(config: SearchConfig | EvaluateConfig, device: torch.device) -> str:
    """What is to be said about ``config.precision`` on ``device``, where it is not the fastest way; else "".

    Raises :class:`FastdartsError` if it has no kernels and FASTDARTS_STRICT=1 forbids to compute without.
    """
    if config.precision == "float32":
        return ""
    if reason := why_plain(device, torch.bfloat16):
        return f"precision {config.precision} runs in plain PyTorch, several times slower: {reason}"
    if device.type == "cpu" and native()["isa"] != BFLOAT16:
        return (
            f"precision {config.precision} on a CPU without units for it is storage: it takes less memory than "
            "float32, and is not made to be faster"
        )
    return ""


def check_workers(config: SearchConfig | EvaluateConfig, device: torch.device) -> str:
    """What is to be said about ``config.workers`` on ``device``, where a GPU waits for images; else ""."""
    if device.type != "cuda" or getattr(config, "workers", None) != 0:
        return ""
    return (
        f"the GPU waits while the {config.batch_size} images of a batch are prepared, 0.1 ms for each: "
        f"--workers {max(1, min(8, (os.cpu_count() or 1) - 1))} prepares them meanwhile"
    )


def check_cores(device: torch.device) -> str:
    """What is to be said of other processes that take the cores; else ""."""
    if device.type != "cpu" or ranks.world() > 1:  # several ranks share a machine by intention
        return ""
    others = busy_elsewhere()
    if others + torch.get_num_threads() <= cores():
        return ""
    return (
        f"other processes compete for the {cores()} cores (busy threads: {others}): epochs take longer until they end"
    )
