"""Rotation, jigsaw and colourisation: tasks without labels."""

from __future__ import annotations

from typing import Any

from fastdarts.tasks.images.data import ImageData
from fastdarts.tasks.images.prepare import prepare_data
from fastdarts.tasks.images.task import ImageTask
from fastdarts.tasks.pretext.images import load_images
from fastdarts.tasks.pretext.objectives import Colourisation, Jigsaw, Rotation
from fastdarts.tasks.pretext.settings import (
    PIXELS,
    TILES,
    ColourisationEvaluateConfig,
    ColourSupernetConfig,
    ImageSupernetConfig,
    JigsawEvaluateConfig,
    JigsawSupernetConfig,
    PretextSearchConfig,
    RotationEvaluateConfig,
    WholeSearchConfig,
)
from fastdarts.tasks.task import Metric, register_task


class PretextTask(ImageTask):
    """What is learned of images themselves; nobody looks at their labels."""

    def load(self, config: Any) -> tuple[ImageData, range]:
        """The images, which need no class folders."""
        return prepare_data(config, load_images)


class RotationTask(PretextTask):
    """How far images are turned."""

    name, title = "rotation", "turned images"
    settings = (ImageSupernetConfig, PretextSearchConfig)
    evaluation, objective_type, recipe = RotationEvaluateConfig, Rotation, TILES
    has = ImageTask.has | {"class logits"}


class JigsawTask(PretextTask):
    """In which order tiles of images are."""

    name, title = "jigsaw", "tiles of images"
    settings = (JigsawSupernetConfig, WholeSearchConfig)
    evaluation, objective_type, recipe = JigsawEvaluateConfig, Jigsaw, TILES
    has = ImageTask.has | {"class logits"}


class ColourisationTask(PretextTask):
    """Which colours the pixels of grey images have."""

    name, title = "colourisation", "colours of images"
    metric = Metric("valid_error", "valid error of pixels", " %")
    settings = (ColourSupernetConfig, WholeSearchConfig)
    evaluation, objective_type, recipe = ColourisationEvaluateConfig, Colourisation, PIXELS


register_task(RotationTask())
register_task(JigsawTask())
register_task(ColourisationTask())
