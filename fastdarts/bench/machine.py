"""What the numbers of a benchmark hold for: processor, GPU, versions, commit."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from fastdarts.bench.measure import copy_bandwidth, reason, sgemm_peak
from fastdarts.functional import native
from fastdarts.runs.writer import environment

SMI = "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit"


def machine(pinned: bool, device: str = "cpu") -> dict[str, Any]:
    """What the numbers hold for."""
    known = environment()
    facts = {name: known[name] for name in ("cpu", "threads", "torch", "fastdarts", "started")} | {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "isa": native()["isa"],
        "compiler": native()["compiler"],
        "malloc": "pinned" if pinned else "default",
        "sgemm_gflops": sgemm_peak(device) / 1e9,
    }
    if device == "cuda":
        facts |= {"triton": known["triton"], "copy_gb_per_s": copy_bandwidth(device) / 1e9} | gpu()
    return facts


def _commit() -> str | None:
    """The commit of the sources that run, with a + where they differ from it; None outside a repository."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=7",
        "--exclude=*",
        "--dirty=+",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def gpu() -> dict[str, Any]:
    """The GPU's name, memory and multiprocessors; driver, clocks and power limit if nvidia-smi says them."""
    device = torch.cuda.get_device_properties(0)
    facts = {
        "gpu": device.name,
        "gpu_gib": device.total_memory / 2**30,
        "multiprocessors": device.multi_processor_count,
    }
    command = ["nvidia-smi", f"--id=GPU-{device.uuid}", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return facts | {"nvidia_smi": reason(error)}
    return facts | dict(zip(SMI, answer.strip().split(", "), strict=True))
