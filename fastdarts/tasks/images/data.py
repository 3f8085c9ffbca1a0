"""Image sets and their transforms."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastdarts.errors import FastdartsError, did_you_mean
from fastdarts.notices import notice
from fastdarts.runs.settings import expanded
from fastdarts.tasks.images import arrays, folder, vision
from fastdarts.tasks.images.pictures import Decoder, read_headers, shown
from fastdarts.tasks.images.settings import DataConfig

DATASETS = (*arrays.READERS, "folder")
IMAGENET: arrays.Constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Normalised(Protocol):
    """What the images of a network have in common: see :class:`ImageData`."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ImageData:
    """Everything the networks and transforms need to know about an image set.

    Items of `train` and `test` are (uint8 tensor [channels, H, W], int label). They have `size` (height,
    width), except that big images (`is_big(size)`) keep the size they are stored in, and the transforms crop
    them. `mean` and `std` are per channel, of values in 0..1; `flip`: may training mirror the images.
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

    def facts(self) -> dict[str, object]:
        """What ranks must have in common, each with its own copy of the data."""
        counts = {"training images": len(self.train), "test images": len(self.test), "classes": len(self.classes)}
        return counts | {"channels": self.channels, "image size": self.size, "mean": self.mean, "deviation": self.std}


def load_data(
    dataset: str,
    path: str | Path | None = None,
    image_size: int | None = None,
    test_portion: float = DataConfig.test_portion,
) -> ImageData:
    """The image set called `dataset`, one of `DATASETS`; nothing is downloaded.

    - digits: scikit-learn's 1,797 grey 8x8 digits (`path` is not used); the last fifth of each class in file
      order is the test set.
    - fashion-mnist: `path` is torchvision's root or a folder of the four *-ubyte.gz files, by default that of
      Debian's dataset-fashion-mnist.
    - cifar10, cifar100, svhn: `path` is torchvision's root.
    - folder: `path`/<class>/*, of which `test_portion` is the test set, or `path`/train/<class>/* and
      `path`/test/<class>/* (or val; beside both, val joins train). Images are grey if all are, else RGB. They are
      turned as EXIF says, and on white where they are transparent. The training images are ordered so that any
      leading part holds the classes in proportion, because a search splits them unshuffled.

    `image_size` (pixels) resizes the shorter side, antialiased, and crops the middle square; without it,
    images keep their size, and those of a folder must agree. Normalisation is by the usual constants for
    CIFAR, SVHN and Fashion-MNIST, by ImageNet's for big colour images in folders, and else by those of the
    training images (in folders, of about 1,000 evenly spaced ones).

    A Notice says what was left out or converted. Another says where training images are equal or a channel is
    constant; about 1,000 images are compared, fewer of big ones.

    Raises FastdartsError for an unknown name, for files that are missing, damaged or do not fit together, and
    for sizes that are odd or below 8; for a damaged image with a good header only when it is read.
    """
    if dataset == "own":
        raise FastdartsError(
            "dataset own is given from Python: fastdarts.search(train=..., valid=...), see docs/python.md"
        )
    if dataset not in DATASETS:
        like = did_you_mean(dataset, DATASETS)
        raise FastdartsError(f"unknown dataset {dataset!r}{like}: choose one of {', '.join(DATASETS)}")
    if image_size is not None:
        _check_size((image_size, image_size), "image_size")
    path = None if path is None else expanded(path)
    if dataset == "folder":
        return _folder(path, image_size, test_portion)
    if test_portion != DataConfig.test_portion:
        raise FastdartsError(f"test_portion is {test_portion} but {dataset} has a test set of its own: leave it out")
    return _in_memory(dataset, arrays.READERS[dataset](path), image_size)


def is_big(size: tuple[int, int]) -> bool:
    """Whether images of `size` (height, width) take the ImageNet recipe and not that of CIFAR: from 96 on."""
    return max(size) >= 96


class Cutout(nn.Module):
    """Sets one square of a normalised image [C, H, W] to 0: rows and columns from c - length // 2 to below
    c + length // 2 around a uniformly random pixel, clipped at the border (DeVries and Taylor 2017)."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.half = length // 2

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
        image = image.clone()
        image[..., max(0, y - self.half) : y + self.half, max(0, x - self.half) : x + self.half] = 0
        return image


def train_transform(
    data: ImageData, cutout_length: int = 0, *, cutout_prob: float = 1.0, jitter: bool = False
) -> vision.v2.Compose:
    """uint8 [C, H, W] to an augmented, normalised float32 image of `data.size`, by torch's CPU generator.

    CIFAR recipe: pad by size // 8 (4 at 32), crop, and flip if `data.flip`. ImageNet recipe, for big images:
    random resized crop, flip if `data.flip`, and if `jitter` (as in the published evaluation, not the search)
    brightness, contrast and saturation by 0.4 and hue by 0.2. Both end in Cutout if `cutout_length` (pixels)
    is not 0 (DARTS, Liu et al. 2019, appendix A), with probability `cutout_prob`. Raises FastdartsError for a
    negative `cutout_length`.
    """
    if cutout_length < 0:
        raise FastdartsError(f"got cutout length {cutout_length}: give the side in pixels, or 0 for no cutout")
    height, width = data.size
    steps: list[nn.Module] = []
    if is_big(data.size):
        steps.append(vision.v2.RandomResizedCrop(data.size))
    else:
        steps.append(vision.v2.RandomCrop(data.size, padding=[width // 8, height // 8]))
    if data.flip:
        steps.append(vision.v2.RandomHorizontalFlip())
    if jitter and is_big(data.size):
        steps.append(vision.v2.ColorJitter(0.4, 0.4, 0.4, 0.2))
    steps += _normalise(data)
    if cutout_length > 0:
        cutout = Cutout(cutout_length)
        steps.append(cutout if cutout_prob == 1 else vision.v2.RandomApply([cutout], cutout_prob))
    return vision.v2.Compose(steps)


def eval_transform(data: Normalised) -> vision.v2.Compose:
    """uint8 [C, H, W] to a normalised float32 image of `data.size`; a big one is the middle of the image
    resized to 256/224 of that (for ImageNet 224 of 256 pixels)."""
    if not is_big(data.size):
        return vision.v2.Compose(_normalise(data))
    height, width = (round(side * 256 / 224) for side in data.size)
    return vision.v2.Compose([*_resize_and_crop((height, width), data.size), *_normalise(data)])


def transform_of_any(data: Normalised) -> Callable[[Tensor], Tensor]:
    """The function that makes a normalised float32 image of `data.size` of an image [C, H, W] of any size.

    The image is uint8, or floating point with values in 0..1. An image that already fits is given what
    :func:`eval_transform` gives it. Any other small one is first resized along its shorter side, and cropped.
    """
    plain = eval_transform(data)
    fit = vision.v2.Compose(_resize_and_crop(data.size, data.size))

    def transform(image: Tensor) -> Tensor:
        fits = is_big(data.size) or tuple(image.shape[-2:]) == tuple(data.size)
        return plain(image if fits else fit(image))

    return transform


def _resize_and_crop(size: tuple[int, int], kept: tuple[int, int]) -> list[nn.Module]:
    """Resizes to `size`, only the shorter side if that is square, and keeps the middle."""
    return [vision.v2.Resize(size[0] if size[0] == size[1] else size, antialias=True), vision.v2.CenterCrop(kept)]


def _normalise(data: Normalised) -> list[nn.Module]:
    return [vision.v2.ToDtype(torch.float32, scale=True), vision.v2.Normalize(data.mean, data.std)]


def _check_size(size: tuple[int, int], what: str) -> None:
    if any(side % 2 or side < 8 for side in size):
        raise FastdartsError(
            f"{what} is {size[0]}x{size[1]} pixels: the networks halve images, so give an image_size that is "
            "even and at least 8"
        )


class _Images(Dataset):
    def __init__(self, images: Tensor, labels: Sequence[int]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


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
        resize = vision.v2.Compose(_resize_and_crop(size, size))
        # By the thousand, so that float copies made on the way stay small.
        train, test = ((torch.cat([resize(some) for some in images.split(1000)]), y) for images, y in (train, test))
    mean, std = stored.constants or _statistics(images.transpose(0, 1) for images in train[0].split(1000))
    classes = tuple(stored.classes)
    looked = _Looked(classes, "training image {}".format)
    for index in _sample(len(train[0])):
        looked.at(index, train[0][index], int(train[1][index]))
    looked.say(name, _Images(*test))
    return ImageData(name, _Images(*train), _Images(*test), classes, len(mean), size, mean, std, stored.flip)


def _statistics(images: Iterable[Tensor]) -> arrays.Constants:
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


def _sample(count: int, of: int = 1000) -> range:
    """About `of` evenly spaced indices below `count`."""
    return range(0, count, max(1, count // of))


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()


@dataclass
class _Looked:
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
            self.at(index, image, label)
            yield image

    def say(self, name: str, test: Dataset | None = None) -> None:
        """Give a Notice for the first that holds of what can be equal, and one for a constant channel; ``test`` is
        compared too."""
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
        elif copies := self._copies(test) if test is not None else []:
            notice(
                f"{name}: test images are equal to training images ({len(copies)} of those looked at, such as one that "
                f"is {copies[0]})",
                "remove them from one side, as they make the test error too good",
            )
        for channel in np.flatnonzero(self.low == self.high)[:1]:
            notice(f"{name}: channel {channel} of the training images is {self.low[channel]} everywhere", remedy)

    def _copies(self, test: Dataset) -> list[str]:
        """The names of training images that were looked at and are equal to some of about 100 of ``test``."""
        found = []
        for index in _sample(len(test), 100):
            with suppress(FastdartsError):  # a damaged one is named when it is used
                if known := self.first.get(_digest(test[index][0])):
                    found.append(self.name(next(iter(known.values()))))
        return found


def _folder(path: Path | None, image_size: int | None, test_portion: float) -> ImageData:
    path = arrays.existing("folder", path, f"give a folder that holds {folder.LAYOUT}")
    layout = folder.recognise(path)
    if layout.test is None:
        [root] = layout.train
        train, test = folder.hold_out(folder.class_folders(root), test_portion, root)
    elif test_portion != DataConfig.test_portion:
        raise FastdartsError(
            f"test_portion is {test_portion} but {shown(path)} has a test set, {layout.test.name}/: leave it out"
        )
    else:
        train, test = _parts(layout)
    files = [file for files in (*train.values(), *test.values()) for file in files]
    grey, native = read_headers(files, agree=image_size is None)
    size = native if image_size is None else (image_size, image_size)
    _check_size(size, f"the size of the images in {shown(path)}")
    big = is_big(size)
    resize = None if big or image_size is None else vision.v2.Compose(_resize_and_crop(size, size))
    decoder = Decoder("L" if grey else "RGB", resize, None if big else size)
    ordered = _in_proportion(folder.samples(train))
    images = folder.Files(ordered, decoder)
    looked = _Looked(tuple(train), lambda index: shown(ordered[index][0]))
    if big and not grey:
        mean, std = IMAGENET
        # Big photographs take long to decode: 16 of ImageNet's take 50 ms, two of 12 megapixels 0.3 s.
        few = min(16, max(2, 2**22 // (native[0] * native[1])))
        for _ in looked.along(images, _sample(len(images), few)):
            pass
    else:
        mean, std = _statistics(looked.along(images, _sample(len(images))))
    test_images = folder.Files(folder.samples(test), decoder)
    looked.say(shown(path), None if big else test_images)
    return ImageData("folder", images, test_images, tuple(train), len(mean), size, mean, std, flip=True)


def _parts(layout: folder.Layout) -> tuple[folder.Classes, folder.Classes]:
    """The training and test images of a folder that has both."""
    roots = [*layout.train, layout.test]
    parts = [folder.class_folders(root) for root in roots]
    for root, part in zip(roots, parts, strict=True):
        if alone := sorted(set(parts[0]) ^ set(part)):
            raise FastdartsError(
                f"class {alone[0]!r} is in only one of {shown(roots[0])} and {shown(root)}: give both the same class "
                "folders"
            )
    *trains, test = parts
    return {name: [file for part in trains for file in part[name]] for name in test}, test


def _in_proportion(samples: Sequence[folder.Sample]) -> list[folder.Sample]:
    """`samples` in such an order that any leading part holds the classes in proportion."""
    ranks = arrays.ranks([label for _, label in samples])
    return [samples[i] for i in sorted(range(len(samples)), key=ranks.__getitem__)]
