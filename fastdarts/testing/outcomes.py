"""What a run determines, and where two runs differ first."""

import json
import math
from pathlib import Path
from typing import Any

import torch

from fastdarts.runs.checkpoint import load_checkpoint
from fastdarts.runs.writer import read_metrics


def outcome(run: Path) -> dict[str, Any]:
    """Everything a run determines but for clocks: rows, results, the genotype, weights, alphas, optimizers, random
    state."""
    rows = [without_clocks(row) for row in read_metrics(run)]
    result = without_clocks(json.loads((run / "result.json").read_text(encoding="utf-8")))
    state = load_checkpoint(run / "checkpoint.pt", result["kind"])
    for name in ("config", "metrics", "elapsed"):
        state.pop(name, None)
    weights = [torch.load(f) for f in sorted(run.glob("weights*.pt"))]
    genotype = run / "genotype.json"
    text = genotype.read_text(encoding="utf-8") if genotype.exists() else None
    undone = [[without_clocks(json.loads(line)) for line in lines_of(f)] for f in sorted(run.glob("rollback_*.jsonl"))]
    return {"rows": rows, "result": result, "genotype": text, "state": state, "weights": weights, "undone": undone}


def without_clocks(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


def lines_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def difference(a: Any, b: Any, place: str = "") -> str:
    """Where two outcomes differ first, bit for bit; empty if nowhere."""
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b) and torch.equal(torch.signbit(a), torch.signbit(b))
        return "" if same else f"{place}: {(a - b).abs().max()}"
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{place}: {sorted(map(str, a.keys() ^ b.keys()))}"
        return next(filter(None, (difference(a[k], b[k], f"{place}.{k}") for k in a)), "")
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{place}: {len(a)} != {len(b)}"
        return next(
            filter(None, (difference(*pair, f"{place}[{i}]") for i, pair in enumerate(zip(a, b, strict=True)))), ""
        )
    return "" if a == b else f"{place}: {a} != {b}"


def alike(a: Any, b: Any) -> bool:
    """Whether two outcomes differ in nothing but rounding: other processors add in another order."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(alike(*pair) for pair in zip(a, b, strict=True))
    return math.isclose(a, b, rel_tol=1e-4) if type(a) is type(b) is float else a == b
