"""How the threads of OpenMP wait for each other: chosen before PyTorch loads OpenMP, by what else the machine does.

A thread that has nothing to do either spins, which costs a core, or sleeps, which costs a wake-up for each kernel. By
default it spins for milliseconds. On a busy machine it then takes the time of the thread that it waits for.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from statistics import median

SPIN = "20000"  # rounds, some 50 µs: an idle machine loses nothing, and a busy one half as much as by the default
SLEEP = "1000"
BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_LOAD = Path("/proc/loadavg")


def choose_waiting(arguments: Sequence[str], environ: MutableMapping[str, str] = os.environ) -> None:
    """Set GOMP_SPINCOUNT for a command line, unless the user has chosen: threads spin for a bounded time, or next to
    none where other processes leave them too few cores. It has no effect on results."""
    if any(name in environ for name in BY_USER):
        return
    found = re.search(r"--threads[= ](\d{1,5})\b", " ".join(arguments))
    threads = int(found[1]) if found else cores()
    environ["GOMP_SPINCOUNT"] = SLEEP if busy_elsewhere() > max(0, cores() - threads) else SPIN


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_elsewhere(reads: int = 5, pause: float = 0.004) -> int:
    """How many threads of other processes run or wait for a core, as the median of some reads; 0 where the system
    does not say."""
    found = []
    for number in range(reads):
        if number:
            time.sleep(pause)
        try:
            running = int(_LOAD.read_text(encoding="ascii").split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return 0
        found.append(running - 1)  # this process runs as it reads
    return max(0, int(median(found)))
