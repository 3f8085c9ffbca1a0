"""The folder of a trained network: its weights, and model.json with everything else that it takes to use them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.registry import load_plugin
from fastdarts.runs.stored import check, read_table
from fastdarts.runs.writer import atomic_write
from fastdarts.spaces import Architecture, ImageSpace, architecture
from fastdarts.tasks.images.heads import LINEAR, fit_head
from fastdarts.tasks.images.transforms import is_big

MODEL = "model.json"
WEIGHTS = "weights.safetensors"
ENDING = ".safetensors"
KEY = "fastdarts"
"""What model.json is called in the header of a single file, and the field that says that a table is a model.json."""
VERSION = 1
KINDS = ("classes", "numbers", "labels", "parts", "maps")
"""What the outputs of a network may be."""
REMEDY = "restore the file, or write it again with `fastdarts evaluate --resume RUN`"


class _Outputs(TypedDict, total=False):
    task: str
    kind: str
    head: str
    scale: dict[str, list[float]]


class _Stored(_Outputs):
    fastdarts: str
    version: int
    genotype: dict[str, Any]
    variant: str
    channels: Annotated[int, range(1, 10**5)]
    layers: Annotated[int, range(1, 1000)]
    classes: list[str]
    size: list[Annotated[int, range(1, 10**5)]]
    mean: list[float]
    std: list[float]
    training: dict[str, Any]
    versions: dict[str, Any]
    plugin: list[str]


@dataclass(frozen=True)
class Facts:
    """What it takes to use the weights of a network for images.

    genotype: as in genotype.json, with its space.
    variant, channels, layers: the settings of the evaluation that decide how the network is built.
    classes: the names of the classes, in the order of the logits.
    size: height and width of the images that the network was trained on, in pixels.
    mean, std: the constants of the normalisation, one per channel, of pixels in 0..1.
    training: the images, the seed, the epochs and the errors, in words and numbers.
    versions: the packages that have trained it.
    plugin: Python files that its operations or its space need.
    task, head: what it was trained for, and its head.
    kind: what its outputs are: "classes", "numbers", "labels", "parts" of an image, or "maps" of its pixels.
    scale: mean and std by which outputs become numbers in their own unit; empty for others.
    """

    genotype: Mapping[str, Any]
    variant: str
    channels: int
    layers: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plugin: tuple[str, ...] = ()
    task: str = "images"
    kind: str = "classes"
    head: str = LINEAR
    scale: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def outputs_of(self, task: str) -> tuple[str, ...]:
        """The names of the outputs, if they are those of this task."""
        return self.classes if task == self.task else ()

    @property
    def mode(self) -> str:
        """The colours of its images, by Pillow's name: L is grey, RGB is colour."""
        return "L" if len(self.mean) == 1 else "RGB"

    @property
    def colours(self) -> str:
        """The same in words; images of six channels are two views."""
        return "grey" if self.mode == "L" else "RGB, left and right view" if len(self.mean) == 6 else "RGB"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (len(self.mean), *self.size)

    def architecture(self) -> Architecture:
        """Space and genotype; raises :class:`FastdartsError` if a plug-in that they need is missing."""
        for path in self.plugin:
            if Path(path).is_file():  # it may have been loaded from another place
                load_plugin(Path(path))
        found = architecture(dict(self.genotype))
        if not isinstance(found.space, ImageSpace):
            raise FastdartsError(
                f"the genotype is of space {found.space.name}: expected a space of networks for images"
            )
        return found

    def network(self, classes: int | None = None) -> nn.Module:
        """A network without an auxiliary head, with fresh weights and so many outputs (one per class)."""
        space, genotype = self.architecture()
        variant = space.check_variant(self.variant)
        outputs = len(self.classes) if classes is None else classes
        sizes = variant, self.channels, outputs, self.layers, False, genotype
        return fit_head(space.network(*sizes, in_channels=len(self.mean)), self.head, outputs, self.size)

    @property
    def preprocessing(self) -> list[str]:
        """What becomes of an image before the network takes it, a step in each line."""
        height, width = self.size
        resized = [round(side * 256 / 224) for side in self.size] if is_big(self.size) else [height, width]
        steps = [
            f"colours: {self.colours}; a transparent image is put on white; turned as EXIF says",
            f"resize: shorter side to {min(resized)} pixels, antialiased"
            if height == width
            else f"resize: to {resized[0]}x{resized[1]} pixels, antialiased",
            f"crop: the middle {height}x{width} pixels",
            "scale: pixels / 255",
            "normalise: (x - mean) / std, per channel",
        ]
        return steps if self.kind != "maps" else [f"colours: {self.colours}", *steps[2:]]

    def to_dict(self) -> dict[str, Any]:
        """What model.json holds, but for the digest of the weights."""
        stored = {KEY: "model", "version": VERSION} | dataclasses.asdict(self)
        return stored | {"preprocessing": self.preprocessing}


def write_model(folder: Path, facts: Facts, weights: Mapping[str, Tensor]) -> None:
    """Write the folder of a model: ``weights.safetensors``, then ``model.json`` with the digest of the weights.

    Both files are replaced atomically. A folder without model.json is not finished. Weights of an auxiliary head are
    left out, as the network is used without it.
    """
    folder.mkdir(exist_ok=True)
    data = save(plain(weights))
    atomic_write(folder / WEIGHTS, data)
    table = facts.to_dict() | {"weights": {"file": WEIGHTS, "blake2b": _digest(data)}}
    atomic_write(folder / MODEL, (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode())


def single_file(facts: Facts, weights: Mapping[str, Tensor]) -> bytes:
    """A safetensors file that is a whole model: model.json is text in its header, under the key ``fastdarts``."""
    return save(plain(weights), {KEY: json.dumps(facts.to_dict(), ensure_ascii=False)})


def plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` on the CPU, each with memory of its own, without those of an auxiliary head."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in weights.items()
        if not name.startswith("auxiliary_head.")
    }


def read_model(path: Path) -> tuple[Facts, dict[str, Tensor]]:
    """The facts and weights of a model: a folder that :func:`write_model` wrote, or a :func:`single_file`.

    Raises :class:`FastdartsError` for files that are missing, damaged or of another kind.
    """
    return _read_folder(path) if path.is_dir() else _read_file(path)


def _read_folder(folder: Path) -> tuple[Facts, dict[str, Tensor]]:
    source = folder / MODEL
    table = read_table(source)
    if table is None:
        raise FastdartsError(f"{folder} has no {MODEL}: give the folder of a model, or that of an evaluation")
    facts, stored = _facts(table, source), table.get("weights")
    try:
        data = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise FastdartsError(f"{folder / WEIGHTS} cannot be read ({error.strerror}): {REMEDY}") from error
    if not isinstance(stored, dict) or stored.get("blake2b") != _digest(data):
        raise FastdartsError(f"{folder / WEIGHTS} is not the file that {source} describes: {REMEDY}")
    return facts, _tensors(data, folder / WEIGHTS)


def _read_file(path: Path) -> tuple[Facts, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
        data = path.read_bytes()
    except (OSError, SafetensorError) as error:
        raise FastdartsError(f"{path} cannot be read as a safetensors file ({error}): give another file") from error
    if text is None:
        raise FastdartsError(
            f"{path} holds weights and no description of their network: give the folder of the model, or a file that "
            "`fastdarts export --format safetensors` wrote"
        )
    try:
        table = json.loads(text)
    except ValueError as error:
        raise FastdartsError(f"the header of {path} is damaged ({error}): export the file again") from error
    return _facts(table, path), _tensors(data, path)


def _facts(table: Any, source: Path) -> Facts:
    """The facts in what model.json holds, checked."""
    if not isinstance(table, dict) or table.get(KEY) != "model":
        raise FastdartsError(f"{source} does not describe a model of fastdarts: give the folder of a model")
    if table.get("version") != VERSION:
        raise FastdartsError(
            f"{source} is of version {table.get('version')!r}: expected {VERSION}; use the fastdarts that wrote it"
        )
    check(table, _Stored, source, REMEDY)
    known = {field.name for field in dataclasses.fields(Facts)}
    named = {name: value for name, value in table.items() if name in known}
    facts = Facts(**{name: tuple(value) if isinstance(value, list) else value for name, value in named.items()})
    channels = (1, 3, 6) if facts.kind == "maps" else (1, 3)
    fits = len(facts.mean) == len(facts.std) in channels and len(facts.size) == 2 and facts.classes
    scale = facts.scale.get("mean", ()), facts.scale.get("std", ())
    fits = fits and (not facts.scale or [*map(len, scale)] == [len(facts.classes)] * 2)
    if facts.kind not in KINDS:
        raise FastdartsError(f"{source} is damaged (kind is {facts.kind[:80]!r}, none of {', '.join(KINDS)}): {REMEDY}")
    if not fits or min(facts.std) <= 0:
        raise FastdartsError(f"{source} is damaged (its classes, size, mean, std or scale make no sense): {REMEDY}")
    return facts


def _tensors(data: bytes, source: Path) -> dict[str, Tensor]:
    try:
        return load(data)
    except SafetensorError as error:
        raise FastdartsError(f"{source} cannot be read as a safetensors file ({error}): {REMEDY}") from error


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()
