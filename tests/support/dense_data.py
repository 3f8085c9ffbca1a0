"""Small folders of pairs and of label maps, as tests of dense tasks need them."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from fastdarts.tasks.dense.stereo import drawn, render


def write_pfm(path: Path, numbers: np.ndarray, order: str = "<") -> None:
    """A grey PFM file, written by its definition: rows from the bottom up, the sign of the scale for the byte order."""
    height, width = numbers.shape
    head = f"Pf\n{width} {height}\n{-1.0 if order == '<' else 1.0}\n".encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + b"".join(struct.pack(f"{order}{width}f", *row) for row in numbers[::-1]))


def write_image(path: Path, colours: np.ndarray) -> None:
    """Colours [H, W, 3] in 0..1, or numbers [H, W] of 8 or 16 bits as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = colours.dtype in (np.uint8, np.uint16)
    Image.fromarray(colours if whole else (255 * colours).round().astype(np.uint8)).save(path)


def write_pairs(root: Path, count: int = 8, size: tuple[int, int] = (16, 32), most: float = 6) -> Path:
    """left/, right/ and disparity/ with drawn pairs; what is hidden is infinite."""
    for number in range(count):
        generator = np.random.default_rng(number)
        pair = render(drawn(generator, size, most), size)
        write_image(root / "left" / f"{number}.png", pair.left)
        write_image(root / "right" / f"{number}.png", pair.right)
        write_pfm(root / "disparity" / f"{number}.pfm", np.where(pair.valid, pair.disparity, np.inf))
    return root


def write_label_maps(root: Path, count: int = 12, side: int = 16) -> Path:
    """images/ and labels/ of three classes: a ground, a bright disc, a dark square, and a rim that is not known."""
    rows, columns = np.mgrid[:side, :side]
    for number in range(count):
        generator = np.random.default_rng(number)
        colours, labels = generator.uniform(0.3, 0.5, (side, side, 3)), np.zeros((side, side), np.uint8)
        y, x = generator.uniform(4, side - 4, 2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < (side / 5) ** 2
        top, left = generator.integers(0, side - 5, 2)
        square = (abs(rows - top - 2) <= 2) & (abs(columns - left - 2) <= 2) & ~disc
        colours[disc], colours[square] = 0.9, 0.05
        labels[disc], labels[square], labels[0] = 1, 2, 255
        write_image(root / "images" / f"{number}.png", colours)
        write_image(root / "labels" / f"{number}.png", labels)
    return root
