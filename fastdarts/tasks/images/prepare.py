"""The images of a run, as its settings say."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from fastdarts.errors import FastdartsError
from fastdarts.runs.checkpoint import (
    find_checkpoint,
)
from fastdarts.runs.run import CONFIG
from fastdarts.tasks.images.data import ImageData, load_data
from fastdarts.tasks.images.settings import DataConfig


def prepare_data(config: DataConfig) -> tuple[ImageData, range]:
    """The images, and the indices of the training images in use; raises :class:`FastdartsError` on anything wrong
    with them, and if a run that goes on began with more or fewer."""
    data = load_data(config.dataset, config.data, config.image_size, config.test_portion)
    count = len(data.train) if config.samples is None else config.samples
    if count > len(data.train):
        raise FastdartsError(f"--samples is {count}: {config.dataset} has {len(data.train)} training images")
    if config.resume is not None:
        _check_count(find_checkpoint(config.resume).parent, config.samples, count)
    return data, range(count)


def _check_count(folder: Path, samples: int | None, count: int) -> None:
    try:
        began = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["images"]
        stored = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return  # stopped before they were written, or damaged, which others say
    if began != count and samples == stored.get("samples"):  # else the flag is refused, not the images
        raise FastdartsError(
            f"there are {count} training images but the run in {folder} began with {began}: put the images back as "
            "they were, or start a new run with --run"
        )
