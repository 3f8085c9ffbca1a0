"""Runs mixed_op's emulated CUDA kernels in a process that a sanitizer watches.

    python -m tests.support.emulated_runs LIBRARY [LOG]

Without LOG only the cases run: AddressSanitizer ends the process at the first fault. With LOG, where ThreadSanitizer
writes, they run again and again, each time without one of the barriers in the sources; printed is a JSON list of the
barriers that nobody missed.
"""

import ctypes
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.cases import MixedOpCase
from fastdarts.kernels import registry
from tests.support.emulated import CSRC

KINDS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "noise", "sep_conv_3x3", "dil_conv_5x5")
WATCHED = [  # several tiles in a chunk, blocks of channels, stages in a launch
    MixedOpCase("stride1", (7, 20, 3, 5), (KINDS, ("relu_conv_1x1", "sep_conv_5x5")), base=True, affine=True),
    MixedOpCase("stride2", (7, 20, 5, 5), ((*KINDS[:3], *KINDS[4:]),), 2),
]
ODD = [
    MixedOpCase("narrow", (2, 3, 5, 19), (KINDS, ("sep_conv_7x7",)), base=True),
    MixedOpCase("wide", (1, 40, 4, 9), (KINDS[4:],), 2, affine=True, training=False),
    MixedOpCase("one", (9, 1, 1, 1), (KINDS,)),
    MixedOpCase("outputs", (2, 12, 9, 4), (("dil_conv_3x3", "relu_conv_1x1"),), outputs=6),
    MixedOpCase("images", (41, 4, 2, 3), (KINDS[:1], KINDS[4:])),
]


def run(case: MixedOpCase, dtype: torch.dtype) -> None:
    tensors, grads = case.inputs(dtype)
    out = case.ours(tensors, "cuda", "store" if case.stride == 1 else "recompute").out
    torch.autograd.grad(out, [*tensors.values()], grads)


def barriers() -> Iterator[tuple[str, int]]:
    for path in sorted((CSRC / "cuda" / "mixed_op").iterdir()):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.match(r" *__syncthreads\(\);", line):
                yield path.name, number


def unmissed(library: str, log: Path) -> list[str]:
    """The barriers without which ThreadSanitizer finds no race."""

    def races() -> bool:
        """In any of the cases, until the first."""
        before = reports()
        return any(run(case, torch.bfloat16) or reports() != before for case in WATCHED)

    def reports() -> str:
        return "".join(path.read_text(encoding="utf-8") for path in log.parent.glob(f"{log.name}.*"))

    if races():
        sys.exit(reports())
    leave_out = ctypes.CDLL(library).device_leave_out
    found = []
    for file, line in barriers():
        name = file.encode()
        leave_out(name, line)
        if not races():
            found.append(f"{file}:{line}")
    leave_out(b"", 0)
    return found


def main(library: str, *log: str) -> None:
    torch.ops.load_library(library)
    with registry.on_cpu("fastdarts_emulated"):
        if log:
            print(json.dumps(unmissed(library, Path(*log))))
            return
        for precision in ("ieee", "tf32"):
            torch.backends.cudnn.conv.fp32_precision = precision
            for case in WATCHED + ODD:
                run(case, torch.float32)
        for case in WATCHED + ODD:
            run(case, torch.bfloat16)
            run(case, torch.float16)
        print("all cases ran")


if __name__ == "__main__":
    main(*sys.argv[1:])
