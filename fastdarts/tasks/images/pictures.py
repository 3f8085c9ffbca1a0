"""One image file: what its header says, and the pixels that a person sees. Both come from one way of opening it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.notices import notice
from fastdarts.tasks.images import vision

HEADERS = 10_000  # files that are opened before any work, evenly spaced if there are more

# Pillow's names. Others stay shut: some of them start programs, as EPS does.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "JPEG2000": (".jp2",),
    "AVIF": (".avif",),
}
ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings)

_GREY = ("1", "L", "LA")
_MODES = (*_GREY, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = [_TURNS[number] for number in (5, 6, 7, 8)]
_HOLD_ORIENTATION = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}


def shown(path: str | Path) -> str:
    """``path`` as a sentence can hold it: on one line, without characters that cannot be printed."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


@dataclass(frozen=True)
class Picture:
    """An open image file. ``turn`` is what its EXIF orientation asks for."""

    image: Image.Image
    turn: Image.Transpose | None

    @property
    def grey(self) -> bool:
        """Whether it is stored as grey; grey pixels that are stored as RGB or by a palette count as colour."""
        return self.image.mode in _GREY

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, after turning."""
        width, height = self.image.size
        return (width, height) if self.turn in _SWAPPING else (height, width)

    def pixels(self, mode: str) -> Tensor:
        """uint8 [C, H, W] in PIL's ``mode`` (L or RGB), on white where it is transparent, and turned."""
        image = self.image
        if _transparent(image):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(mode)
        return vision.v2.functional.pil_to_tensor(image if self.turn is None else image.transpose(self.turn))


@contextmanager
def opened(file: str) -> Iterator[Picture]:
    """The image in ``file``, of which only the header has been read.

    Raises :class:`FastdartsError` for one that cannot be read or has more than 8 bits per pixel and channel, also for
    what Pillow raises inside.
    """
    try:
        # Not by its name: Pillow maps some TIFFs into memory then, and garbles those with turned sides.
        with open(file, "rb") as stream, Image.open(stream, formats=tuple(FORMATS)) as image:
            yield picture_of(image, shown(file))
    except FastdartsError:
        raise
    except Exception as error:  # what Pillow raises for a damaged file depends on its format
        raise FastdartsError(
            f"cannot read the image {shown(file)} ({_why(file, error)}): replace it or remove it"
        ) from error


def picture_of(image: Image.Image, name: str) -> Picture:
    """The open ``image``, which sentences call ``name``; raises :class:`FastdartsError` as :func:`opened` does."""
    if what := _refused(image):
        raise FastdartsError(f"{name} has {what} (mode {image.mode}): convert it to 8 bits, grey or RGB")
    return Picture(image, _turn(image))


def _refused(image: Image.Image) -> str:
    """What of ``image`` cannot be shown as it is; "" if all can."""
    if image.mode not in _MODES:
        deep = image.mode.startswith(("I", "F"))
        return "more than 8 bits per channel" if deep else "colours of a kind that is not read"
    # Pillow keeps the 16 bits of that colour beside pixels of 8, where it finds none.
    return "a transparent colour of 16 bits" if "transparency" in image.info and _deep(image) else ""


def _why(file: str, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * Image.MAX_IMAGE_PIXELS} pixels"
    if isinstance(error, UnidentifiedImageError):
        empty = os.path.isfile(file) and not os.path.getsize(file)
        return "it is empty" if empty else f"its content is none of {', '.join(FORMATS)}"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return shown(" ".join(reason.split()).rstrip("."))


def _turn(image: Image.Image) -> Image.Transpose | None:
    if image.format == "TIFF" or _HOLD_ORIENTATION.isdisjoint(image.info):
        return None  # Pillow turns TIFFs itself
    with suppress(Exception):  # damaged EXIF asks for nothing
        # Not the method of PNGs, which decodes the pixels first.
        return _TURNS.get(Image.Image.getexif(image).get(_ORIENTATION))
    return None


def _deep(image: Image.Image) -> bool:
    """Whether a header that has just been read promises 16 bits per channel, of which Pillow takes the upper 8."""
    return any(";16" in str(tile[3]) for tile in image.tile)


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


class _Remark(NamedTuple):
    """What is said of images that ``applies`` to."""

    applies: Callable[[Image.Image], bool]
    what: str
    remedy: str


_REMARKS = (
    _Remark(
        _transparent,
        "have an alpha channel or a transparent colour and are put on white",
        "store them without it, on the background that they should have",
    ),
    _Remark(
        # The further pictures of an MPO, a JPEG of many cameras, are previews of the first.
        lambda image: image.format != "MPO" and getattr(image, "is_animated", False),
        "have several pages or frames, of which only the first is taken",
        "store the others as files of their own, if they matter",
    ),
    _Remark(
        lambda image: image.mode == "CMYK",
        "are CMYK and become RGB without their colour profile",
        "store them as RGB, if exact colours matter",
    ),
    _Remark(
        _deep,
        "have 16 bits per channel, of which the upper 8 are taken",
        "store them with 8 bits",
    ),
)


def read_headers(files: Sequence[str]) -> tuple[bool, Counter[tuple[int, int]]]:
    """Whether all images are grey, and how many have each (height, width); looks at `HEADERS` of them at most.

    What is converted is said by a :class:`fastdarts.notices.Notice`. Raises :class:`FastdartsError` for a file that
    :func:`opened` refuses, and for one that ends too early.
    """
    grey, sizes = True, Counter()
    counts, examples = Counter(), {}
    for file in files[:: -(-len(files) // HEADERS)]:
        with opened(file) as picture:
            grey &= picture.grey
            sizes[picture.size] += 1
            for remark in _REMARKS:
                if remark.applies(picture.image):
                    counts[remark] += 1
                    examples.setdefault(remark, file)
            if not _seems_whole(file, picture.image):
                picture.image.load()  # which says what is wrong, if anything is
    for remark, count in counts.items():
        notice(f"images {remark.what} ({count}, such as {shown(examples[remark])})", remark.remedy)
    return grey, sizes


_LAST = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}
_SOON = 2**20  # pixels that are decoded in milliseconds, whatever the format


def _seems_whole(file: str, image: Image.Image) -> bool:
    """Whether ``file`` ends as its format does, or is too big to find out. A file that does not may be whole all the
    same, with something behind it."""
    length = os.path.getsize(file)
    with open(file, "rb") as stream:
        if image.format == "WEBP":
            return int.from_bytes(stream.read(8)[4:], "little") + 8 <= length
        if last := _LAST.get(image.format):
            stream.seek(-min(len(last), length), os.SEEK_END)
            return stream.read() == last
    return image.width * image.height > _SOON


@dataclass(frozen=True)
class Decoder:
    """File to uint8 [C, H, W] in PIL's `mode` (L or RGB), by `resize` if given, of exactly `size` if given.

    Raises :class:`FastdartsError` for a file that :func:`opened` refuses or that has another size.
    """

    mode: str
    resize: vision.v2.Compose | None
    size: tuple[int, int] | None

    def __call__(self, file: str) -> Tensor:
        with opened(file) as picture:
            tensor = picture.pixels(self.mode)
        if self.resize is not None:
            tensor = self.resize(tensor)
        height, width = tensor.shape[1:]
        if self.size is not None and (height, width) != self.size:
            raise FastdartsError(
                f"{shown(file)} is {height}x{width}, other images are {self.size[0]}x{self.size[1]}: give image_size"
            )
        return tensor
