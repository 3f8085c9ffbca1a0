"""Runs mixed_op's emulated CUDA kernels in a process that a sanitizer watches, which ends it at the first fault.

    python -m tests.support.emulated_runs LIBRARY [races]

With the word "races" the cases run again and again in processes of their own, each without one of the barriers in the
sources; printed is a JSON list of the barriers that nobody misses.
"""

import ctypes
import json
import os
import re
import sys
from collections.abc import Iterator

import torch

from benchmarks.cases import MixedOpCase
from fastdarts.kernels import registry
from tests.support.emulated import CSRC

KINDS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "noise", "dropped_skip", "sep_conv_3x3", "dil_conv_5x5")
WATCHED = [  # several tiles in a chunk, blocks of channels, stages in a launch
    MixedOpCase("stride1", (7, 20, 3, 5), (KINDS, ("relu_conv_1x1", "sep_conv_5x5")), base=True, affine=True),
    MixedOpCase("stride2", (7, 20, 5, 5), ((*KINDS[:3], *KINDS[5:]),), 2),
]
ODD = [
    MixedOpCase("narrow", (2, 3, 5, 19), (KINDS, ("sep_conv_7x7",)), base=True),
    MixedOpCase("wide", (1, 40, 4, 9), (KINDS[5:],), 2, affine=True, training=False),
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


def races(library: str, dtype: torch.dtype, file: str = "", line: int = 0) -> bool:
    """Whether ThreadSanitizer ends a process that leaves out this barrier; none by default."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    if line:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    name = ctypes.create_string_buffer(file.encode())  # which the device keeps
    ctypes.CDLL(library).device_leave_out(name, line)
    for case in WATCHED:
        run(case, dtype)
    os._exit(0)


def main(library: str, *word: str) -> None:
    torch.ops.load_library(library)
    with registry.on_cpu("fastdarts_emulated"):
        if word:
            for dtype in (torch.float32, torch.bfloat16):  # which take other ways through the kernels
                assert not races(library, dtype), f"there are races in {dtype}"
            # half precision passes every barrier
            found = [at for at in barriers() if not races(library, torch.bfloat16, *at)]
            print(json.dumps([f"{file}:{line}" for file, line in found]))
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
