"""Folders of image files, found by torchvision, looked at before any work and decoded when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import v2

from fastdarts.errors import FastdartsError

HEADERS = 10_000  # files that are opened before any work, evenly spaced if there are more


class _Classes(datasets.ImageFolder):
    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        names = [name for name in super().find_classes(directory)[0] if not name.startswith(".")]  # .ipynb_checkpoints
        return names, {name: index for index, name in enumerate(names)}


def class_folders(path: Path) -> datasets.ImageFolder:
    """The image files in `path`/<class>/.

    Raises FastdartsError for fewer than two classes and for a class without images.
    """
    try:
        images = _Classes(path, allow_empty=True)
    except FileNotFoundError:
        raise FastdartsError(f"{path} holds no class folders: put the images of each class into one") from None
    if len(images.classes) < 2:
        raise FastdartsError(f"{path} holds one class folder, {images.classes[0]!r}: telling apart takes at least two")
    if empty := sorted(set(range(len(images.classes))) - set(images.targets)):
        known = " ".join(datasets.folder.IMG_EXTENSIONS)
        raise FastdartsError(f"class folder {path / images.classes[empty[0]]} holds no image file ({known}): add some")
    return images


def read_headers(files: Sequence[str], agree: bool) -> tuple[bool, tuple[int, int]]:
    """Whether all images are grey, and the (height, width) of the first; looks at `HEADERS` of them at most.

    Raises FastdartsError for one that cannot be read or has more than 8 bits, and if sizes differ though they
    must `agree`.
    """
    grey, first = True, None
    for file in files[:: -(-len(files) // HEADERS)]:
        with _opened(file) as image:
            mode, (width, height) = image.mode, image.size
        if mode.startswith(("I", "F")):
            raise FastdartsError(f"{file} has more than 8 bits per channel (mode {mode}): convert it to 8 bits")
        grey &= mode in ("1", "L", "LA", "La")
        first = first or (height, width)
        if agree and (height, width) != first:
            raise FastdartsError(
                f"images differ in size ({files[0]} is {first[0]}x{first[1]}, {file} is {height}x{width}): "
                "give image_size to resize them"
            )
    return grey, first


@dataclass(frozen=True)
class Decoder:
    """File to uint8 [C, H, W] in PIL's `mode` (L or RGB), by `resize` if given, of exactly `size` if given.

    Raises FastdartsError for a file that cannot be read or has another size.
    """

    mode: str
    resize: v2.Compose | None
    size: tuple[int, int] | None

    def __call__(self, file: str) -> Tensor:
        with _opened(file) as image:
            tensor = v2.functional.pil_to_tensor(image.convert(self.mode))
        if self.resize is not None:
            tensor = self.resize(tensor)
        height, width = tensor.shape[1:]
        if self.size is not None and (height, width) != self.size:
            raise FastdartsError(
                f"{file} is {height}x{width}, other images are {self.size[0]}x{self.size[1]}: give image_size"
            )
        return tensor


@contextmanager
def _opened(file: str) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    # What PIL raises for a damaged file depends on its format.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise FastdartsError(f"cannot read the image {file} ({error}): replace it or take it away") from error
