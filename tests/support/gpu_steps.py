"""Counts what a whole step does on a GPU, without one, and records it for docs/gpu.md; takes minutes.

    python -m tests.support.gpu_steps

The record, tests/data/gpu_steps.json, holds by precision and batch the launches and bytes of the public code, those
around the fused ops of fastdarts, and the calls of `mixed_op`, each with how often it comes. So the launches of any
implementation of `mixed_op` can be counted later without a step.
"""

import json
from collections import Counter as Tally
from typing import Any

import torch
from torch import Tensor

from fastdarts.bench import traffic
from fastdarts.bench.cases import EAGER, OURS, StepCase
from tests.support.paths import DATA

RECORD = DATA / "gpu_steps.json"
BATCHES = (64, 1024)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pack(value: Any) -> Any:
    """An argument of an op as JSON: of a tensor the shape and type, of a list of tensors only the first."""
    if isinstance(value, Tensor):
        return " ".join([str(value.dtype).removeprefix("torch."), *map(str, value.shape)])
    if isinstance(value, list | tuple):
        return [pack(one) for one in (value[:1] if value and isinstance(value[0], Tensor) else value)]
    return value


def unpack(value: Any) -> Any:
    """The same with tensors that hold no data."""
    if isinstance(value, str):
        dtype, *shape = value.split()
        return torch.empty([int(n) for n in shape], dtype=getattr(torch, dtype), device="meta")
    return [unpack(one) for one in value] if isinstance(value, list) else value


def count(case: StepCase, dtype: torch.dtype) -> dict[str, Any]:
    """Of one batch and precision."""
    calls: Tally = Tally()
    known = dict(traffic.TRAFFIC)

    def noting(name: str):
        def noted(*args):
            calls[json.dumps([name, [pack(one) for one in args]])] += 1
            return known[name](*args)

        return noted

    traffic.TRAFFIC.update({name: noting(name) for name in known})
    try:
        ours = traffic.count(case, OURS, dtype)["step"]
        warm = {key: number // 2 for key, number in calls.items()}  # the step before the counted one makes buffers
    finally:
        traffic.TRAFFIC.update(known)
    eager = traffic.count(case, EAGER, dtype)["step"]
    assert sum(warm.values()) * 2 == sum(calls.values())
    fused = sum(launch.moved for launch in ours.kernels)
    return {
        EAGER: {"launches": eager.launches, "bytes": eager.bytes},
        "around": {"launches": ours.launches - len(ours.kernels), "bytes": ours.bytes - fused},
        "calls": [[*json.loads(key), number] for key, number in warm.items()],
    }


def main() -> None:
    rows = {
        f"{name} N{batch}": count(StepCase(False, batch=batch), dtype)
        for name, dtype in DTYPES.items()
        for batch in BATCHES
    }
    RECORD.write_text(json.dumps(rows, separators=(",", ":")).replace("],[", "],\n[") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
