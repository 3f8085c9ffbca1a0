"""What networks learn of images without labels, after Liu et al. 2020, "Are Labels Necessary for Neural Architecture
Search?" (UnNAS, ECCV)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.tasks.images import vision
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.scores import Score, meter_of
from fastdarts.tasks.images.settings import Augmentation
from fastdarts.tasks.images.survey import sample
from fastdarts.tasks.images.transforms import eval_transform, is_big, resize_and_crop
from fastdarts.tasks.pretext.lab import bins, lab, nearest_bins, table
from fastdarts.tasks.pretext.permutations import permutations

SAME = 0.05
"""Mean difference from a rotated copy, as a share of the deviation, below which an image is symmetric."""


class Pretext(Objective):
    """An objective whose targets are made of the images; their labels are not used, and loss and head are its own."""

    @abstractmethod
    def choose(self, config: Any, indices: Sequence[int]) -> None:
        """Raise :class:`FastdartsError` if nothing of the kind is learned of these images."""

    def some(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """About 100 of the training images, 16 of big ones, as networks for classes would take them."""
        plain = (lambda image: image) if self.data.name == "own" else eval_transform(self.data)
        for place in sample(len(indices), 16 if is_big(self.data.size) else 100):
            yield plain(self.data.train[indices[place]][0])


def rotations(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Images [N, C, S, S] turned, [4 N, C, S, S], and how often each was turned by 90 degrees, int64 [4 N].

    Each image comes four times in a row, turned counter-clockwise by 0, 90, 180 and 270 degrees.
    """
    turned = torch.stack([torch.rot90(x, turns, (2, 3)) for turns in range(4)], 1)
    return turned.flatten(0, 1).contiguous(), torch.arange(4).repeat(len(x))


class Rotation(Pretext):
    """How far an image is turned: 0, 90, 180 or 270 degrees. All four copies of every image are in its batch."""

    task, per_image = "rotation", 4
    mix = staticmethod(rotations)

    def choose(self, config: Any, indices: Sequence[int]) -> None:
        self.names = ("0°", "90°", "180°", "270°")
        height, width = self.size
        if height != width:
            raise FastdartsError(
                f"task rotation turns images by 90 degrees, and these are {height}x{width}: give --image-size for "
                "squares"
            )
        images = [*self.some(indices)]
        alike = sum(map(is_symmetric, images))
        if 2 * alike > len(images):
            raise FastdartsError(
                f"task rotation cannot be learned: of {len(images)} images that were looked at, {alike} are the same "
                "when they are turned; take images with an up and a down"
            )

    def rehearsal(self, images: int) -> tuple[Tensor, Tensor]:
        return rotations(*super().rehearsal(images))


def is_symmetric(image: Tensor) -> bool:
    """Whether a square image [C, S, S] is nearly the same when it is turned by 90 or 180 degrees."""
    spread = image.std().item()
    differences = ((torch.rot90(image, turns, (1, 2)) - image).abs().mean().item() for turns in (1, 2))
    return any(difference <= SAME * spread for difference in differences)


@dataclass(frozen=True)
class Puzzle:
    """Cuts images into tiles, and puts these in another order.

    grid: patches a side.
    patch: height and width of a patch.
    tile: side of the square that is taken from a random place of each patch.
    """

    grid: int
    patch: tuple[int, int]
    tile: int

    def __call__(self, image: Tensor, label: Any) -> tuple[Tensor, int]:
        """The tiles [grid², C, tile, tile], each with mean 0 and deviation 1, and the number of their permutation: tile
        i is in slot permutation[i]."""
        orders = permutations(self.grid**2)
        number = int(torch.randint(len(orders), ()))
        tiles: list[Tensor] = [image] * self.grid**2
        for i, slot in enumerate(orders[number].tolist()):
            row, column = divmod(i, self.grid)
            top = row * self.patch[0] + int(torch.randint(self.patch[0] - self.tile + 1, ()))
            left = column * self.patch[1] + int(torch.randint(self.patch[1] - self.tile + 1, ()))
            tile = image[:, top : top + self.tile, left : left + self.tile]
            tiles[slot] = (tile - tile.mean()) / tile.std(correction=0).clamp(min=1e-5)
        return torch.stack(tiles), number


def in_turn(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The tiles of a batch [N, T, C, h, w] as images [N T, C, h, w]."""
    return x.flatten(0, 1), y


EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Of the colours of ImageNet, as AlexNet jitters along them."""


class Lighting(nn.Module):
    """Adds a random colour along the main directions of ImageNet's colours to an image [3, H, W]."""

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength

    def forward(self, image: Tensor) -> Tensor:
        drawn = self.strength * torch.randn(3) * torch.tensor(EIGENVALUES)
        return image + (torch.tensor(EIGENVECTORS) @ drawn).view(3, 1, 1)


class Jigsaw(Pretext):
    """In which order the tiles of an image are: 2x2 tiles in all 24 orders, of big images 3x3 in 1,000.

    As published, a tile has 0.76 of the side of its patch, 12 of 16 pixels at 32. Big images of side S give patches of
    (S - 1) / 3, 85 at 256. They are grey with probability 0.3, and their colours are jittered. One mean and one
    deviation normalise all colours of a tile.
    """

    task, kind = "jigsaw", "parts"
    mix = staticmethod(in_turn)

    def choose(self, config: Any, indices: Sequence[int]) -> None:
        self.big = is_big(self.data.size)
        grid = 3 if self.big else 2
        self.cropped = tuple(side - self.big for side in self.data.size)
        patch = tuple(side // grid for side in self.cropped)
        tile = int(0.76 * min(patch)) // 2 * 2
        if tile < 8:
            raise FastdartsError(
                f"task jigsaw cuts images of {self.data.size[0]}x{self.data.size[1]} pixels into tiles of {tile}, and "
                "networks need 8: give --image-size 22 or more"
            )
        self.pair, self.size, self.head = Puzzle(grid, patch, tile), (tile, tile), f"tiles-{grid**2}"
        self.tiles = grid**2
        self.names = tuple("".join(map(str, order)) for order in permutations(grid**2).tolist())

    def train_transform(
        self, length: int, *, share: float = 1.0, jitter: bool = False, augment: Augmentation = "standard"
    ) -> Callable[[Tensor], Tensor]:
        if not self.big:
            return super().train_transform(length, share=share, augment=augment)
        steps = [vision.v2.Resize(min(self.data.size), antialias=True), vision.v2.RandomCrop(self.cropped)]
        steps += [vision.v2.RandomHorizontalFlip()] * self.data.flip
        colour = self.channels == 3
        steps += [vision.v2.RandomGrayscale(0.3)] * colour + [vision.v2.ToDtype(torch.float32, scale=True)]
        return vision.v2.Compose(
            [*steps, *[Lighting(0.1)] * colour, vision.v2.Normalize(self.data.mean, self.data.std)]
        )

    def eval_transform(self) -> Callable[[Tensor], Tensor]:
        if not self.big:
            return super().eval_transform()
        steps = resize_and_crop(self.data.size, self.cropped)
        normal = vision.v2.ToDtype(torch.float32, scale=True), vision.v2.Normalize(self.data.mean, self.data.std)
        return vision.v2.Compose([*steps, *normal])

    def rehearsal(self, images: int) -> tuple[Tensor, Tensor]:
        return torch.empty(images * self.tiles, self.channels, *self.size), torch.zeros(images, dtype=torch.int64)


@dataclass(frozen=True)
class Colours:
    """Divides colours: the lightness is what the network sees, the rest what it learns.

    mean, std: constants by which lightness / 100 is normalised.
    """

    mean: float
    std: float

    def __call__(self, image: Tensor, label: Any) -> tuple[Tensor, Tensor]:
        """The normalised lightness [1, H, W] of an sRGB image in 0..1, and the bin of each pixel's colour, [H, W]."""
        lightness, *ab = lab(image)
        return ((lightness / 100 - self.mean) / self.std)[None], nearest_bins(torch.stack(ab), table())


class PixelError(Score):
    """The share of the pixels that are taken for another bin, in percent."""

    title, unit = "error of pixels", " %"

    def counted(self, outputs: Tensor, target: Tensor) -> Tensor:
        return torch.stack([(outputs.argmax(1) != target).sum(), target.new_tensor(target.numel())]).double()

    def result(self, seen: Tensor, images: int) -> dict[str, float]:
        wrong, pixels = seen.tolist()
        return {"error": 100 * wrong / pixels}


class Colourisation(Pretext):
    """The colour of every pixel of a grey image: one of 313 bins.

    Small images are mirrored at random and not cropped, big ones cropped and resized, as published.
    """

    task, kind = "colourisation", "parts"
    head_name = "pixels"

    def choose(self, config: Any, indices: Sequence[int]) -> None:
        if self.data.name == "own":
            raise FastdartsError(
                "task colourisation needs pixels that are not normalised, and datasets of your own may be: give "
                "--dataset folder"
            )
        if self.channels != 3 or not any(has_colours(image) for image in self.some(indices)):
            raise FastdartsError(
                "task colourisation learns the colours of images, and these are grey: take coloured ones"
            )
        mean, std = (sum(numbers) / 3 for numbers in (self.data.mean, self.data.std))
        self.pair, self.channels, self.head = Colours(mean, std), 1, self.head_name
        self.names = tuple(f"{a},{b}" for a, b in bins().tolist())
        self.score = PixelError()
        self.meter_type = meter_of(self.score)

    def train_transform(
        self, length: int, *, share: float = 1.0, jitter: bool = False, augment: Augmentation = "standard"
    ) -> Callable[[Tensor], Tensor]:
        steps = [vision.v2.RandomResizedCrop(self.data.size)] if is_big(self.data.size) else []
        steps += [vision.v2.RandomHorizontalFlip()] * self.data.flip
        return vision.v2.Compose([*steps, vision.v2.ToDtype(torch.float32, scale=True)])

    def eval_transform(self) -> Callable[[Tensor], Tensor]:
        *steps, _ = eval_transform(self.data).transforms  # all but the normalisation
        return vision.v2.Compose(steps)

    def rehearsal(self, images: int) -> tuple[Tensor, Tensor]:
        return torch.empty(images, 1, *self.size), torch.zeros(images, *self.size, dtype=torch.int64)

    def model_facts(self) -> dict[str, Any]:
        return super().model_facts() | {"mean": (self.pair.mean,), "std": (self.pair.std,)}


def has_colours(image: Tensor) -> bool:
    """Whether the channels of a normalised image [3, H, W] differ by more than a constant of each."""
    return bool((image - image[:1] - (image - image[:1]).mean((1, 2), keepdim=True)).abs().max() > 0.05)
