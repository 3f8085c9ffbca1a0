"""What training images have in common: their statistics, and what is said of data that cannot be learned from."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastdarts.errors import FastdartsError
from fastdarts.notices import notice
from fastdarts.tasks.images.arrays import Constants
from fastdarts.tasks.images.pictures import HEADERS, shown


def statistics(images: Iterable[Tensor]) -> Constants:
    """Mean and standard deviation per channel of uint8 images [C, H, W], from counts of the 256 levels."""
    counts = torch.from_numpy(sum(map(_levels, images)))
    share = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ levels
    variance = (share * (levels - mean[:, None]).square()).sum(1)
    # At least one level, so that a flat channel becomes 0 and not a division by zero.
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp(min=1 / 255).tolist())


def _levels(image: Tensor) -> np.ndarray:
    """How often each of the 256 levels comes in each channel of an image [C, H, W], or of images [C, N, H, W]."""
    channels = image.flatten(1).numpy()
    # One call for all channels, each with levels of its own: twice as fast on small images.
    apart = channels + np.arange(0, 256 * len(channels), 256)[:, None]
    return np.bincount(apart.ravel(), minlength=256 * len(channels)).reshape(-1, 256)


def sample(count: int, of: int = 1000) -> range:
    """About `of` evenly spaced indices below `count`."""
    return range(0, count, max(1, count // of))


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()


_APART = "remove them from one side, as they make the test error too good"


@dataclass
class Survey:
    """What training images that were looked at have in common; `name` names an image by its index."""

    classes: Sequence[str]
    name: Callable[[int], str]
    first: dict[bytes, dict[int, int]] = field(default_factory=dict)  # content → label → index of the first such image
    contents: dict[int, set[bytes]] = field(default_factory=lambda: defaultdict(set))  # of each label
    counts: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    low: np.ndarray | int = 255  # of each channel
    high: np.ndarray | int = 0

    def at(self, index: int, image: Tensor, label: int) -> None:
        """Look at one."""
        pixels, content = image.numpy(), _digest(image)
        self.first.setdefault(content, {}).setdefault(label, index)
        self.contents[label].add(content)
        self.counts[label] += 1
        self.low, self.high = np.minimum(pixels.min((1, 2)), self.low), np.maximum(pixels.max((1, 2)), self.high)

    def along(self, images: Dataset, indices: Iterable[int]) -> Iterator[Tensor]:
        """The images at `indices`, looking at each."""
        for index in indices:
            image, label = images[index]
            self.at(index, image, label if isinstance(label, int) else 0)  # targets make no classes
            yield image

    def say(self, name: str, test: Dataset | None = None, copies: Sequence[tuple[str, str]] = ()) -> None:
        """Give a Notice for the first that holds of what can be equal, and one for a constant channel; ``test`` is
        compared too, and ``copies`` are files of the test set that are known to be equal to training images."""
        remedy = "look at what the network sees, fastdarts.tasks.images.data.load_data(...).train[i], and at the files"
        total = sum(self.counts.values())
        if len(self.first) == 1 and total > 1:
            notice(f"{name}: all training images that were looked at are equal ({total})", remedy)
            return
        alike = [label for label, count in sorted(self.counts.items()) if count > 1 and len(self.contents[label]) == 1]
        shared = [list(labels.values()) for labels in self.first.values() if len(labels) > 1]
        if alike:
            known, count = shown(self.classes[alike[0]]), self.counts[alike[0]]
            notice(f"{name}: all training images of class {known} that were looked at are equal ({count})", remedy)
        elif shared:
            one, other, *_ = map(self.name, shared[0])
            notice(
                f"{name}: equal training images have different classes ({len(shared)} of {len(self.first)} looked at, "
                f"such as {one} and {other})",
                "give each image one class",
            )
        elif copies:
            one, same = map(shown, copies[0])
            notice(f"{name}: test images are also training images ({len(copies)}, such as {one}, as {same})", _APART)
        elif equal := self._copies(test) if test is not None else []:
            notice(
                f"{name}: test images are also training images ({len(equal)} of those looked at, such as one that is "
                f"{equal[0]})",
                _APART,
            )
        for channel in np.flatnonzero(self.low == self.high)[:1]:
            notice(f"{name}: channel {channel} of the training images is {self.low[channel]} everywhere", remedy)

    def _copies(self, test: Dataset) -> list[str]:
        """The names of training images that were looked at and are equal to some of about 100 of ``test``."""
        found = []
        for index in sample(len(test), 100):
            with suppress(FastdartsError):  # a damaged one is named when it is used
                if known := self.first.get(_digest(test[index][0])):
                    found.append(self.name(next(iter(known.values()))))
        return found


def equal_files(train: Sequence[str], test: Sequence[str]) -> list[tuple[str, str]]:
    """The files of ``test`` that are equal to one of ``train``, byte for byte, and that one; of more than `HEADERS`
    files none is compared."""
    if len(train) + len(test) > HEADERS:
        return []
    by_length, contents, found = defaultdict(list), {}, []
    for file in train:
        by_length[os.path.getsize(file)].append(file)
    for file in test:
        if alike := by_length.get(length := os.path.getsize(file)):
            if length not in contents:
                contents[length] = {_content(other): other for other in reversed(alike)}
            if (same := contents[length].get(_content(file))) is not None:
                found.append((file, same))
    return found


def _content(file: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "blake2b").digest()
    except OSError as error:
        raise FastdartsError(f"cannot read the image {shown(file)} ({error.strerror}): see to its rights") from error
