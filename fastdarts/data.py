"""Image sets and their transforms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2

from fastdarts import arrays, folder
from fastdarts.errors import FastdartsError

DATASETS = (*arrays.READERS, "folder")
IMAGENET: arrays.Constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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


def load_data(dataset: str, path: str | Path | None = None, image_size: int | None = None) -> ImageData:
    """The image set called `dataset`, one of `DATASETS`; nothing is downloaded.

    - digits: scikit-learn's 1,797 grey 8x8 digits (`path` is not used); the last fifth of each class in file
      order is the test set.
    - fashion-mnist: `path` is torchvision's root or a folder of the four *-ubyte.gz files, by default that of
      Debian's dataset-fashion-mnist.
    - cifar10, cifar100, svhn: `path` is torchvision's root.
    - folder: `path`/train/<class>/* and `path`/test/<class>/* (or val); grey if all images are, else RGB. The
      training images are ordered so that any leading part holds the classes in proportion, because a search
      splits them unshuffled.

    `image_size` (pixels) resizes the shorter side, antialiased, and crops the middle square; without it,
    images keep their size, and those of a folder must agree. Normalisation is by the usual constants for
    CIFAR, SVHN and Fashion-MNIST, by ImageNet's for big colour images in folders, and else by those of the
    training images (in folders, of about 1,000 evenly spaced ones).

    Raises FastdartsError for an unknown name, for files that are missing, damaged or do not fit together, and
    for sizes that are odd or below 8; for a damaged image with a good header only when it is read.
    """
    if dataset not in DATASETS:
        raise FastdartsError(f"unknown dataset {dataset!r}: choose one of {', '.join(DATASETS)}")
    if image_size is not None:
        _check_size((image_size, image_size), "image_size")
    path = None if path is None else Path(path)
    if dataset == "folder":
        return _folder(path, image_size)
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
) -> v2.Compose:
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
        steps.append(v2.RandomResizedCrop(data.size))
    else:
        steps.append(v2.RandomCrop(data.size, padding=[width // 8, height // 8]))
    if data.flip:
        steps.append(v2.RandomHorizontalFlip())
    if jitter and is_big(data.size):
        steps.append(v2.ColorJitter(0.4, 0.4, 0.4, 0.2))
    steps += _normalise(data)
    if cutout_length > 0:
        cutout = Cutout(cutout_length)
        steps.append(cutout if cutout_prob == 1 else v2.RandomApply([cutout], cutout_prob))
    return v2.Compose(steps)


def eval_transform(data: ImageData) -> v2.Compose:
    """uint8 [C, H, W] to a normalised float32 image of `data.size`; a big one is the middle of the image
    resized to 256/224 of that (for ImageNet 224 of 256 pixels)."""
    if not is_big(data.size):
        return v2.Compose(_normalise(data))
    height, width = (round(side * 256 / 224) for side in data.size)
    return v2.Compose([*_resize_and_crop((height, width), data.size), *_normalise(data)])


def _resize_and_crop(size: tuple[int, int], kept: tuple[int, int]) -> list[nn.Module]:
    """Resizes to `size`, only the shorter side if that is square, and keeps the middle."""
    return [v2.Resize(size[0] if size[0] == size[1] else size, antialias=True), v2.CenterCrop(kept)]


def _normalise(data: ImageData) -> list[nn.Module]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)]


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
        if len(images) != len(labels):
            raise FastdartsError(
                f"{name} has {len(images)} {part} images but {len(labels)} labels: one of the files is "
                "incomplete, get them anew"
            )
    height, width = train[0].shape[-2:]
    size = (height, width) if image_size is None else (image_size, image_size)
    if size != (height, width) and not is_big(size):
        resize = v2.Compose(_resize_and_crop(size, size))
        # By the thousand, so that float copies made on the way stay small.
        train, test = ((torch.cat([resize(some) for some in images.split(1000)]), y) for images, y in (train, test))
    mean, std = stored.constants or _statistics(train[0])
    classes = tuple(stored.classes)
    return ImageData(name, _Images(*train), _Images(*test), classes, len(mean), size, mean, std, stored.flip)


def _statistics(images: Iterable[Tensor]) -> arrays.Constants:
    """Mean and standard deviation per channel of uint8 images [C, H, W], from counts of the 256 levels."""
    counts = sum(torch.stack([channel.flatten().bincount(minlength=256) for channel in image]) for image in images)
    share = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ levels
    variance = (share * (levels - mean[:, None]).square()).sum(1)
    # At least one level, so that a flat channel becomes 0 and not a division by zero.
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp(min=1 / 255).tolist())


def _folder(path: Path | None, image_size: int | None) -> ImageData:
    layout = "train/<class>/* and test/<class>/* (or val)"
    path = arrays.existing("folder", path, f"give a folder that holds {layout}")
    part = next((name for name in ("test", "val") if (path / name).is_dir()), None)
    if part is None or not (path / "train").is_dir():
        raise FastdartsError(f"{path} is no image folder: it must hold {layout}")
    train, test = folder.class_folders(path / "train"), folder.class_folders(path / part)
    if alone := sorted(set(train.classes) ^ set(test.classes)):
        raise FastdartsError(
            f"class {alone[0]!r} is in only one of {path / 'train'} and {path / part}: give both the same class folders"
        )
    files = [file for file, _ in train.samples + test.samples]
    grey, native = folder.read_headers(files, agree=image_size is None)
    size = native if image_size is None else (image_size, image_size)
    _check_size(size, f"the size of the images in {path}")
    big = is_big(size)
    resize = None if big or image_size is None else v2.Compose(_resize_and_crop(size, size))
    train.loader = test.loader = folder.Decoder("L" if grey else "RGB", resize, None if big else size)
    ranks = arrays.ranks(train.targets)
    ordered = Subset(train, sorted(range(len(ranks)), key=ranks.__getitem__))
    if big and not grey:
        mean, std = IMAGENET
    else:
        mean, std = _statistics(ordered[i][0] for i in range(0, len(ordered), max(1, len(ordered) // 1000)))
    return ImageData("folder", ordered, test, tuple(test.classes), len(mean), size, mean, std, flip=True)
