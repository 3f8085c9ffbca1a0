"""Which model is meant by the folder of a run, the folder of a model, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdarts.errors import FastdartsError
from fastdarts.runs.run import CONFIG
from fastdarts.runs.settings import expanded
from fastdarts.runs.stored import is_number, read_table
from fastdarts.tasks.commands import evaluate_command
from fastdarts.trained.folder import ENDING, MODEL

PREFIX = "model_seed_"
"""Beginning of the name of a model's folder in the folder of a run; the seed follows."""


def model_folder(run: Path, seed: int) -> Path:
    """Where the evaluation in the folder ``run`` leaves the network of this seed."""
    return run / f"{PREFIX}{seed}"


def find_model(path: str | Path, seed: int | None = None) -> Path:
    """The folder or file of a model that ``path`` means: a run's folder, a model's folder, or a safetensors file.

    Of a run with several seeds it is the model of ``seed``. By default it is the one with the lowest validation error,
    or the first one if the run has no validation images. The test error never decides.

    Raises :class:`FastdartsError` with what to do where there is no model.
    """
    path = expanded(path)
    if (path.is_file() and path.suffix == ENDING) or (path / MODEL).is_file():
        if seed is not None:
            raise FastdartsError(f"--seed is {seed} but {path} is one model: leave it out, or give the run's folder")
        return path
    if not path.exists():
        raise FastdartsError(f"there is no {path}: give the folder of an evaluation or of a model")
    config = read_table(path / CONFIG) if path.is_dir() else None
    if config is None:
        raise FastdartsError(
            f"{path} is neither the folder of an evaluation nor a model: expected a folder with {CONFIG} or {MODEL}, "
            f"or a {ENDING} file that `fastdarts export` wrote"
        )
    models = finished_models(path)
    if not models:
        raise FastdartsError(_why_none(path, config))
    if seed is not None and seed not in models:
        known = ", ".join(map(str, models))
        raise FastdartsError(f"--seed is {seed}, which {path} has no model of: expected one of {known}")
    return models[min(models, key=lambda known: _rank(models[known], known)) if seed is None else seed]


def finished_models(run: Path) -> dict[int, Path]:
    """The finished models of a run by seed."""
    found = {path.name.removeprefix(PREFIX): path for path in run.glob(f"{PREFIX}*") if (path / MODEL).is_file()}
    return {int(seed): found[seed] for seed in sorted(filter(str.isdecimal, found), key=int)}


def _rank(folder: Path, seed: int) -> tuple[float, int]:
    training = (read_table(folder / MODEL) or {}).get("training")
    error = training.get("valid_error") if isinstance(training, dict) else None
    return (error if is_number(error) else float("inf"), seed)


def _why_none(run: Path, config: Mapping[str, Any]) -> str:
    """Why the folder of a run has no model, and what to do."""
    if "genotype" not in config:
        return (
            f"{run} is a search, which finds a genotype and trains no network of it: train one by "
            f"`{evaluate_command(run, config) or 'fastdarts evaluate'}`, and give the folder of that run"
        )
    if "bptt" in config:
        return (
            f"{run} is an evaluation on text: load, predict and export are for networks on images; the weights of the "
            f"language model are in {run / 'weights.pt'}, for fastdarts.spaces.recurrent.model.RNNModel"
        )
    result = read_table(run / "result.json")
    if result is None:
        return f"the evaluation in {run} is not finished: go on with `fastdarts evaluate --resume {run}`"
    return (
        f"{run} was made by a version that left no model: `fastdarts evaluate --resume {run}` makes it of the weights "
        "that are there, and trains nothing"
    )
