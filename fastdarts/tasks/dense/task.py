"""Disparity of two views, and semantic segmentation."""

from __future__ import annotations

from typing import Any

from fastdarts.tasks.dense import scores  # noqa: F401 - registers losses and metrics
from fastdarts.tasks.dense.labels import load_labels
from fastdarts.tasks.dense.objectives import Disparity, Segmentation
from fastdarts.tasks.dense.pairs import load_pairs
from fastdarts.tasks.dense.settings import (
    DENSE_RECIPE,
    DenseSupernetConfig,
    DisparityEvaluateConfig,
    DisparitySearchConfig,
    SegmentationEvaluateConfig,
    SegmentationSearchConfig,
)
from fastdarts.tasks.images.data import ImageData
from fastdarts.tasks.images.prepare import prepare_data
from fastdarts.tasks.images.task import ImageTask
from fastdarts.tasks.task import Metric, register_task


class DisparityTask(ImageTask):
    """Disparity of two views: L1 at all scales, measured by the end-point error."""

    name, title, learns_from = "disparity", "pairs of images", ""
    metric = Metric("valid_error", "valid end-point error", " px")
    settings = (DenseSupernetConfig, DisparitySearchConfig)
    evaluation, objective_type, recipe = DisparityEvaluateConfig, Disparity, DENSE_RECIPE

    def load(self, config: Any) -> tuple[ImageData, range]:
        return prepare_data(config, load_pairs)


class SegmentationTask(ImageTask):
    """The class of each pixel: cross-entropy at all scales, measured by the mean intersection over union."""

    name, title, learns_from = "segmentation", "classes of pixels", "disparity"
    metric = Metric("valid_error", "valid mean intersection over union error", " %")
    settings = (DenseSupernetConfig, SegmentationSearchConfig)
    evaluation, objective_type, recipe = SegmentationEvaluateConfig, Segmentation, DENSE_RECIPE

    def load(self, config: Any) -> tuple[ImageData, range]:
        return prepare_data(config, load_labels)


register_task(DisparityTask())
register_task(SegmentationTask())
