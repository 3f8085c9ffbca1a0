"""Tables of small images with targets: discs on a ground, whose size is a number and whose colours are labels."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (0.8, 0.2, 0.1), "green": (0.2, 0.8, 0.3), "blue": (0.1, 0.3, 0.8)}


def write_discs(folder: Path, count: int = 60, side: int = 16, seed: int = 0) -> Path:
    """Images with up to three discs, one of each colour, and two tables of them: numbers.csv has the radius of the
    largest disc in pixels and the mean brightness in percent, labels.csv the colours."""
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows, columns = np.mgrid[:side, :side]
    numbers, labels = ["path,radius,brightness"], ["path,labels"]
    for k in range(count):
        pixels = generator.uniform(0, 0.2, (side, side, 3))
        has = {name: generator.random() < 0.5 for name in COLOURS}
        radius = 0.0
        for name in (name for name in COLOURS if has[name]):
            y, x = generator.uniform(3, side - 3, 2)
            own = generator.uniform(1.5, side / 3)
            radius = max(radius, own)
            pixels[(rows - y) ** 2 + (columns - x) ** 2 < own**2] = COLOURS[name]
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / "images" / f"{k}.png")
        numbers.append(f"images/{k}.png,{radius:.3f},{100 * pixels.mean():.3f}")
        labels.append(f"images/{k}.png,{'|'.join(name for name in COLOURS if has[name])}")
    for name, lines in (("numbers", numbers), ("labels", labels)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
