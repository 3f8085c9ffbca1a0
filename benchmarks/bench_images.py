"""Preparing a batch of images: as it is done, and image by image with torchvision's modules.

``pytest benchmarks/bench_images.py -s`` takes some seconds. One thread, medians of rounds in which both take turns.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fastdarts.tasks.images import vision
from fastdarts.tasks.images.transforms import eval_transform, shared_end, train_transform

BATCH, ROUNDS = 64, 60


@dataclass(frozen=True)
class Images:
    """What images have in common."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = True


def plain(data: Images, training: bool) -> vision.v2.Compose:
    """What torchvision's own modules do to each image."""
    side, v2 = data.size[0], vision.v2
    drawn = [v2.RandomCrop(data.size, padding=side // 8), v2.RandomHorizontalFlip()] if training else []
    return v2.Compose([*drawn, v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)])


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32)], ids=["1x16x16", "3x32x32"])
def bench_batches(shape: tuple[int, int, int], training: bool) -> None:
    torch.set_num_threads(1)
    data = Images(shape[1:], (0.5,) * shape[0], (0.25,) * shape[0])
    images = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(BATCH)]
    theirs = plain(data, training)
    alone, shared = shared_end(train_transform(data) if training else eval_transform(data))

    def by_image() -> Tensor:
        return torch.stack([theirs(image) for image in images])

    def together() -> Tensor:
        return shared(torch.stack([alone(image) for image in images]))

    taken: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        made = []
        for prepare in (by_image, together):
            torch.manual_seed(number)
            begun = time.perf_counter()
            made.append(prepare())
            taken.setdefault(prepare.__name__, []).append(1e3 * (time.perf_counter() - begun))
        assert torch.equal(*made)
    before, now = (statistics.median(values) for values in taken.values())
    print(f"\n{BATCH} images {shape}: {before:.2f} ms image by image, {now:.2f} ms together, {before / now:.1f}x")
