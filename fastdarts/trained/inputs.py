"""What a network can be asked about: files, folders, patterns, Pillow's images, arrays and tensors."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.tasks.images.pictures import ENDINGS, opened, picture_of, shown


class Asked(NamedTuple):
    """An image: what tables call it, and its pixels [C, H, W], which are read when they are needed."""

    name: str
    pixels: Callable[[], Tensor]


def images_of(images: Any, mode: str) -> list[Asked]:
    """The images that are meant, each with pixels in ``mode`` (L or RGB).

    Paths keep their name; folders and patterns become the images in them, in the order of their names. What has no
    name is called "image N" by its place, from 0.

    Raises :class:`FastdartsError`, naming the offence, for what is no image and for a pattern or folder without any.
    """
    found: list[Asked] = []
    for image in _each(images):
        if isinstance(image, str | os.PathLike):
            found += [Asked(file, partial(_file, file, mode)) for file in files_of(os.fspath(image))]
            continue
        found += [Asked(name, partial(make, name, mode)) for name, make in _unnamed(image, start=len(found))]
    if not found:
        raise FastdartsError("got no images: give at least one image, path or folder")
    return found


def _each(images: Any) -> Iterable[Any]:
    one = isinstance(images, str | os.PathLike | Image.Image | Tensor | np.ndarray)
    if not one and not isinstance(images, Iterable):
        raise FastdartsError(f"got a {type(images).__name__} for images: {_EXPECTED}")
    return [images] if one else images


def files_of(text: str) -> list[str]:
    """The image files that a path, a folder or a pattern such as ``photos/*.jpg`` means, sorted.

    Hidden files are left out of folders, at any depth. Raises :class:`FastdartsError` if there is none.
    """
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        inside = (file for file in Path(path).rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        found = [str(file) for file in inside if not any(part[0] == "." for part in file.relative_to(path).parts)]
        if not found:
            raise FastdartsError(f"the folder {shown(text)} holds no image ({' '.join(ENDINGS)}): give another one")
        return sorted(found)
    if os.path.exists(path):
        return [path]
    if not glob.has_magic(path):
        raise FastdartsError(f"there is no image {shown(text)}: give the path of an image, a folder or a pattern")
    found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    if not found:
        raise FastdartsError(f"no file fits the pattern {shown(text)}: give another one, or the path of an image")
    return found


def _file(file: str, mode: str) -> Tensor:
    with opened(file) as picture:
        return picture.pixels(mode)


_EXPECTED = "expected paths, Pillow images, arrays [H, W, C] or tensors [C, H, W]"


def _unnamed(image: Any, start: int) -> Iterator[tuple[str, Callable[[str, str], Tensor]]]:
    """Names and readers of an image, or of the images of a batch, without a path."""
    if isinstance(image, Image.Image):
        yield f"image {start}", lambda name, mode: picture_of(image, name).pixels(mode)
        return
    if isinstance(image, np.ndarray):
        image = _channels_first(image)
    if not isinstance(image, Tensor) or image.dim() not in (3, 4):
        what = f"a tensor of shape {[*image.shape]}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise FastdartsError(f"got {what} for an image: {_EXPECTED}")
    for number, one in enumerate(image if image.dim() == 4 else [image], start):
        yield f"image {number}", partial(_tensor, one)


def _channels_first(array: np.ndarray) -> Tensor:
    """[H, W], [H, W, C] or [N, H, W, C] as a tensor with the channels first."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim not in (3, 4) or array.shape[-1] not in (1, 3):
        raise FastdartsError(
            f"got an array of shape {[*array.shape]}: expected [H, W], [H, W, C] or [N, H, W, C] with 1 or 3 channels"
        )
    try:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
    except TypeError as error:
        raise FastdartsError(f"got an array of {array.dtype}: {_VALUES}") from error
    return tensor.movedim(-1, -3)


_VALUES = "expected uint8 with values from 0 to 255, or floating point with values from 0 to 1"


def _tensor(image: Tensor, name: str, mode: str) -> Tensor:
    """The pixels of a tensor: uint8, or float32 in 0..1; grey becomes colour where the network has colours."""
    channels = 1 if mode == "L" else 3
    image = image.detach().cpu()
    if image.is_floating_point():
        image = image.float()
        if image.numel() and not (image.min() >= 0 and image.max() <= 1):
            raise FastdartsError(
                f"{name} has values from {image.min():.3g} to {image.max():.3g}: expected 0 to 1; for images that are "
                "normalised already call the model itself"
            )
    elif image.dtype is not torch.uint8:
        raise FastdartsError(f"{name} is of {image.dtype}: {_VALUES}")
    if image.shape[0] not in (1, channels) or not image.numel():
        raise FastdartsError(
            f"{name} has the shape {[*image.shape]}: expected [{channels}, H, W], as the network was trained on "
            f"{'grey' if mode == 'L' else 'colour'} images"
        )
    return image.expand(channels, -1, -1)
