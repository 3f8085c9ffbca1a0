"""Rotation, jigsaw and colourisation: tasks without labels."""

from __future__ import annotations

from fastdarts.tasks.images.task import ImageTask
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


class RotationTask(ImageTask):
    """How far images are turned."""

    name, title = "rotation", "turned images"
    settings = (ImageSupernetConfig, PretextSearchConfig)
    evaluation, objective_type, recipe = RotationEvaluateConfig, Rotation, TILES
    has = ImageTask.has | {"class logits"}


class JigsawTask(ImageTask):
    """In which order tiles of images are."""

    name, title = "jigsaw", "tiles of images"
    settings = (JigsawSupernetConfig, WholeSearchConfig)
    evaluation, objective_type, recipe = JigsawEvaluateConfig, Jigsaw, TILES
    has = ImageTask.has | {"class logits"}


class ColourisationTask(ImageTask):
    """Which colours the pixels of grey images have."""

    name, title = "colourisation", "colours of images"
    metric = Metric("valid_error", "valid error of pixels", " %")
    settings = (ColourSupernetConfig, WholeSearchConfig)
    evaluation, objective_type, recipe = ColourisationEvaluateConfig, Colourisation, PIXELS


register_task(RotationTask())
register_task(JigsawTask())
register_task(ColourisationTask())
