"""The command ``fastdarts predict``."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fastdarts.errors import FastdartsError
from fastdarts.runs.checks import check_setting
from fastdarts.runs.kinds import Batch, Seed, Width
from fastdarts.runs.settings import expanded
from fastdarts.runs.writer import atomic_write

if TYPE_CHECKING:
    from fastdarts.trained.maps import Map
    from fastdarts.trained.model import Model, Numbers, Prediction


@dataclass(frozen=True)
class Predict:
    """Say what is on images, or numbers or maps of them, by the trained network of an evaluation."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the evaluation or of its model, or a safetensors file of `fastdarts export`."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Images, folders of images, and patterns such as 'photos/*.jpg'. For disparity, all left views, then all right
    ones in the same order."""

    output: Path | None = None
    """Folder for maps of tasks disparity and segmentation. Each image gets a .npy of its numbers and a .png to look
    at."""
    top: Width | None = None
    """Classes that are named for each image (3, or all there are)."""
    batch_size: Batch = 64
    """Images that go through the network together."""
    seed: Seed | None = None
    """Seed of the network, of an evaluation with several (lowest validation error, else the first)."""
    device: str = "auto"
    """Device: cpu, cuda, cuda:1, ...; auto takes the GPU if there is one."""
    json: bool = False
    """JSON instead of a table."""
    csv: bool = False
    """CSV instead of a table."""
    plugin: tuple[str, ...] = ()
    """Python files of your own that add methods, spaces or operations (those that the run remembers)."""

    def run(self) -> None:
        """Print the predictions."""
        from fastdarts.engine.device import named_device
        from fastdarts.trained.model import load

        check_setting("top", self.top, Width | None)
        check_setting("batch_size", self.batch_size, Batch)
        if self.json and self.csv:
            raise FastdartsError("got both --json and --csv: leave one of them out")
        device = named_device(self.device)
        model = load(self.folder, seed=self.seed).to(device)
        folder = _folder_of_maps(model, self.output)
        found = model.predict(self.images, top=self.top, batch_size=self.batch_size)
        if folder is not None:
            found = _write_maps(found, folder)
        if self.json:
            print(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
        elif self.csv:
            _write_csv(found)
        else:
            _print_table(found)


def _folder_of_maps(model: Model, output: Path | None) -> Path | None:
    """The folder for maps, None for a network that gives none.

    Raises :class:`FastdartsError` if ``output`` does not go with the network.
    """
    task, maps = model.facts.task, model.facts.kind == "maps"
    if maps and output is None:
        raise FastdartsError(
            f"the network was trained for task {task}, which says maps of images: give --output FOLDER"
        )
    if not maps and output is not None:
        raise FastdartsError(
            f"--output is {output}, but the network was trained for task {task}, which says no maps: leave it out"
        )
    if output is not None and (folder := expanded(output)).exists() and not folder.is_dir():
        raise FastdartsError(f"--output is {output}, which is a file: expected a folder, which may be new")
    return expanded(output) if output is not None else None


def _write_maps(found: Sequence[Map], folder: Path) -> list[Numbers]:
    """Write the maps, and give what is printed of each.

    Raises :class:`FastdartsError`, before any file, for two images whose files would have the same name.
    """
    import numpy as np
    from PIL import Image

    from fastdarts.trained.model import Numbers

    names = [Path(one.image).stem for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise FastdartsError(f"two images are called {twice}, and both maps would be {twice}.npy: give one at a time")
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in zip(names, found, strict=True):
        numbers, picture = io.BytesIO(), io.BytesIO()
        np.save(numbers, one.values.numpy())
        Image.fromarray(one.picture().numpy()).save(picture, "PNG")
        atomic_write(folder / f"{name}.npy", numbers.getvalue())
        atomic_write(folder / f"{name}.png", picture.getvalue())
    return [Numbers(one.image, tuple(one.summary()), tuple(one.summary().values())) for one in found]


def _write_csv(found: Sequence[Prediction] | Sequence[Numbers]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if _has_numbers(found[0]):
        writer.writerow(["image", *found[0].names])
        writer.writerows([one.image, *(f"{value:.6g}" for value in one.values)] for one in found)
        return
    places = range(1, len(found[0].classes) + 1)
    writer.writerow(["image", *(name for place in places for name in (f"class_{place}", f"probability_{place}"))])
    for one in found:
        pairs = zip(one.classes, one.probabilities, strict=True)
        writer.writerow([one.image, *(value for name, share in pairs for value in (name, f"{share:.6g}"))])


def _print_table(found: Sequence[Prediction] | Sequence[Numbers]) -> None:
    rows = [[one.image, *_cells(one)] for one in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _has_numbers(one: Prediction | Numbers) -> bool:
    return hasattr(one, "values")


def _cells(one: Prediction | Numbers) -> list[str]:
    if _has_numbers(one):
        return [f"{name} {value:.4g}" for name, value in zip(one.names, one.values, strict=True)]
    return [f"{name} {share:.1%}" for name, share in zip(one.classes, one.probabilities, strict=True)]
