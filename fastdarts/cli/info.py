"""The command ``fastdarts info``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Info:
    """Say what runs here: a verdict, versions, and for each operation and device the implementation and why."""

    json: bool = False
    """JSON instead of text."""

    def run(self) -> None:
        """Print the table."""
        from fastdarts.functional import implementations, native
        from fastdarts.runs.writer import environment

        facts = {
            "environment": {k: v for k, v in environment().items() if k not in ("command", "started")},
            "native": native(),
            "implementations": [row._asdict() for row in implementations()],
        }
        facts = {"verdict": verdict(facts, _gpu())} | facts
        if self.json:
            print(json.dumps(facts, indent=2))
            return
        print(facts["verdict"] + "\n")
        for name, value in (facts["environment"] | {f"native {k}": v for k, v in facts["native"].items()}).items():
            print(f"{name:20} {value}")
        for row in facts["implementations"]:
            mark = "yes" if row["available"] else "no"
            print(f"{row['op']:20} {row['device']:5} {row['name']:10} {mark:4} {row['reason']}")


def _gpu() -> str:
    """The name of the GPU; "" without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def verdict(facts: Mapping[str, Any], gpu: str) -> str:
    """One line: where searches run here, by which kernels, and what makes them faster.

    facts: those of ``fastdarts info --json``; gpu: the name of the GPU, "" without one.
    """
    native, threads = facts["native"], facts["environment"]["threads"]
    if not native["loaded"] and not gpu:
        return (
            f"SLOW: searches run on the CPU by plain PyTorch, as there are no compiled kernels ({native['reason']}). "
            "Install a C++ compiler and install fastdarts again."
        )
    if not gpu:
        said = "1 thread" if threads == 1 else f"{threads} threads"
        return f"READY: searches run on the CPU, {said}, by compiled kernels for {native['isa']}. No GPU was found."
    rows = [row for row in facts["implementations"] if row["device"] == "cuda"]
    having = {row["op"] for row in rows if row["available"]}
    if lacking := sorted({row["op"] for row in rows} - having):
        reason = next(row["reason"] for row in rows if row["op"] == lacking[0])
        return (
            f"READY, but not at full speed: searches run on the GPU {gpu}; {len(lacking)} operations have no kernel "
            f"for it, such as {lacking[0]} ({reason})."
        )
    return f"READY: searches run on the GPU {gpu}, with kernels for all {len(having)} operations."
