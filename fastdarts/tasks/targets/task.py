"""Regression and multi-label classification of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.tasks.images.data import ImageData, labels_of
from fastdarts.tasks.images.losses import BINARY, FOCAL
from fastdarts.tasks.images.objective import BALANCED, Objective, check_weighted, parse_weights
from fastdarts.tasks.images.prepare import prepare_data
from fastdarts.tasks.images.scores import InUnits, meter_of
from fastdarts.tasks.images.task import ImageTask
from fastdarts.tasks.targets.settings import (
    MultilabelEvaluateConfig,
    MultilabelSearchConfig,
    RegressionEvaluateConfig,
    RegressionSearchConfig,
    TargetSupernetConfig,
)
from fastdarts.tasks.targets.table import load_targets, read_labels, read_numbers
from fastdarts.tasks.task import Metric, register_task


class TargetObjective(Objective):
    """Targets float [N, K] that are learned by a loss of each image and judged by a score."""

    def choose(self, config: Any, indices: Sequence[int]) -> None:
        super().choose(config, indices)
        self.targets_of(torch.stack([torch.as_tensor(y) for y in labels_of(self.data.train, indices)]).double())

    def targets_of(self, targets: Tensor) -> None:
        """Look at the targets [images, K] of the training images."""

    def rehearsal(self, images: int) -> tuple[Tensor, Tensor]:
        return super().rehearsal(images)[0], torch.zeros(images, self.outputs)


class Regression(TargetObjective):
    r"""Numbers of images. The network learns them standardised, :math:`(y - \bar y) / s` of each target, by mean and
    deviation of the training images; scores see them in their own unit."""

    task, kind = "regression", "numbers"

    def targets_of(self, targets: Tensor) -> None:
        mean, std = targets.mean(0), targets.std(0, correction=0)
        if flat := [name for name, value in zip(self.names, std.tolist(), strict=True) if not value > 0]:
            raise FastdartsError(
                f"all training images have the same number {flat[0]}: remove its column, as nothing is learned of it"
            )
        self.mean, self.std = mean.float(), std.float()
        if self.score is not None:
            self.score = InUnits(self.score, self.answers)
            self.meter_type = meter_of(self.score)

    def _constants(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        if self.mean.device != outputs.device:  # once, as a copy in every step would make a GPU wait
            self.mean, self.std = self.mean.to(outputs.device), self.std.to(outputs.device)
        return self.mean, self.std

    def criterion(self, outputs: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
        mean, std = self._constants(outputs)
        return super().criterion(outputs, (target - mean) / std)

    def answers(self, outputs: Tensor) -> Tensor:
        mean, std = self._constants(outputs)
        return outputs.float() * std + mean

    def model_facts(self) -> dict[str, Any]:
        return super().model_facts() | {"scale": {"mean": self.mean.tolist(), "std": self.std.tolist()}}


class Multilabel(TargetObjective):
    """Labels of which an image may have several, or none."""

    task, kind = "multilabel", "labels"

    def class_weights(self, config: Any, indices: Sequence[int]) -> Tensor | None:
        if config.class_weights is None:
            return None
        check_weighted(config, (BINARY, FOCAL))
        if config.class_weights != BALANCED:
            return parse_weights(config.class_weights, self.names).float()
        targets = torch.stack([torch.as_tensor(y) for y in labels_of(self.data.train, indices)]).double()
        have = targets.sum(0)
        return ((len(targets) - have) / have.clamp(min=1)).clamp(min=1e-3).float()


class RegressionTask(ImageTask):
    """Numbers of images: mean squared error, measured by the mean absolute error."""

    name, title = "regression", "numbers of images"
    metric = Metric("valid_error", "valid mean absolute error")
    settings = (TargetSupernetConfig, RegressionSearchConfig)
    evaluation = RegressionEvaluateConfig
    objective_type = Regression

    def load(self, config: Any) -> tuple[ImageData, range]:
        return prepare_data(config, partial(load_targets, read=read_numbers))


class MultilabelTask(ImageTask):
    """Several labels of an image: binary cross-entropy, measured by the mean average precision."""

    name, title = "multilabel", "labels of images"
    metric = Metric("valid_error", "valid mean average precision error", " %")
    settings = (TargetSupernetConfig, MultilabelSearchConfig)
    evaluation = MultilabelEvaluateConfig
    objective_type = Multilabel

    def load(self, config: Any) -> tuple[ImageData, range]:
        return prepare_data(config, partial(load_targets, read=read_labels))


register_task(RegressionTask())
register_task(MultilabelTask())
