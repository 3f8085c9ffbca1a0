"""Settings of the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fastdarts.runs.kinds import (
    Batch,
    Count,
    Width,
    Workers,
)
from fastdarts.runs.settings import RunConfig

Dataset = Literal["digits", "fashion-mnist", "cifar10", "cifar100", "svhn", "folder"]


@dataclass(frozen=True)
class DataConfig(RunConfig):
    """Which images, and where the work is done."""

    group: ClassVar[str] = "data"

    dataset: Dataset = "digits"
    """Images to learn from; digits needs no download, folder means one folder of images per class, or train/ and test/
    of these."""
    data: Path | None = None
    """Folder of the dataset: the torchvision root, the folder of the IDX files, or the image folder."""
    test_portion: float = 0.2
    """Share of the images of every class that is the test set, where an image folder has none."""
    image_size: Width | None = None
    """Resize images to this many pixels a side (even); by default they keep their size."""
    samples: Count | None = None
    """Use only the first so many training images."""
    batch_size: Batch = 64
    """Images per step, of all ranks together."""
    sync_bn: bool = False
    """Of several ranks (torchrun): normalise by the statistics of the whole batch, not of each rank's part."""
    workers: Workers = 0
    """Processes that prepare images; results do not depend on it."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16 computes feature maps in bfloat16, as torch.autocast does; weights, statistics, mixing weights, all updates
    and whatever is differentiated twice or subtracted to find a product stay in float32."""
