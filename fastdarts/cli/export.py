"""The command ``fastdarts export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastdarts.runs.kinds import Seed


@dataclass(frozen=True)
class Export:
    """Write the trained network of an evaluation into a file that runs without fastdarts."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the evaluation or of its model, or a safetensors file of this command."""
    output: Path
    """File to write; one that is there is replaced."""

    format: Literal["onnx", "pt2", "safetensors"] = "onnx"
    """Kind of file. onnx is for onnxruntime and others, and needs the extra `export`. pt2 is for torch.export.load.
    safetensors holds weights and settings, for fastdarts itself."""
    normalise: bool = False
    """Normalisation inside the file: its input is then pixels / 255 (by default normalised images)."""
    seed: Seed | None = None
    """Seed of the network, of an evaluation with several (lowest validation error, else the first)."""
    plugin: tuple[str, ...] = ()
    """Python files of your own that add methods, spaces or operations (those that the run remembers)."""

    def run(self) -> None:
        """Write the file and print what it takes and gives."""
        from fastdarts.trained.export import check_export, export
        from fastdarts.trained.model import load

        check_export(self.format, self.output, self.normalise)
        model = load(self.folder, seed=self.seed)
        made = export(model, self.format, self.output, normalise=self.normalise)
        facts = model.facts
        print(f"{self.format} {made.path}")
        pixels = "pixels / 255" if self.normalise else "(pixels / 255 - mean) / std"
        channels, height, width = facts.shape
        print(f"input   images [N, {channels}, {height}, {width}] float32, {pixels}, {facts.colours}")
        for step, _, what in (line.partition(": ") for line in facts.preprocessing):
            if step in ("resize", "crop"):
                print(f"{step:7} {what}")
        names = f", {', '.join(facts.classes)}" if facts.kind == "numbers" else ""
        of_pixels = f", {height}, {width}" if facts.kind == "maps" else ""
        what = "maps" if of_pixels else "numbers" if names else "logits"
        print(f"output  {what} [N, {len(facts.classes)}{of_pixels}] float32{names}")
        if not self.normalise:
            print(f"mean    {', '.join(f'{number:.6g}' for number in facts.mean)}")
            print(f"std     {', '.join(f'{number:.6g}' for number in facts.std)}")
        print(f"largest difference from the model {made.difference:.1e} of the largest logit")
