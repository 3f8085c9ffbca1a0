"""The most memory that a run has held, from its beginning to its end."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def begin_peak() -> None:
    """Forget the peaks of what this process has done before."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or not allowed: the peak is then that of the whole process
        _CLEAR.write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak since :func:`begin_peak`: on a GPU of tensors, on a CPU of the whole process with PyTorch.

    None where the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
