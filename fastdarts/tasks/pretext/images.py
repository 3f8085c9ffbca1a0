"""The images of tasks without labels: those of every dataset, and folders without class folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastdarts.errors import FastdartsError
from fastdarts.runs.settings import expanded
from fastdarts.tasks.images.data import SIDE, ImageData, load_data, read_files
from fastdarts.tasks.images.folder import hold_out, images_in, in_hash_order, part_named
from fastdarts.tasks.images.pictures import shown
from fastdarts.tasks.images.source import check_unused

UNLABELLED = "unlabelled"
"""What the only class of such a folder is called."""


def load_images(config: Any, side: int = SIDE) -> ImageData:
    """The images that the settings mean. Images of a folder may lie in it without class folders, or so in its train/
    and test/ (or val/).

    Raises :class:`FastdartsError` as :func:`fastdarts.tasks.images.data.load_data` does.
    """
    root = expanded(config.data) if config.dataset == "folder" and config.data is not None else None
    found = _flat(root, config) if root is not None and os.path.isdir(root) else None
    if found is None:
        settings = config.dataset, config.data, config.image_size, config.test_portion, config.split_seed
        return load_data(*settings, side)
    train, test = ([(file, 0) for file in part] for part in found)
    return read_files(root, train, test, (UNLABELLED,), config.image_size, side, "no labels")


def _flat(root: Path, config: Any) -> tuple[list[str], list[str]] | None:
    """Training and test files of a folder without class folders; None for another one."""
    if files := images_in(root):
        if len(files) < 3:
            raise FastdartsError(f"{shown(root)} has {len(files)} images: expected three or more, or class folders")
        train, test = hold_out({UNLABELLED: files}, config.test_portion, root, config.split_seed)
        return in_hash_order(train[UNLABELLED], root), test[UNLABELLED]
    folders = {part_named(entry.name): images_in(Path(entry)) for entry in os.scandir(root) if entry.is_dir()}
    held = next((name for name in ("test", "val") if folders.get(name)), None)
    if None in folders or held is None or not folders.get("train"):
        return None
    check_unused(config.test_portion, config.split_seed, f"{shown(root)} has a test set, {held}/")
    return in_hash_order(folders["train"], root), folders[held]
