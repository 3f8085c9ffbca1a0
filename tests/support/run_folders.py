"""Folders of runs that were never run: what a search or an evaluation leaves, with numbers of the test's choice."""

import json
from pathlib import Path
from typing import Any

import tomli_w

from fastdarts.spaces import parse_architecture

SETTINGS = {"dataset": "digits", "epochs": 2, "channels": 4, "layers": 3, "space": "darts"}


def genotype(name: str = "DARTS_V2") -> dict[str, Any]:
    """A published genotype as genotype.json holds it."""
    return parse_architecture(name).to_dict()


def write_search(
    folder: Path,
    method: str,
    seed: int,
    errors: list[float],
    found: dict[str, Any],
    result: dict[str, Any],
    **settings: Any,
) -> Path:
    """A finished search by ``method`` whose validation errors were these, epoch by epoch."""
    rows = [
        {"epoch": epoch, "train_loss": 2.0 / (epoch + 1), "valid_error": error, "skip_normal": 1, "seconds": 1.5}
        for epoch, error in enumerate(errors)
    ]
    whole = {"kind": "search", "method": method, "genotype": found, "valid_error": errors[-1], "seconds": 3.0} | result
    return _write(folder, rows, SETTINGS | {"method": method, "seed": seed} | settings, whole)


def write_evaluation(folder: Path, found: dict[str, Any], errors: list[float], **settings: Any) -> Path:
    """A finished evaluation whose trainings ended with these test errors."""
    rows = [
        {"seed": seed, "epoch": epoch, "train_loss": 1.0, "test_error": error, "test_loss": 1.0, "seconds": 1.0}
        for seed, error in enumerate(errors)
        for epoch in range(2)
    ]
    config = SETTINGS | {"genotype": json.dumps(found), "seed": 0, "seeds": len(errors)} | settings
    mean = sum(errors) / len(errors)
    result = {"kind": "evaluate", "genotype": found, "test_error": mean, "test_errors": errors, "seconds": 4.0}
    return _write(folder, rows, config, result | {"parameters": 3_349_342, "macs": 531_000_000})


def _write(folder: Path, rows: list[dict], config: dict, result: dict) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"device": "cpu (Xeon)"}), encoding="utf-8")
    (folder / "usage.json").write_text(json.dumps({"peak_memory": 2**20 * 100}), encoding="utf-8")
    return folder
