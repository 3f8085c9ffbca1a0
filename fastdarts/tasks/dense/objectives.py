"""What networks learn of each pixel, at several scales."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.nn.maps import blocks, finest, unpack
from fastdarts.tasks.dense.crops import Augment, Divide, Normalise
from fastdarts.tasks.dense.paint import of_classes, of_numbers, side_by_side
from fastdarts.tasks.images.losses import find_loss
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.scores import InUnits, find_score, meter_of
from fastdarts.tasks.images.settings import Augmentation


class MapObjective(Objective):
    r"""Maps of several scales, each of which is compared with the target at its scale.

    The loss of an image is :math:`\sum_s \mathrm{mean}_{p\ \mathrm{known}}\, \ell(\hat y_{s,p}, y_{s,p})`; that of a
    batch is the mean over its images, so that ranks that see a part of it each agree. An image of which nothing is
    known counts as 0.
    """

    kind = "maps"
    views = 1

    def choose(self, config: Any, indices: Sequence[int]) -> None:
        self.score = InUnits(find_score(config.metric, self.task), self.answers)
        self.meter_type = meter_of(self.score)
        self._loss = find_loss(config.loss, self.task)
        self.pair = Divide(self.channels)

    @abstractmethod
    def at_scale(self, target: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The target [N, K, h, w] of a map of ``size``, and where it is known, bool [N, 1, h, w]; from [N, 1, H, W]."""

    @abstractmethod
    def painted(self, target: Tensor, found: Tensor) -> list[Tensor]:
        """Pictures uint8 [H, W, 3] of a target [1, H, W] and of what a network says of it, [K, H, W]."""

    def picture(self, item: Tensor, found: Tensor) -> Tensor:
        """An item of the data, its target and what a network says of it, side by side: uint8 [H, W, 3]."""
        image, target = item[: self.channels // self.views], item[self.channels :]
        return side_by_side([(255 * image).round().byte().permute(1, 2, 0), *self.painted(target, found)])

    def criterion(self, outputs: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
        outputs = outputs.float() if outputs.dtype.itemsize < 4 else outputs
        total = outputs.new_zeros(len(outputs))
        for found in unpack(outputs, self.outputs, target.shape[-2:]):
            wanted, known = self.at_scale(target.to(found), found.shape[-2:])
            losses = self._loss(found, wanted)
            if losses.dim() != 4 or losses.shape[0] != len(found) or losses.shape[2:] != found.shape[2:]:
                raise FastdartsError(
                    f"the loss has the shape {[*losses.shape]} for maps {[*found.shape]}: expected a number for each "
                    "pixel, [N, 1, H, W]"
                )
            losses = torch.where(known, losses.mean(1, keepdim=True), 0).flatten(1)
            total = total + losses.sum(1) / known.flatten(1).sum(1).clamp(min=1)
        return total.mean()

    def answers(self, outputs: Tensor) -> Tensor:
        """The finest map at the size of the images, [N, K, H, W]."""
        return finest(outputs.float() if outputs.dtype.itemsize < 4 else outputs, self.outputs, self.size)

    def train_transform(
        self, length: int, *, share: float = 1.0, jitter: bool = False, augment: Augmentation = "standard"
    ) -> Callable[[Tensor], Tensor]:
        constants = self.size, self.data.mean, self.data.std
        if augment == "none":
            return Normalise(*constants)
        return Augment(*constants, self.views, self.config.augment_strength)

    def eval_transform(self) -> Callable[[Tensor], Tensor]:
        return Normalise(self.size, self.data.mean, self.data.std)

    def rehearsal(self, images: int) -> tuple[Tensor, Tensor]:
        return torch.empty(images, self.channels, *self.size), torch.zeros(images, 1, *self.size)

    def fit(self, network: nn.Module) -> nn.Module:
        """As it is: networks of maps have predictions of their own."""
        return network


class Disparity(MapObjective):
    """The disparity of the left one of two views, in pixels of the image at all scales."""

    task, views = "disparity", 2

    def network(self, *args: Any) -> nn.Module:
        """The network; a stack knows how many parts it is trained in."""
        found = super().network(*args)
        if getattr(self.config, "stack", None) == "in-turn":
            found.parts_in_turn = len(found.frames)
        return found

    def at_scale(self, target: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The mean of what is known in each block."""
        return blocks(target, target.isfinite(), size)

    def painted(self, target: Tensor, found: Tensor) -> list[Tensor]:
        """From 0 to the largest disparity that is known."""
        known = target[target.isfinite()]
        most = known.max().item() if len(known) else 1.0
        return [of_numbers(numbers[0], most) for numbers in (target, found)]


class Segmentation(MapObjective):
    """The class of each pixel. At a coarse scale the target of a place is the shares of the classes in its block."""

    task = "segmentation"

    def at_scale(self, target: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The shares of the classes among what is known in each block."""
        classes = target[:, 0].long()
        shares = F.one_hot(classes.clamp(min=0), self.outputs).permute(0, 3, 1, 2).to(target)
        return blocks(shares, target >= 0, size)

    def painted(self, target: Tensor, found: Tensor) -> list[Tensor]:
        """A colour for each class."""
        return [of_classes(numbers, self.outputs) for numbers in (target[0].long(), found.argmax(0))]
