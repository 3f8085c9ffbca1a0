"""Image sets: what is in them, and what networks need to know of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastdarts.errors import FastdartsError, did_you_mean
from fastdarts.moved import names
from fastdarts.notices import notice
from fastdarts.runs.settings import expanded
from fastdarts.tasks.images import arrays, folder, vision
from fastdarts.tasks.images.pictures import Decoder, read_headers, shown
from fastdarts.tasks.images.settings import DataConfig
from fastdarts.tasks.images.source import training_and_test
from fastdarts.tasks.images.survey import Survey, equal_files, sample, statistics
from fastdarts.tasks.images.transforms import is_big, resize_and_crop

DATASETS = (*arrays.READERS, "folder")
IMAGENET: arrays.Constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class ImageData:
    """Everything the networks and transforms need to know about an image set.

    Items of `train` and `test` are (uint8 tensor [channels, H, W], int label). They have `size` (height,
    width), except that big images (`is_big(size)`) keep the size they are stored in, and the transforms crop
    them. `mean` and `std` are per channel, of values in 0..1; `flip`: may training mirror the images. `found`: what is
    in images of the user's own, in one line.
    """

    name: str
    train: Dataset
    test: Dataset
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    found: str = ""

    def facts(self) -> dict[str, object]:
        """What ranks must have in common, each with its own copy of the data."""
        counts = {"training images": len(self.train), "test images": len(self.test), "classes": len(self.classes)}
        return counts | {"channels": self.channels, "image size": self.size, "mean": self.mean, "deviation": self.std}


SIDE, IMAGENET_SIDE = 64, 224
KEPT_SIDE = 256


def load_data(
    dataset: str,
    path: str | Path | None = None,
    image_size: int | None = None,
    test_portion: float = DataConfig.test_portion,
    split_seed: int = DataConfig.split_seed,
    side: int = SIDE,
) -> ImageData:
    """The image set called `dataset`, one of `DATASETS`; nothing is downloaded.

    - digits: scikit-learn's 1,797 grey 8x8 digits (`path` is not used); the last fifth of each class in file
      order is the test set.
    - fashion-mnist: `path` is torchvision's root or a folder of the four *-ubyte.gz files, by default that of
      Debian's dataset-fashion-mnist.
    - cifar10, cifar100, svhn: `path` is torchvision's root.
    - folder: `path`/<class>/*, of which `split_seed` draws `test_portion` for the test, or `path`/train/<class>/* and
      `path`/test/<class>/* (or val; beside both, val joins train), or a table, see
      :func:`fastdarts.tasks.images.table.read_table`. Images are grey if all are, else RGB. They are
      turned as EXIF says, and on white where they are transparent. The training images are ordered so that any
      leading part holds the classes in proportion, because a search splits them unshuffled.

    `image_size` (pixels) resizes the shorter side, antialiased, and crops the middle square. Without it, images keep
    their size. Those of a folder keep it if all have one, with even sides from 8 to 256. Else they are read as squares:
    of the median of their shorter sides, at most `side` and at least 8, rounded down to a multiple of 4.

    Normalisation is by the usual constants for CIFAR, SVHN and Fashion-MNIST, and by ImageNet's for big colour images
    in folders. Else it is by those of the training images (in folders, of about 1,000 evenly spaced ones).

    A Notice says what was left out or converted. Another says where training images are equal or a channel is
    constant, or test images are training images.

    Raises FastdartsError for an unknown name, for files that are missing, damaged or do not fit together, and
    for an `image_size` that is odd or below 8; for an image that is damaged in its middle only when it is read.
    """
    if dataset == "own":
        raise FastdartsError(
            "dataset own is given from Python: fastdarts.search(train=..., valid=...) or fastdarts.evaluate(train=..., "
            "test=...), see docs/python.md"
        )
    if dataset not in DATASETS:
        like = did_you_mean(dataset, DATASETS)
        raise FastdartsError(f"unknown dataset {dataset!r}{like}: choose one of {', '.join(DATASETS)}")
    if image_size is not None:
        _check_size((image_size, image_size), "--image-size")
    path = None if path is None else expanded(path)
    if dataset == "folder":
        return _folder(path, image_size, test_portion, split_seed, side)
    for name, value in (("test_portion", test_portion), ("split_seed", split_seed)):
        if value != getattr(DataConfig, name):
            raise FastdartsError(
                f"--{name.replace('_', '-')} is {value} but {dataset} has a test set of its own: leave it out"
            )
    return _in_memory(dataset, arrays.READERS[dataset](path), image_size)


def _check_size(size: tuple[int, int], what: str) -> None:
    if any(side % 2 or side < 8 for side in size):
        raise FastdartsError(
            f"{what} is {size[0]}x{size[1]} pixels: the networks halve images, so give an --image-size that is "
            "even and at least 8"
        )


class _Images(Dataset):
    def __init__(self, images: Tensor, labels: Sequence[int]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def labels_of(images: Dataset, indices: Sequence[int]) -> list[Any]:
    """The labels of these images, without reading an image where the dataset lists them."""
    if isinstance(images, folder.Files):
        return [images.samples[index][1] for index in indices]
    labels = getattr(images, "labels", None)
    return [labels[index] if labels is not None else images[index][1] for index in indices]


def _in_memory(name: str, stored: arrays.Arrays, image_size: int | None) -> ImageData:
    train, test = stored.train, stored.test
    for part, (images, labels) in (("training", train), ("test", test)):
        if len(images) != len(labels) or not labels:
            raise FastdartsError(
                f"{name} has {len(images)} {part} images but {len(labels)} labels: one of the files is "
                "incomplete, get them anew"
            )
        if not 0 <= min(labels) <= max(labels) < len(stored.classes):
            raise FastdartsError(
                f"{name} has {part} labels from {min(labels)} to {max(labels)} but {len(stored.classes)} classes: "
                "one of the files is damaged, get them anew"
            )
    height, width = train[0].shape[-2:]
    if test[0].shape[1:] != train[0].shape[1:]:
        raise FastdartsError(
            f"{name} has training images of {height}x{width} pixels but test images of {test[0].shape[-2]}x"
            f"{test[0].shape[-1]}: one of the files is damaged, get them anew"
        )
    size = (height, width) if image_size is None else (image_size, image_size)
    _check_size(size, f"the size of the images of {name}")
    if size != (height, width) and not is_big(size):
        resize = vision.v2.Compose(resize_and_crop(size, size))
        # By the thousand, so that float copies made on the way stay small.
        train, test = ((torch.cat([resize(some) for some in images.split(1000)]), y) for images, y in (train, test))
    mean, std = stored.constants or statistics(images.transpose(0, 1) for images in train[0].split(1000))
    classes = tuple(stored.classes)
    looked = Survey(classes, "training image {}".format)
    for index in sample(len(train[0])):
        looked.at(index, train[0][index], int(train[1][index]))
    looked.say(name, _Images(*test))
    return ImageData(name, _Images(*train), _Images(*test), classes, len(mean), size, mean, std, stored.flip)


def _folder(path: Path | None, image_size: int | None, portion: float, seed: int, side: int) -> ImageData:
    train, test = training_and_test(path, portion, seed)
    if alone := [name for name, images in train.items() if len(images) == 1]:
        notice(
            f"{shown(path)}: some classes have one training image ({len(alone)}, such as {shown(alone[0])})",
            "add images, as a search halves the training images and only one half has such a class",
        )
    ordered = _in_proportion(folder.samples(train))
    return read_files(path, ordered, folder.samples(test), tuple(train), image_size, side, f"{len(train)} classes")


def read_files(
    path: Path,
    train: Sequence[folder.Sample],
    test: Sequence[folder.Sample],
    names: tuple[str, ...],
    image_size: int | None,
    side: int,
    what: str = "",
) -> ImageData:
    """The images of these files, whose sizes, colours and statistics are found.

    ``names`` are those of the classes or targets, and ``what`` says in words how many there are. ``path`` is named in
    sentences.
    """
    grey, sizes = read_headers([file for file, _ in (*train, *test)])
    native = next(iter(sizes))
    size = _chosen(sizes, side) if image_size is None else (image_size, image_size)
    big = is_big(size)
    resize = None if big or {*sizes} == {size} else vision.v2.Compose(resize_and_crop(size, size))
    decoder = Decoder("L" if grey else "RGB", resize, None if big else size)
    images, test_images = folder.Files(train, decoder), folder.Files(test, decoder)
    survey = Survey(names, lambda index: shown(train[index][0]))
    if big and not grey:
        mean, std = IMAGENET
        # Big photographs take long to decode: 16 of ImageNet's take 50 ms, two of 12 megapixels 0.3 s.
        few = min(16, max(2, 2**22 // (native[0] * native[1])))
        for _ in survey.along(images, sample(len(images), few)):
            pass
    else:
        mean, std = statistics(survey.along(images, sample(len(images))))
    copies = equal_files([file for file, _ in train], [file for file, _ in test])
    survey.say(shown(path), None if big else test_images, copies)
    found = (
        f"{shown(path)}: {what or ', '.join(map(shown, names[:5]))}{', ...' * (not what and len(names) > 5)}, "
        f"{len(images)} training and {len(test_images)} test images, "
        f"{'grey' if grey else 'RGB'}, {_said(sizes, size, image_size)}"
    )
    return ImageData("folder", images, test_images, names, len(mean), size, mean, std, flip=True, found=found)


def _chosen(sizes: Counter[tuple[int, int]], side: int) -> tuple[int, int]:
    """The size at which images of these sizes are read, see :func:`load_data`."""
    [one, *others] = sizes
    if not others and all(length % 2 == 0 and 8 <= length <= KEPT_SIDE for length in one):
        return one
    shorter = sorted(min(size) for size in sizes.elements())
    length = max(8, min(shorter[len(shorter) // 2], side)) // 4 * 4
    return length, length


def _said(sizes: Counter[tuple[int, int]], size: tuple[int, int], image_size: int | None) -> str:
    """The sizes of the files, and that at which they are read."""
    small, large = (f"{height}x{width}" for height, width in (key(sizes, key=_area) for key in (min, max)))
    stored = f"{small} pixels" if len(sizes) == 1 else f"from {small} to {large} pixels"
    if {*sizes} == {size}:
        return stored
    named = "" if image_size is not None else " (chosen; --image-size names another size)"
    return f"{stored}, read at {size[0]}x{size[1]}{named}"


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _in_proportion(samples: Sequence[folder.Sample]) -> list[folder.Sample]:
    """`samples` in such an order that any leading part holds the classes in proportion."""
    ranks = arrays.ranks([label for _, label in samples])
    return [samples[i] for i in sorted(range(len(samples)), key=ranks.__getitem__)]


__getattr__ = names("tasks.images.data")
