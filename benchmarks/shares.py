"""Where the time of a whole step goes: python -m benchmarks.shares [--json benchmarks/results/shares/MACHINE.json].

Every op of PyTorch and of fastdarts is timed where the dispatcher calls it, forward and backward, and counted to its
part of the step. What is left of a step that nothing watches is the host: Python, autograd and the choice of kernels.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastdarts.bench.cases import OURS, EvaluationCase, StepCase
from fastdarts.bench.machine import machine
from fastdarts.bench.measure import pin_malloc
from fastdarts.kernels.mixed_op.contract import FACTORIZED_REDUCE, RELU_CONV

CASES = StepCase(False), StepCase(True), EvaluationCase()
ROUNDS = 5
MIXED, PREPROCESS, STEM, JOINS, HEAD, UPDATES, OTHER, HOST = PARTS = (
    "mixed operations",
    "preprocessing",
    "stem",
    "concatenations and copies",
    "pooling, classifier, loss",
    "updates and clipping",
    "other operations",
    "host",
)
# The part of an op, by the beginning of its name, the first that fits.
NAMES = {
    "convolution": STEM,
    "mkldnn_convolution": STEM,
    "native_batch_norm": STEM,
    "cat": JOINS,
    "clone": JOINS,
    "copy": JOINS,
    "_to_copy": JOINS,
    "mean": HEAD,
    "addmm": HEAD,
    "mm": HEAD,
    "log_softmax": HEAD,
    "_log_softmax": HEAD,
    "nll_loss": HEAD,
    "topk": HEAD,
    "_foreach": UPDATES,
    "flat_": UPDATES,
    "addcmul": UPDATES,
    "addcdiv": UPDATES,
    "lerp": UPDATES,
}


def part_of(name: str, args: Sequence[Any]) -> str:
    """The part of a step that an op belongs to."""
    if name.startswith("mixed_op"):
        kinds = next(value for value in args if isinstance(value, list | tuple) and value and type(value[0]) is int)
        return PREPROCESS if {*kinds[1::4]} <= {FACTORIZED_REDUCE, RELU_CONV} else MIXED
    return next((part for begin, part in NAMES.items() if name.startswith(begin)), OTHER)


class Watch(TorchDispatchMode):
    """Adds up the seconds of every part, and of every op that belongs to none."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self.others: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        begun = time.perf_counter()
        result = op(*args, **(kwargs or {}))
        taken, name = time.perf_counter() - begun, op._schema.name.partition("::")[2]
        part = part_of(name, args)
        self.seconds[part] += taken
        if part == OTHER:
            self.others[name] += taken
        return result


def shares(run: Callable[[], object]) -> tuple[float, dict[str, float], dict[str, float]]:
    """Median seconds of a step, the seconds of its parts, and those of ops that belong to none."""
    run(), run()
    whole, watched = [], []
    for _ in range(ROUNDS):  # in turns, so that both see the same machine
        begun = time.perf_counter()
        run()
        whole.append(time.perf_counter() - begun)
        with Watch() as watch:
            run()
        watched.append(watch)
    seconds = {part: statistics.median(w.seconds[part] for w in watched) for part in PARTS}
    total = statistics.median(whole)
    seconds[HOST] = max(0.0, total - sum(seconds.values()))
    return total, seconds, {name: statistics.median(w.others[name] for w in watched) for name in watched[0].others}


def main() -> None:
    """Print, and write ``--json``."""
    parser = argparse.ArgumentParser(description="Where the time of a step goes.")
    parser.add_argument("--json", type=Path, help="file for everything measured")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pinned, rows = pin_malloc(), []
    for case in CASES:
        total, seconds, others = shares(case.work(OURS).run)
        rows.append({"case": str(case), "seconds": total, "parts": seconds})
        print(f"{case}: {total * 1e3:.0f} ms")
        for part, taken in seconds.items():
            print(f"  {part:28s} {taken / total:5.1%}")
        largest = sorted(others, key=others.__getitem__, reverse=True)[:4]
        print("  other: " + ", ".join(f"{name} {others[name] / total:.1%}" for name in largest))
    if options.json:
        command = shlex.join(["python", "-m", "benchmarks.shares", *sys.argv[1:]])
        report = {"machine": machine(pinned) | {"command": command}, "steps": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
