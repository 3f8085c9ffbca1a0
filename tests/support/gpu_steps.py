"""Counts what a whole step does on a GPU, without one, and records it for docs/gpu.md; takes minutes.

    python -m tests.support.gpu_steps

The record, tests/data/gpu_steps.json, holds by batch the launches and bytes of the public code, those around the fused
ops of fastdarts, and the calls of `mixed_op`, each with how often it comes. So the launches of any implementation of
`mixed_op` can be counted later, in any type, without a step.
"""

import json
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastdarts.bench import traffic
from fastdarts.bench.cases import EAGER, OURS, StepCase
from fastdarts.functional import TRAFFIC
from tests.support.paths import DATA

RECORD = DATA / "gpu_steps.json"
BATCHES = (64, 1024)


def pack(value: Any) -> Any:
    """An argument of an op as JSON: of a tensor the shape, of a list of tensors only the first."""
    if isinstance(value, Tensor):
        return " ".join(map(str, value.shape))
    if isinstance(value, list | tuple):
        return [pack(one) for one in (value[:1] if value and isinstance(value[0], Tensor) else value)]
    return value


def unpack(value: Any, dtype: torch.dtype) -> Any:
    """The same with tensors that hold no data."""
    if isinstance(value, str):
        return torch.empty([int(n) for n in value.split()], dtype=dtype, device="meta")
    return [unpack(one, dtype) for one in value] if isinstance(value, list) else value


@contextmanager
def noted() -> Iterator[Tally]:
    """How often each call of a fused op is counted inside, in JSON."""
    calls: Tally = Tally()
    fused = TRAFFIC["triton"]
    known = dict(fused)

    def noting(name: str) -> Callable:
        def counted(*args):
            calls[json.dumps([name, [pack(one) for one in args]])] += 1
            return known[name](*args)

        return counted

    fused.update({name: noting(name) for name in known})
    try:
        yield calls
    finally:
        fused.update(known)


def count(case: StepCase) -> dict[str, Any]:
    """Of one batch, in float32."""
    with noted() as calls:
        ours = traffic.count(case, OURS)["step"]
    assert all(number % 2 == 0 for number in calls.values())  # a step before the counted one makes buffers
    moved = sum(launch.moved for launch in ours.kernels)
    eager = traffic.count(case, EAGER)["step"]
    return {
        "eager": {"launches": eager.launches, "bytes": eager.bytes},
        "around": {"launches": ours.launches - len(ours.kernels), "bytes": ours.bytes - moved},
        "calls": [[*json.loads(key), number // 2] for key, number in calls.items()],
    }


def main() -> None:
    rows = {f"N{batch}": count(StepCase(False, batch=batch)) for batch in BATCHES}
    RECORD.write_text(
        json.dumps(rows, separators=(",", ":")).replace('],["fast', '],\n["fast') + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
