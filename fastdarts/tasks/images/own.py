"""Searches and evaluations on a Dataset or DataLoader of one's own: classes and sizes are found, and every item is
checked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
)

from fastdarts.errors import FastdartsError
from fastdarts.notices import notice
from fastdarts.runs.checkpoint import find_checkpoint
from fastdarts.tasks.images.batches import Workers
from fastdarts.tasks.images.data import ImageData
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.settings import SEARCH_RECIPE, ImageEvaluateConfig, ImageSearchConfig
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.images.transforms import as_it_is
from fastdarts.tasks.task import find_task

FOREIGN = {  # settings of images that fastdarts reads, and their defaults: those of one's own are what a script makes
    "data": None, "samples": None, "image_size": None, "test_portion": ImageSearchConfig.test_portion, "split_seed": 0,
    "cutout": 0.0, "augment": "standard", "train_portion": SEARCH_RECIPE["train_portion"],
}  # fmt: skip
_HOW = "as v2.ToImage() and v2.ToDtype(torch.float32, scale=True) make it"


def as_dataset(given: Dataset | DataLoader, name: str) -> tuple[Dataset, dict[str, Any]]:
    """The Dataset of ``given`` and what its DataLoader says of a run: ``batch_size`` and ``workers``.

    A run shuffles by itself, so that it can go on from any step. Raises :class:`FastdartsError` for a DataLoader
    that does more than that, and for anything else that has no length or no items.
    """
    found: dict[str, Any] = {}
    if isinstance(given, DataLoader):
        own = type(given.sampler) not in (RandomSampler, SequentialSampler) if given.batch_sampler else True
        if given.batch_size is None or own or given.collate_fn is not default_collate:
            raise FastdartsError(
                f"{name} is a DataLoader with a sampler or collate_fn of its own, but a run shuffles and collates "
                "by itself: give its Dataset"
            )
        found, given = {"batch_size": given.batch_size, "workers": given.num_workers}, given.dataset
    if not hasattr(given, "__len__") or not hasattr(given, "__getitem__"):
        raise FastdartsError(
            f"{name} is a {type(given).__name__} without a length or items by number: give a Dataset with __len__ and "
            "__getitem__"
        )
    if not len(given):
        raise FastdartsError(f"{name} has no items: expected one at least")
    return given, found


class Checked(Dataset):
    """The items of ``images``, each an image [C, H, W] in floating point and a label below the number of classes.

    Where ``kind`` is not "classes" the label is a number or several, as float32 [classes]; of "labels" each is 0 or 1.
    Raises :class:`FastdartsError` at the first item that is none, or of another shape than ``shape``.
    """

    def __init__(
        self,
        images: Dataset,
        name: str,
        shape: tuple[int, ...] | None = None,
        classes: int | None = None,
        kind: str = "classes",
    ):
        self.images, self.name, self.shape, self.classes, self.kind = images, name, shape, classes, kind

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        at, item = f"item {index} of {self.name}", self.images[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise FastdartsError(f"{at} is a {type(item).__name__}: expected a pair of an image and a label")
        image, label = item
        if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
            what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise FastdartsError(f"{at} has an image that is {what}: expected a float tensor [C, H, W], {_HOW}")
        if self.shape is not None and tuple(image.shape) != self.shape:
            raise FastdartsError(
                f"{at} has the shape {tuple(image.shape)}, but item 0 of train {self.shape}: resize or crop all alike"
            )
        if self.kind != "classes":
            return image.float(), self._targets(at, label)
        try:
            number = int(label)
            if isinstance(label, str) or number != label:
                raise ValueError("a part of it would be lost")
        except (TypeError, ValueError, OverflowError):
            raise FastdartsError(f"{at} has the label {label!r}: expected a whole number") from None
        if number < 0 or (self.classes is not None and number >= self.classes):
            expected = "0 or more" if self.classes is None else f"0 to {self.classes - 1}"
            raise FastdartsError(f"{at} has the label {number}: expected {expected}; name all classes with classes=")
        return image.float(), number

    def _targets(self, at: str, label: Any) -> Tensor:
        binary = self.kind == "labels"
        what = "1 for each label that the image has, else 0" if binary else "finite numbers"
        try:
            found = torch.as_tensor(label, dtype=torch.float32).reshape(-1)
        except (TypeError, ValueError, RuntimeError):
            raise FastdartsError(f"{at} has the target {str(label)[:80]!r}: expected {what}") from None
        if self.classes is not None and len(found) != self.classes:
            raise FastdartsError(f"{at} has {len(found)} targets, but item 0 of train {self.classes}: give all alike")
        if not found.isfinite().all() or (binary and not ((found == 0) | (found == 1)).all()):
            raise FastdartsError(f"{at} has the targets {found.tolist()[:5]}: expected {what}")
        return found


def find_targets(train: Dataset, names: int | Sequence[str] | None, kind: str) -> tuple[str, ...]:
    """The names of numbers or labels: those given, or as many as the first item has."""
    count = len(Checked(train, "train", kind=kind)[0][1])
    if names is None or isinstance(names, int):
        names = [f"{kind.removesuffix('s')} {k}" for k in range(count if names is None else names)]
    if len(names) != count:
        raise FastdartsError(f"classes names {len(names)} targets, but item 0 of train has {count}: name all of them")
    return tuple(map(str, names))


def find_classes(train: Dataset, classes: int | Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes: those given, ``train.classes``, or as many as its labels say.

    Labels are looked up in ``targets`` or ``labels``, or else in all items.
    """
    if isinstance(classes, int):
        return tuple(map(str, range(classes)))
    if classes is None:
        inner = train
        while isinstance(inner, Subset):  # of random_split: the classes are those of the whole
            inner = inner.dataset
        classes = getattr(inner, "classes", None)
    if classes is not None:
        return tuple(map(str, classes))
    labels = getattr(train, "targets", getattr(train, "labels", None))
    if labels is None:
        checked = Checked(train, "train")
        labels = [checked[index][1] for index in range(len(checked))]
    return tuple(map(str, range(int(max(map(int, labels))) + 1)))


def own_data(config: Any, parts: Mapping[str, Dataset], classes: int | Sequence[str] | None) -> ImageData:
    """What networks need to know of ``parts``, "train" and another one, which counts as the test images.

    Raises :class:`FastdartsError` for settings of images that fastdarts reads, and for a first or last item that does
    not fit.
    """
    others = list(parts)[1]
    if set_too := [name for name, usual in FOREIGN.items() if getattr(config, name, None) not in (None, usual)]:
        raise FastdartsError(
            f"got {set_too[0]} beside train and {others}: it is for the datasets that fastdarts reads, so leave it "
            "out and change the images in your Dataset"
        )
    kind = find_task(config.task).objective_type.kind
    kind = kind if kind in ("numbers", "labels") else "classes"
    train = parts["train"]
    names = find_classes(train, classes) if kind == "classes" else find_targets(train, classes, kind)
    if len(names) < 2 and kind == "classes":
        raise FastdartsError(f"train has {len(names)} class: expected two or more; name all with classes=")
    shape = tuple(Checked(train, "train", kind=kind)[0][0].shape)
    checked = [Checked(part, name, shape, len(names), kind) for name, part in parts.items()]
    for part in checked:
        part[len(part) - 1]  # the first and the last item of both are looked at before the run begins
    channels, height, width = shape
    mean, std = (0.0,) * channels, (1.0,) * channels
    return ImageData("own", *checked, names, channels, (height, width), mean, std, flip=False)


def own_objective(
    config: ImageEvaluateConfig, train: Dataset, test: Dataset, classes: int | Sequence[str] | None = None
) -> tuple[Objective, range]:
    """What an evaluation learns of ``train``, all of it, and is tested with.

    A Notice says where images are not pixels from 0 to 1: the model does not know then how to make them of files.
    """
    if find_task(config.task).objective_type.kind == "parts":
        raise FastdartsError(
            f"got train and test for task {config.task}, whose networks are trained on images that fastdarts reads: "
            "give dataset and data, or another task"
        )
    data = own_data(config, {"train": train, "test": test}, classes)
    indices = range(len(train))
    objective = find_task(config.task).objective_type(data, indices, config)
    if config.resume is not None:
        facts = {**objective.counts(), "images": len(indices), "image_shape": (data.channels, *data.size)}
        check_began(find_checkpoint(config.resume).parent, facts)
    low, high = (float(value) for value in data.train[0][0].aminmax())
    if low < 0 or high > 1:
        notice(
            f"item 0 of train has values from {low:.3g} to {high:.3g}, and the model will take images of files as "
            "pixels from 0 to 1",
            "call model(images) with images that your Dataset has made, or leave its normalisation out",
        )
    return objective, indices


def check_began(folder: Path, facts: Mapping[str, Any]) -> None:
    """Raise :class:`FastdartsError` if the run in ``folder`` began with other images, as far as ``facts`` say."""
    try:
        stored = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # stopped before it was written, or damaged, which others say
    for name, value in facts.items():
        began = stored.get(name, value)
        if json.loads(json.dumps(value)) != began:
            raise FastdartsError(
                f"{name.replace('_', ' ')} is {value}, but the run in {folder} began with {began}: give the same "
                "datasets, or name a new folder with run="
            )


class OwnProblem(ImageProblem):
    """``train`` for the weights, and ``valid`` for the alphas and measurements. Images stay as the datasets give them:
    they are neither augmented nor normalised here."""

    def __init__(
        self,
        config: ImageSearchConfig,
        train: Dataset,
        valid: Dataset,
        classes: int | Sequence[str] | None = None,
    ):
        data = own_data(config, {"train": train, "valid": valid}, classes)
        both = ConcatDataset([data.train, data.test])
        self.data = dataclasses.replace(data, train=both)
        self.indices, self.examples = range(len(both)), None
        self.halves = range(len(train)), range(len(train), len(both))
        self.label = f"own-{config.method}"
        self.workers = Workers(config.workers, both)
        self.take(find_task(config.task).objective_type(self.data, self.halves[0], config))

    def facts(self) -> dict[str, Any]:
        return {**self.data.facts(), "training images": len(self.halves[0]), "validation images": len(self.halves[1])}

    def description(self) -> dict[str, Any]:
        return {**super().description(), "images": len(self.halves[0]), "validation_images": len(self.halves[1])}

    def check_resumed(self, state: Any, config: ImageSearchConfig) -> None:
        """Raise :class:`FastdartsError` if the run began with other images, as far as their numbers and shapes say."""
        if config.resume is not None:
            check_began(find_checkpoint(config.resume).parent, self.description())

    def train_transform(self, config: ImageSearchConfig, share: float = 1.0) -> Any:
        return as_it_is

    def eval_transform(self) -> Any:
        return as_it_is
