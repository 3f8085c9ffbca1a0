"""A trained network that is ready for use: it reads images, and says what is on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.nn.maps import finest
from fastdarts.tasks.images.transforms import transform_of_any
from fastdarts.trained.find import find_model
from fastdarts.trained.folder import REMEDY, Facts, read_model
from fastdarts.trained.inputs import Asked, images_of
from fastdarts.trained.maps import Map, maps_of

TOP = 3
"""Classes that are named for an image, if it is not said how many."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image.

    image: its path, or "image N".
    classes: the names of the most probable classes, the most probable one first.
    probabilities: the softmax of their logits.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[0]


@dataclass(frozen=True)
class Numbers:
    """What a network of task regression says of an image.

    image: its path, or "image N".
    names: what the numbers are.
    values: the numbers, in the unit of the targets that it was trained with.
    """

    image: str
    names: tuple[str, ...]
    values: tuple[float, ...]


class Model(nn.Module):
    """A trained network with its classes and its preprocessing; :func:`load` makes it.

    ``model(images)`` takes normalised images [N, C, H, W] and gives logits [N, classes]. A network of task regression
    gives numbers in the unit of its targets, and one of pixels maps [N, K, H, W]. The model can be given to
    ``torch.export``, ``torch.jit.trace``, ``copy.deepcopy`` and ``pickle``. ``model.half()`` and ``model.bfloat16()``
    work, too.

    Attributes:
        facts: What is known of the network, see :class:`fastdarts.trained.folder.Facts`.
        network: The network as the evaluation trains it, without an auxiliary head.
    """

    def __init__(self, facts: Facts, network: nn.Module):
        super().__init__()
        self.facts, self.network = facts, network
        for name, numbers in facts.scale.items():
            like = next(network.parameters())
            self.register_buffer(f"_{name}", like.new_tensor(numbers), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.network(images)[0]
        if self.facts.kind == "maps":
            return finest(outputs, len(self.facts.classes), images.shape[-2:])
        return self.finish(outputs)

    def finish(self, outputs: Tensor) -> Tensor:
        """What the network gives, in the unit of the targets."""
        return outputs * self._std + self._mean if self.facts.scale else outputs

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.facts.classes

    def preprocess(self, images: Any) -> Tensor:
        """Make of images what the network takes.

        Args:
            images: Whatever :meth:`predict` takes.

        Returns:
            The normalised images [N, C, H, W], float32 on the CPU.

        Raises:
            FastdartsError: An image cannot be read. The sentence names it.

        Examples:
            >>> import fastdarts, torch
            >>> fastdarts.load("runs/trained").preprocess(torch.rand(1, 16, 16)).shape
            torch.Size([1, 1, 8, 8])
        """
        return torch.stack([*self._normalised(images_of(images, self.facts.mode))])

    def _normalised(self, images: list[Asked]) -> Iterator[Tensor]:
        transform = transform_of_any(self.facts)
        for image in images:
            yield transform(image.pixels())

    @torch.inference_mode()
    def predict(
        self, images: Any, *, top: int | None = None, batch_size: int = 64
    ) -> list[Prediction] | list[Numbers] | list[Map]:
        """Say what is on images.

        Images of any size are resized and cropped as the evaluation does it. A network of tasks disparity and
        segmentation sees them whole, one after another.

        Args:
            images: One of these, or any number of them. A path, a folder (the images in it, at any depth) or a pattern
                such as "photos/*.jpg". A Pillow image. An array [H, W], [H, W, C] or [N, H, W, C]. A tensor [C, H, W]
                or [N, C, H, W]. Arrays and tensors are uint8 from 0 to 255, or floating point from 0 to 1. For a
                network that takes two views, all left views come first, then the right ones in the same order.
            top: Classes to name for each image, by default 3 or all there are.
            batch_size: Images that go through the network together.

        Returns:
            A :class:`Prediction` for each image, in their order. Labels of task multilabel each have a probability of
                their own. Of task regression a :class:`Numbers` for each image. Of tasks disparity and segmentation a
                :class:`fastdarts.trained.maps.Map` for each image or pair.

        Raises:
            FastdartsError: An image cannot be read. The sentence names it.

        Examples:
            >>> fastdarts.load("runs/trained").predict("five.png", top=1)  # doctest: +SKIP
            [Prediction(image='five.png', classes=('5',), probabilities=(0.97,))]
        """
        check_asked(self.facts)
        known, kind = len(self.classes), self.facts.kind
        if kind in ("numbers", "maps") and top is not None:
            raise FastdartsError(f"--top is {top}, but the network gives {kind} and names no classes: leave it out")
        top = min(TOP, known) if top is None else top
        if not 1 <= top <= known:
            raise FastdartsError(f"--top is {top}: expected from 1 to {known}, the number of classes")
        if batch_size < 1:
            raise FastdartsError(f"--batch-size is {batch_size}: expected at least 1")
        asked = images_of(images, self.facts.mode)
        some, was_training = next(self.parameters()), self.training
        self.eval()
        try:
            found: list[Any] = []
            if kind == "maps":
                return [*maps_of(self, self.facts, getattr(self.network, "multiple", 1), asked)]
            for start in range(0, len(asked), batch_size):
                part = asked[start : start + batch_size]
                x = torch.stack([*self._normalised(part)]).to(some.device, some.dtype)
                outputs = self(x).float()
                if kind == "numbers":
                    rows = zip(part, outputs.tolist(), strict=True)
                    found += [Numbers(image.name, self.classes, tuple(row)) for image, row in rows]
                    continue
                shares = outputs.sigmoid() if kind == "labels" else outputs.softmax(1)
                values, places = shares.topk(top)
                for image, probabilities, order in zip(part, values.tolist(), places.tolist(), strict=True):
                    names = tuple(self.classes[place] for place in order)
                    found.append(Prediction(image.name, names, tuple(probabilities)))
        finally:
            self.train(was_training)
        return found


def check_asked(facts: Facts) -> None:
    """Raise :class:`FastdartsError` for a network that says nothing of whole images."""
    if facts.kind == "parts":
        raise FastdartsError(
            f"the network was trained for task {facts.task}, which says nothing of an image: train it further by "
            "`fastdarts evaluate --pretrained`, and use that network"
        )


def load(path: str | Path, *, seed: int | None = None) -> Model:
    """Load the trained network of a run, on the CPU and in evaluation mode.

    Args:
        path: The folder of an evaluation, the folder of a model in it, or a safetensors file of ``fastdarts export``.
        seed: Which network of an evaluation with several seeds. By default it is the one with the lowest validation
            error. Without validation images it is that of the first seed.

    Returns:
        The network, ready to predict.

    Raises:
        FastdartsError: There is no model, or a file is damaged. The sentence says what to do.

    Examples:
        >>> import fastdarts
        >>> model = fastdarts.load("runs/trained")
        >>> model.classes[:3]
        ('0', '1', '2')
    """
    place = find_model(path, seed)
    facts, weights = read_model(place)
    with torch.device("meta"):  # before memory is taken for it
        shapes = {name: value.shape for name, value in facts.network().state_dict().items()}
    if wrong := [name for name in shapes.keys() | weights.keys() if name not in weights or name not in shapes]:
        raise FastdartsError(f"the weights in {place} do not fit their network ({min(wrong)}): {REMEDY}")
    if wrong := [name for name, shape in shapes.items() if weights[name].shape != shape]:
        raise FastdartsError(f"the weights in {place} do not fit their network ({wrong[0]}): {REMEDY}")
    with torch.random.fork_rng(devices=[]):  # the weights that a new network draws are replaced
        model = Model(facts, facts.network())
    model.network.load_state_dict(weights)
    return model.eval()
