"""The command ``fastdarts predict``."""

from __future__ import annotations

import csv
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

if TYPE_CHECKING:
    from fastdarts.trained.model import Numbers, Prediction


@dataclass(frozen=True)
class Predict:
    """Say what is on images, or numbers of them, by the trained network of an evaluation."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the evaluation or of its model, or a safetensors file of `fastdarts export`."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Images, folders of images, and patterns such as 'photos/*.jpg'."""

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
        found = model.predict(self.images, top=self.top, batch_size=self.batch_size)
        if self.json:
            print(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
        elif self.csv:
            _write_csv(found)
        else:
            _print_table(found)


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
