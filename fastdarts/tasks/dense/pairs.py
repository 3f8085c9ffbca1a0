"""The pairs of images of task disparity: drawn, of Debian packages, or of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from fastdarts.errors import FastdartsError
from fastdarts.nn.maps import blocks
from fastdarts.tasks.dense import formats
from fastdarts.tasks.dense.crops import Size, Tiles, chosen_size, constants
from fastdarts.tasks.dense.files import Example, Layout, examples_of, training_and_test
from fastdarts.tasks.dense.settings import DisparityConfig
from fastdarts.tasks.dense.stereo import SyntheticPairs
from fastdarts.tasks.images.data import ImageData
from fastdarts.tasks.images.pictures import ENDINGS, opened, shown
from fastdarts.tasks.images.survey import sample

DRAWN: Size = (64, 128)
"""Of pairs that are drawn, if the settings name no other."""
MOST = {"synthetic": 16, "debian-stereo": 32}
"""Pixels of the largest disparity, if the settings name no other."""
TESTED, TESTED_FROM = 64, 2**40
"""Pairs that are drawn for the test, and the number of the first: however many are learned, they stay the same."""
LAYOUTS = (
    Layout(
        "FlyingThings3D",
        ("frames_cleanpass", "left"),
        ({"left": "right"}, {"frames_cleanpass": "disparity"}),
        (".pfm",),
    ),
    Layout(
        "FlyingThings3D",
        ("frames_finalpass", "left"),
        ({"left": "right"}, {"frames_finalpass": "disparity"}),
        (".pfm",),
    ),
    Layout("Sintel", ("clean_left",), ({"clean_left": "clean_right"}, {"clean_left": "disparities"}), (".png",)),
    Layout("KITTI 2015", ("image_2",), ({"image_2": "image_3"}, {"image_2": "disp_occ_0"}), (".png",), "_10"),
    Layout("KITTI 2012", ("colored_0",), ({"colored_0": "colored_1"}, {"colored_0": "disp_occ"}), (".png",), "_10"),
    Layout("a folder of pairs", ("left",), ({"left": "right"}, {"left": "disparity"}), formats.ENDINGS),
)
WANTED = (
    "left/, right/ and disparity/ with files of the same names, or FlyingThings3D, Sintel or KITTI as they are stored"
)
SKIMAGE, OPENCV = "usr/lib/python3/dist-packages/skimage/data", "usr/share/doc/opencv-doc/examples/data"
PHOTOGRAPHS = (
    *(f"{SKIMAGE}/{name}" for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg")),
    *(f"{SKIMAGE}/{name}" for name in ("hubble_deep_field.jpg", "brick.png", "grass.png", "gravel.png")),
    *(f"{OPENCV}/{name}" for name in ("baboon.jpg", "board.jpg", "building.jpg", "butterfly.jpg", "fruits.jpg")),
    *(f"{OPENCV}/{name}" for name in ("graf1.png", "leuvenA.jpg", "rubberwhale1.png", "starry_night.jpg", "stuff.jpg")),
)
"""Of Debian's python3-skimage and opencv-doc."""
REAL = {
    "motorcycle": Example(
        f"{SKIMAGE}/motorcycle_left.png", (f"{SKIMAGE}/motorcycle_right.png", f"{SKIMAGE}/motorcycle_disp.npz")
    ),
    "aloe": Example(f"{OPENCV}/aloeL.jpg", (f"{OPENCV}/aloeR.jpg", f"{OPENCV}/aloeGT.png")),
}
"""Two pairs of Middlebury (2014 and 2006) in these packages."""
DEBIAN = (
    "apt-get install python3-skimage opencv-doc, or apt-get download both, dpkg-deb -x each into one folder, and name "
    "that by --data"
)
_TAKEN = 32  # pairs from which mean and deviation come


def read_pair(example: Example, part: int = 1) -> Tensor:
    """Both views and the disparity of files, float32 [7, H, W]: colours in 0..1, pixels, infinite where not known.

    ``part``: height and width become such a part, and so do disparities; views and disparities are means of blocks.

    Raises :class:`FastdartsError` for a file that cannot be read, and for files of different sizes.
    """
    right, truth = example.others
    views = []
    for file in (example.image, right):
        with opened(file) as picture:
            views.append(picture.pixels("RGB").float() / 255)
    disparity = formats.read_disparity(Path(truth))
    for name, size in ((right, views[1].shape[1:]), (truth, disparity.shape)):
        if size != views[0].shape[1:]:
            raise FastdartsError(
                f"{shown(example.image)} is {views[0].shape[1]}x{views[0].shape[2]} but {shown(name)} is "
                f"{size[0]}x{size[1]}: expected the same size of both views and their disparity"
            )
    joint = torch.cat([*views, disparity[None]])
    return joint if part == 1 else reduced(joint, part)


def reduced(joint: Tensor, part: int) -> Tensor:
    """A pair [7, H, W] at a part of its size, rounded down."""
    height, width = (side // part for side in joint.shape[-2:])
    joint = joint[None, :, : height * part, : width * part]
    known = joint[:, 6:].isfinite()
    means, valid = blocks(joint[:, 6:], known, (height, width))
    disparity = torch.where(valid, means / part, torch.inf)
    return torch.cat([F.avg_pool2d(joint[:, :6], part), disparity], 1)[0]


class FilePairs(Dataset):
    """Pairs that are read when they are asked for: items ([7, H, W], 0), see :func:`read_pair`."""

    def __init__(self, examples: Sequence[Example], parts: Sequence[int] = ()):
        self.examples, self.parts = examples, parts or [1] * len(examples)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return read_pair(self.examples[index], self.parts[index]), 0


def read_photographs(files: Sequence[Path]) -> list[np.ndarray]:
    """Photographs as uint8 [H, W, 3]; raises :class:`FastdartsError` for one that cannot be read."""
    found = []
    for file in files:
        with opened(str(file)) as picture:
            found.append(picture.pixels("RGB").permute(1, 2, 0).numpy())
    return found


def load_pairs(config: DisparityConfig, side: int = 0) -> ImageData:
    """The pairs that the settings mean: images of 6 channels, the left view first, and a target of one channel.

    Raises :class:`FastdartsError` on anything wrong with them.
    """
    if config.dataset == "folder":
        return _of_folder(config)
    size, pictures = _drawn_size(config), _surfaces(config)
    if config.dataset == "synthetic":
        test: Dataset = _drawn(config, TESTED, size, pictures, first=TESTED_FROM)
        about = f"{TESTED} drawn ones for the test"
    else:
        test = real_pairs(_root(config), _most(config), size)
        about = f"{len(test)} parts of {' and '.join(REAL)} for the test"
    train = _drawn(config, config.pairs, size, pictures)
    surfaces = f"{len(pictures)} photographs" if pictures else "random dots"
    found = f"{config.pairs} pairs of {size[0]}x{size[1]} pixels with surfaces of {surfaces}, {about}"
    return _data(config, train, test, size, found)


def tested_pairs(config: DisparityConfig) -> Dataset:
    """The pairs that are drawn for the test, with the surfaces of the training pairs, of a dataset that is drawn."""
    return _drawn(config, TESTED, _drawn_size(config), _surfaces(config), first=TESTED_FROM)


def _root(config: DisparityConfig) -> Path:
    return Path("/") if config.data is None else config.data


def _drawn_size(config: DisparityConfig) -> Size:
    return config.crop_height or DRAWN[0], config.crop_width or DRAWN[1]


def _surfaces(config: DisparityConfig) -> list[np.ndarray]:
    """The photographs on the planes; none for random dots."""
    if config.dataset == "synthetic":
        return [] if config.data is None else read_photographs(_photographs(config.data))
    return read_photographs(_known(_root(config), PHOTOGRAPHS))


def _drawn(config: DisparityConfig, count: int, size: Size, pictures: Sequence[np.ndarray], first: int = 0) -> Dataset:
    return SyntheticPairs(count, size, _most(config), config.split_seed, first, pictures)


def _most(config: DisparityConfig) -> int:
    """Pixels of the largest disparity."""
    return MOST[config.dataset] if config.max_disparity is None else config.max_disparity


def real_pairs(root: Path, most: int, size: Size) -> Tiles:
    """Parts of the two real pairs below ``root``, at a size at which no disparity is above ``most`` pixels.

    Raises :class:`FastdartsError` if they are not there, or have fewer pixels than ``size`` then.
    """
    examples, parts, sizes = [], [], []
    for name, example in REAL.items():
        image, *others = _known(root, (example.image, *example.others))
        examples.append(Example(str(image), tuple(map(str, others))))
        joint = read_pair(examples[-1])
        known = joint[6][joint[6].isfinite()]
        parts.append(max(1, -int(-known.max().item() // most)))
        sizes.append(tuple(side // parts[-1] for side in joint.shape[-2:]))
        if sizes[-1][0] < size[0] or sizes[-1][1] < size[1]:
            raise FastdartsError(
                f"pair {name} is {sizes[-1][0]}x{sizes[-1][1]} pixels where its disparities are at most {most}: "
                f"expected {size[0]}x{size[1]} or more; raise --max-disparity, or lower --crop-height and --crop-width"
            )
    return Tiles(FilePairs(examples, parts), sizes, size)


def _known(root: Path, names: Sequence[str]) -> list[Path]:
    """These files below ``root``; raises :class:`FastdartsError`, saying what to type, if one is missing."""
    files = [root / name for name in names]
    if missing := [file for file in files if not file.is_file()]:
        raise FastdartsError(f"there is no {shown(missing[0])}: type {DEBIAN}")
    return files


def _photographs(root: Path) -> list[Path]:
    found = sorted(file for file in root.rglob("*") if file.suffix.lower() in ENDINGS) if root.is_dir() else []
    if not found:
        raise FastdartsError(f"{shown(root)} holds no photographs: give a folder of images, or leave --data out")
    return found


def _of_folder(config: DisparityConfig) -> ImageData:
    parts = examples_of(config.data, LAYOUTS, WANTED)
    train, test = training_and_test(parts, config.data, config)
    sizes = {}
    for example in (*train, *test):
        with opened(example.image) as picture:
            sizes[example.image] = picture.size
    size = chosen_size(sizes, config)
    tiles = Tiles(FilePairs(test), [sizes[example.image] for example in test], size)
    found = f"{len(train)} training pairs and {len(tiles)} parts of {len(test)} test pairs, {size[0]}x{size[1]} pixels"
    return _data(config, FilePairs(train), tiles, size, found)


def _data(config: DisparityConfig, train: Dataset, test: Dataset, size: Size, found: str) -> ImageData:
    looked = [train[index][0] for index in sample(len(train), _TAKEN)]
    if not any(joint[6].isfinite().any() for joint in looked):
        raise FastdartsError(
            f"none of {len(looked)} pairs that were looked at has a known disparity: expected one at least; see the "
            "files of truth"
        )
    both = [view for joint in looked for view in (joint[:3], joint[3:6])]
    mean, std = constants(both, 3)
    options: dict[str, Any] = {"flip": False, "found": found}
    return ImageData(config.dataset, train, test, ("disparity",), 6, size, mean * 2, std * 2, **options)
