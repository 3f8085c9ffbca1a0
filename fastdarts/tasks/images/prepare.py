"""The images of a run, as its settings say."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

from fastdarts.errors import FastdartsError
from fastdarts.runs.checkpoint import find_checkpoint
from fastdarts.runs.run import CONFIG
from fastdarts.tasks.images.data import IMAGENET_SIDE, SIDE, ImageData, load_data
from fastdarts.tasks.images.settings import DataConfig


def prepare_data(config: DataConfig, load: Callable[..., ImageData] | None = None) -> tuple[ImageData, range]:
    """The images, and the indices of the training images in use; ``load(config, side=...)`` reads others than those of
    classes.

    Raises :class:`FastdartsError` on anything wrong with them, and if a run that goes on began with more, fewer or
    those of another size.
    """
    large = "imagenet" in (getattr(config, "stem", None), getattr(config, "variant", None))
    side = IMAGENET_SIDE if large else SIDE
    if load is None:
        data = load_data(config.dataset, config.data, config.image_size, config.test_portion, config.split_seed, side)
    else:
        data = load(config, side=side)
    count = len(data.train) if config.samples is None else config.samples
    if count > len(data.train):
        raise FastdartsError(f"--samples is {count}: {config.dataset} has {len(data.train)} training images")
    if config.resume is not None:
        _check_same(find_checkpoint(config.resume).parent, config, count, (data.channels, *data.size))
    return data, range(count)


def _check_same(folder: Path, config: DataConfig, count: int, shape: tuple[int, ...]) -> None:
    try:
        began = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        stored = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8"))
        images, began_shape = began["images"], tuple(began.get("image_shape", shape))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # stopped before they were written, or damaged, which others say
    remedy = "put the images back as they were, or start a new run with --run"
    # else the flag is refused, not the images
    if images != count and config.samples == stored.get("samples"):
        raise FastdartsError(f"there are {count} training images but the run in {folder} began with {images}: {remedy}")
    if began_shape != shape and config.image_size == stored.get("image_size"):
        ours, theirs = ("x".join(map(str, sides)) for sides in (shape, began_shape))
        raise FastdartsError(f"the images are {ours} but the run in {folder} began with {theirs}: {remedy}")
