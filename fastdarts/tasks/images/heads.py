"""What stands on the last feature map of a network: pooling and classifier, by name, heads of your own too."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.errors import FastdartsError, did_you_mean
from fastdarts.registry import Registry, check_call

HeadBuilder = Callable[[int, int], nn.Module]
"""From the number of features and that of outputs to a module [N, features] -> [N, outputs]."""


HEADS: dict[str, HeadBuilder] = {}
_HEADS = Registry("head", HEADS, lambda name, thing: register_head(name)(thing))


def register_head(name: str) -> Callable[[HeadBuilder], HeadBuilder]:
    """Make a class or function ``(features, outputs) -> module`` the head ``name``.

    The module takes the pooled features, float [N, features], and gives float [N, outputs].

    Raises :class:`FastdartsError` for a name that is taken, and for what cannot be called with two arguments.

    >>> @register_head("dropped")
    ... def dropped(features, outputs):
    ...     return nn.Sequential(nn.Dropout(0.5), nn.Linear(features, outputs))
    """

    def decorate(build: HeadBuilder) -> HeadBuilder:
        at = f"head {name!r}"
        _HEADS.check_name(name, at)
        check_call(at, build, ("features", "outputs"), "module")
        _HEADS.add(name, build)
        return build

    return decorate


LINEAR = "linear"
register_head(LINEAR)(nn.Linear)


@register_head("hidden")
def hidden(features: int, outputs: int) -> nn.Module:
    """A hidden layer as wide as the features, with ReLU."""
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, outputs))


def check_head(name: str) -> None:
    """Raise :class:`FastdartsError`, naming those there are, if there is no head of this name."""
    if not _HEADS.knows(name):
        raise FastdartsError(
            f"--head is {str(name)[:80]!r}{did_you_mean(name, HEADS)}: expected one of {', '.join(HEADS)}, or one that "
            "a --plugin registers"
        )


class Tiles(nn.Module):
    """Mean maps of the tiles of images, ``count`` in turn of each: [N * count, C, H, W] -> [N, count * C, 1, 1]."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).reshape(len(x) // self.count, -1, 1, 1)


class Pixels(nn.Module):
    """A 1x1 convolution of the last map, resized to the image bilinearly, corners on corners.

    Networks flatten the map before their classifier: [N, features * h * w] -> [N, outputs, H, W], of which h and w have
    the ratio of H and W.
    """

    def __init__(self, features: int, outputs: int, size: tuple[int, int]):
        super().__init__()
        self.features, self.size = features, size
        self.conv = nn.Conv2d(features, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        area = x.shape[1] // self.features
        height = round(math.sqrt(area * self.size[0] / self.size[1]))
        maps = self.conv(x.reshape(len(x), self.features, height, area // height))
        return F.interpolate(maps, self.size, mode="bilinear", align_corners=True)


def fit_head(network: nn.Module, head: str, outputs: int, size: tuple[int, int]) -> nn.Module:
    """``network`` with another head than its own.

    ``head`` is the name of a registered one, "tiles-N" for images of N tiles, or "pixels" for outputs of each pixel of
    images of ``size``. Raises :class:`FastdartsError` for an unknown name and for a network without a classifier.
    """
    if head == LINEAR:
        return network
    if not isinstance(getattr(network, "classifier", None), nn.Linear):
        raise FastdartsError(
            f"a {type(network).__name__} has no linear classifier, which --head {head} takes the place of: use --head "
            f"{LINEAR}"
        )
    features = network.classifier.in_features
    if head.startswith("tiles-"):
        count = int(head.removeprefix("tiles-"))
        network.global_pooling, network.classifier = Tiles(count), nn.Linear(count * features, outputs)
    elif head == "pixels":
        network.global_pooling, network.classifier = nn.Identity(), Pixels(features, outputs, size)
    else:
        check_head(head)
        network.classifier = HEADS[head](features, outputs)
    return network
