"""Files that hold disparity: those of FlyingThings3D, Sintel, KITTI and Middlebury."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, from_numpy

from fastdarts.errors import FastdartsError
from fastdarts.tasks.images.pictures import shown

ENDINGS = (".pfm", ".png", ".npy", ".npz")


def read_disparity(path: Path) -> Tensor:
    """The disparity in pixels that ``path`` holds, float32 [H, W], infinite where it is not known.

    - PFM: real numbers (FlyingThings3D, Middlebury); infinite ones are not known.
    - PNG of 16 bits, grey: 256 for each pixel, 0 is not known (KITTI).
    - PNG of 8 bits, grey: one for each pixel, 0 is not known (Middlebury 2006).
    - PNG of 8 bits, RGB: 4 R + G / 64 + B / 16384 (Sintel).
    - .npy and .npz: an array [H, W]; infinite numbers are not known.

    Raises :class:`FastdartsError` for a file that holds something else, and for numbers below 0 or that are none.
    """
    try:
        found = _READERS[path.suffix.lower()](path)
    except KeyError:
        raise FastdartsError(
            f"{shown(path)} holds no disparity that is known: expected a file that ends in {', '.join(ENDINGS)}"
        ) from None
    except FastdartsError:
        raise
    except Exception as error:  # what a damaged file raises depends on its format
        raise FastdartsError(
            f"cannot read the disparity {shown(path)} ({' '.join(str(error).split())[:120] or type(error).__name__}): "
            "replace it or remove the pair"
        ) from error
    if found.dtype.kind not in "fiu":
        raise FastdartsError(f"{shown(path)} holds {found.dtype}: expected numbers, one for each pixel")
    if found.ndim != 2 or not found.size:
        raise FastdartsError(
            f"{shown(path)} has the shape {[*found.shape]}: expected one number for each pixel, [H, W]"
        )
    if np.isnan(found).any() or (found < 0).any():
        what = "no number" if np.isnan(found).any() else f"{found.min():.4g}"
        raise FastdartsError(
            f"{shown(path)} has a disparity that is {what}: expected numbers of 0 or more, and infinite ones where the "
            "disparity is not known"
        )
    return from_numpy(np.ascontiguousarray(found, np.float32))


def read_pfm(path: Path) -> np.ndarray:
    """The real numbers of a PFM file, [H, W] or [H, W, 3]. Its rows are stored from the bottom up, and the sign of its
    scale says in which order the bytes are."""
    data = path.read_bytes()
    lines = data.split(b"\n", 3)
    kind, sizes, scale = lines[0].strip(), lines[1].split(), float(lines[2])
    if kind not in (b"Pf", b"PF") or len(sizes) != 2:
        raise FastdartsError(f"{shown(path)} is no PFM file: expected Pf or PF, width and height, and a scale")
    width, height = map(int, sizes)
    channels = 3 if kind == b"PF" else 1
    numbers = np.frombuffer(lines[3], "<f4" if scale < 0 else ">f4")
    if numbers.size != width * height * channels:
        raise FastdartsError(f"{shown(path)} has {numbers.size} numbers: expected {height} x {width} x {channels}")
    found = numbers.reshape(height, width, channels)[::-1].astype(np.float32)
    return found[..., 0] if channels == 1 else found


def _read_png(path: Path) -> np.ndarray:
    with Image.open(path, formats=("PNG",)) as image:
        mode, numbers = image.mode, np.asarray(image)
    if mode.startswith("I"):
        return _known(numbers.astype(np.float32) / 256)
    if mode == "L":
        return _known(numbers.astype(np.float32))
    if mode == "RGB":
        red, green, blue = np.moveaxis(numbers.astype(np.float32), 2, 0)
        return 4 * red + green / 64 + blue / 16384
    raise FastdartsError(f"{shown(path)} is a PNG of mode {mode}: expected grey of 8 or 16 bits, or RGB as of Sintel")


def _known(found: np.ndarray) -> np.ndarray:
    """``found`` where it is not 0, which says that nothing is known."""
    return np.where(found == 0, np.float32(np.inf), found)


def _read_array(path: Path) -> np.ndarray:
    found = np.load(path, allow_pickle=False)
    return found if isinstance(found, np.ndarray) else found[found.files[0]]


_READERS = {".pfm": read_pfm, ".png": _read_png, ".npy": _read_array, ".npz": _read_array}
