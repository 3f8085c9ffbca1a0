"""A task of one's own, with a space for it: the digit in an image as a number, learned by least squares.

    fastdarts search darts --plugin examples/task_plugin.py --space numbers --dataset digits --channels 4 --layers 3

A task says what is learned, from which data, and how good it is. Its `Problem` holds the data of one search: it builds
the supernets, gives batches, and measures. This one takes all of that from images, but for the loss and the meter.
A space names its task, so `--space` decides what a search learns. Methods, checkpoints and the report follow.

`has` says what the task can do beside what all can. This one gives no class logits, so methods that need these refuse
it. Its `evaluation` is left out, so `fastdarts evaluate` refuses it too.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastdarts.spaces import CellSpace, Space, register_space
from fastdarts.tasks.images.prepare import prepare_data
from fastdarts.tasks.images.settings import SEARCH_RECIPE, ImageSearchConfig, ImageSupernetConfig
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.task import Metric, Row, Task, register_task


@dataclass
class Squares:
    """The squared error of the images so far. A checkpoint keeps it, as an epoch may be ended anywhere."""

    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        return self.total / self.count

    def update(self, loss: float, outputs: Tensor, target: Tensor) -> None:
        self.total += loss * len(target)
        self.count += len(target)

    def summary(self, prefix: str, at: str = "") -> Row:
        return {f"{prefix}_loss": self.mean, f"{prefix}_rmse": math.sqrt(self.mean)}


class SquaredError(nn.Module):
    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(outputs[:, 0], target.to(outputs.dtype))


class NumberProblem(ImageProblem):
    meter_type, criterion, outputs = Squares, SquaredError(), 1


@dataclass(frozen=True)
class NumberSupernetConfig(ImageSupernetConfig):
    gap_every: ClassVar[int] = 0  # no setting here: the discretisation gap counts classes


class Numbers(Task):
    name, title = "numbers", "numbers in images"
    metric = Metric("valid_rmse", "valid error", " digits")  # less is better
    settings = (NumberSupernetConfig, ImageSearchConfig)
    recipe = SEARCH_RECIPE

    def problem(self, config: ImageSearchConfig, space: Space) -> NumberProblem:
        return NumberProblem(*prepare_data(config), config)

    def line(self, row: Row, epochs: int) -> str:
        return f"epoch {row['epoch'] + 1}/{epochs}  {self.metric.said(row['valid_rmse'])}  {row['seconds']:.1f} s"


class NumberSpace(CellSpace):
    task = "numbers"


register_task(Numbers())
register_space(NumberSpace("numbers", ["skip_connect", "max_pool_3x3", "sep_conv_3x3"]))
