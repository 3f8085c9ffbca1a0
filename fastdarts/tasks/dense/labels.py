"""The images of task segmentation and their label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, from_numpy
from torch.utils.data import Dataset

from fastdarts.errors import FastdartsError
from fastdarts.tasks.dense.crops import Tiles, chosen_size, constants
from fastdarts.tasks.dense.files import Example, Layout, examples_of, training_and_test
from fastdarts.tasks.dense.settings import SegmentationConfig
from fastdarts.tasks.images.data import ImageData
from fastdarts.tasks.images.pictures import opened, read_headers, shown
from fastdarts.tasks.images.survey import sample

LAYOUT = Layout("a folder of label maps", ("images",), ({"images": "labels"},), (".png",))
WANTED = (
    "images/ and labels/ with files of the same names, the label maps as PNG, and classes.txt if classes have names"
)
NAMES = "classes.txt"
UNKNOWN = 255
"""The label of pixels whose class is not known."""
_LOOKED = 200  # label maps that are read before any work, if the classes have names
_TAKEN = 100  # images from which mean and deviation come


def read_labels(path: str, classes: Sequence[str] = ()) -> Tensor:
    """The class of each pixel in a PNG of numbers, grey or by a palette: int64 [H, W], -1 where it is not known.

    Raises :class:`FastdartsError`, naming the file, for another one, and for a class that ``classes`` does not have.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode, numbers = image.mode, np.asarray(image)
    except Exception as error:  # what a damaged file raises depends on what is wrong with it
        raise FastdartsError(
            f"cannot read the label map {shown(path)} ({' '.join(str(error).split())[:120]}): replace it or remove it"
        ) from error
    if mode not in ("L", "P", "1"):
        raise FastdartsError(
            f"{shown(path)} is a PNG of mode {mode}: expected one number of 8 bits for each pixel, grey or by a palette"
        )
    found = from_numpy(numbers.astype(np.int64))
    if classes and (strange := sorted({*found.unique().tolist()} - {*range(len(classes)), UNKNOWN})):
        raise FastdartsError(
            f"{shown(path)} has the class {strange[0]}: expected 0 to {len(classes) - 1}, or {UNKNOWN} where the class "
            f"is not known; name all classes in {NAMES}"
        )
    return torch.where(found == UNKNOWN, -1, found)


class LabelMaps(Dataset):
    """Images and their label maps, read when they are asked for.

    Items are ([C + 1, H, W], 0), float32: colours in 0..1, and the class, -1 where it is not known.
    """

    def __init__(self, examples: Sequence[Example], mode: str, classes: Sequence[str]):
        self.examples, self.mode, self.classes = examples, mode, classes

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, (truth,) = self.examples[index]
        with opened(image) as picture:
            pixels = picture.pixels(self.mode).float() / 255
        labels = read_labels(truth, self.classes)
        if labels.shape != pixels.shape[1:]:
            raise FastdartsError(
                f"{shown(image)} is {pixels.shape[1]}x{pixels.shape[2]} but {shown(truth)} is {labels.shape[0]}x"
                f"{labels.shape[1]}: expected the same size of an image and its label map"
            )
        return torch.cat([pixels, labels[None].float()]), 0


def load_labels(config: SegmentationConfig, side: int = 0) -> ImageData:
    """The images that the settings mean, with a target of one channel.

    Raises :class:`FastdartsError` on anything wrong with them.
    """
    parts: Mapping[str, Sequence[Example]] = examples_of(config.data, [LAYOUT], WANTED)
    train, test = training_and_test(parts, config.data, config)
    classes = _classes(config.data, [*train, *test])
    grey, _ = read_headers([example.image for example in (*train, *test)])
    sizes = {}
    for example in (*train, *test):
        with opened(example.image) as picture:
            sizes[example.image] = picture.size
    size, mode = chosen_size(sizes, config), "L" if grey else "RGB"
    images = LabelMaps(train, mode, classes)
    tiles = Tiles(LabelMaps(test, mode, classes), [sizes[example.image] for example in test], size)
    mean, std = constants((images[index][0] for index in sample(len(images), _TAKEN)), 1 if grey else 3)
    found = (
        f"{len(train)} training images and {len(tiles)} parts of {len(test)} test images, {size[0]}x{size[1]} pixels, "
        f"{len(classes)} classes"
    )
    return ImageData("folder", images, tiles, classes, len(mean), size, mean, std, flip=False, found=found)


def _classes(root: Path, examples: Sequence[Example]) -> tuple[str, ...]:
    """The names of the classes: the lines of classes.txt, or "class 0" and so on up to the largest in any label map.

    Raises :class:`FastdartsError` for fewer than two classes, and for a label map with another class.
    """
    file = root / NAMES
    if file.is_file():
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
        for place in sample(len(examples), _LOOKED):
            read_labels(examples[place].others[0], names)
    else:
        most = max(int(read_labels(example.others[0]).max()) for example in examples)
        names = tuple(f"class {number}" for number in range(most + 1))
    if len(names) < 2 or len({*names}) < len(names):
        raise FastdartsError(
            f"{shown(root)} has {len({*names})} classes: expected two or more in its label maps, each with another name"
        )
    return names
