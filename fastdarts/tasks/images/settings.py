"""Settings of the images, and of searches and evaluations on them; the defaults are the published ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from fastdarts.errors import FastdartsError
from fastdarts.runs.checks import AUTO, parse_bytes, parse_count, parse_seconds
from fastdarts.runs.kinds import (
    Batch,
    Count,
    Epochs,
    Factor,
    Few,
    NotNegative,
    NotNegativeInt,
    Portion,
    Positive,
    Seed,
    Seeds,
    Width,
    Workers,
)
from fastdarts.runs.settings import RunConfig
from fastdarts.spaces import ImageSpace, Space
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, SupernetConfig
from fastdarts.tasks.task import find_task

Dataset = Literal["digits", "fashion-mnist", "cifar10", "cifar100", "svhn", "folder", "own"]
TARGETS = ("parameters", "macs", "latency")
"""What a network may cost; the settings are called target_parameters and so on."""
Augmentation = Literal["standard", "none", "trivial", "rand"]


@dataclass(frozen=True)
class DataConfig(RunConfig):
    """Which images, and where the work is done."""

    group: ClassVar[str] = "data"

    dataset: Dataset = "digits"
    """Images to learn from. digits needs no download. folder means images of your own: one folder per class, train/ and
    test/ of these, or a CSV file of paths and labels. own means datasets that a script gives to fastdarts.search()."""
    data: Path | None = None
    """Folder of the dataset: the torchvision root, the folder of the IDX files, or that of your images. A CSV file that
    lists images."""
    test_portion: float = 0.2
    """Share of the images of every class that is the test set, where images of your own have none."""
    split_seed: Seed = 0
    """Seed that decides which images these are. Runs that are compared need the same."""
    image_size: Width | None = None
    """Pixels a side, an even number. By default images keep their size; if sizes differ, one is chosen and said."""
    samples: Count | None = None
    """Training images that are used, the first ones; by default all."""
    batch_size: Batch = 64
    """Images per step, of all ranks together."""
    sync_bn: bool = False
    """BatchNorm over all ranks (torchrun): it uses the statistics of the whole batch, not of each rank's part."""
    workers: Workers = 0
    """Processes that prepare images; results do not depend on it."""
    precision: Literal["float32", "bf16"] = "float32"
    """Type of the feature maps; bf16 computes them in bfloat16, as torch.autocast does. Weights, statistics, mixing
    weights and all updates stay in float32. So does whatever is differentiated twice, or subtracted to find a
    product."""


def check_images(config: DataConfig) -> None:
    """Raise :class:`FastdartsError` if the settings of the images make no sense."""
    if config.image_size is not None and config.image_size % 2:
        raise FastdartsError(f"--image-size is {config.image_size}: expected an even number of pixels")
    if not 0 < config.test_portion < 1:
        raise FastdartsError(
            f"--test-portion is {config.test_portion}: expected between 0 and 1, so that both sides have images"
        )


@dataclass(frozen=True)
class LearningConfig(RunConfig):
    """What is learned of the images, and how it is judged."""

    group: ClassVar[str] = "learning"

    loss: str = "cross-entropy"
    """Loss: cross-entropy or focal, or one of a plug-in."""
    metric: str = "error"
    """Number by which networks are judged: error, or one of a plug-in."""
    head: str = "linear"
    """Classifier on the mean of the last feature map: linear, hidden (with one hidden layer), or one of a plug-in."""
    class_weights: str | None = None
    """Weights of the classes in the loss: balanced, or numbers with commas between them. They are scaled so that their
    mean over the training images is 1 (by default all are 1)."""
    focal_gamma: NotNegative = 2.0
    """Exponent of the focal loss; with 0 it is the cross-entropy."""


@dataclass(frozen=True)
class ImageSearchConfig(LearningConfig, DataConfig, SearchConfig):
    """What searches on images add to the settings of every search."""

    group: ClassVar[str] = "images"
    extends: ClassVar[type] = SearchConfig

    batch_size: Batch | None = None
    """Images per step, of all ranks together (DARTS: 64)."""
    channels: Width | None = None
    """Channels of the first cells (DARTS: 16); of chains those of the stem."""
    layers: Few | None = None
    """Cells; in nasbench201 residual blocks count too (DARTS: 8)."""
    train_portion: float | None = None
    """Share of the training images that trains the weights; the rest trains the alphas (DARTS: 0.5)."""
    cutout: Portion = 0.0
    """Side of a random square that is blanked in each training image, as a share of the image's (papers use 0.5)."""
    augment: Augmentation = "standard"
    """Augmentation of training images. standard crops and mirrors, as published. trivial and rand add TrivialAugment or
    RandAugment of torchvision, and none changes nothing."""
    drop_path_prob: Portion = 0.0
    """Probability with which the output of each edge is dropped in the last epoch; it rises from 0. That of cutout then
    rises from 0 to 1 likewise (R-DARTS). Where single cells are trained, their operations are dropped instead."""

    def left_out(self, space: Space) -> dict[str, Any]:
        """Those of the stem come before those of the space. A space of networks of its own size decides about that."""
        published = self.published.get(self.stem, self.published.get("cifar", {}))
        named = {"layers": space.layers, "nodes": space.nodes}
        fixed = {"layers": space.layers, "channels": space.channels, "partial": 1} if space.fixed_depth else {}
        recipe = find_task(self.task).recipe
        return {**recipe, **named, **published, **fixed, **self.published.get(space.name, {})}

    def check_task(self, space: Space) -> None:
        """Both halves have images of an even size, and the rate falls."""
        check_images(self)
        space.check(self.nodes, self.layers)
        if not 0 < self.train_portion < 1:
            raise FastdartsError(
                f"--train-portion is {self.train_portion}: expected between 0 and 1, so that both halves have images"
            )


@dataclass(frozen=True)
class ImageSupernetConfig(SupernetConfig):
    """What they add to the settings of every supernet."""

    group: ClassVar[str] = "supernet"
    extends: ClassVar[type] = SupernetConfig

    stem: Literal["cifar", "imagenet"] = "cifar"
    """Beginning of the search network, and which published settings count; imagenet divides the image by 8 before the
    first cell."""
    partial: Width | None = None
    """Number of channels of which only one enters the candidate operations (DARTS: 1)."""
    edge_normalisation: bool | None = None
    """Weights of the edges, the betas, learned along with the alphas (DARTS: no)."""
    memory: Literal["store", "recompute", "checkpoint"] = "store"
    """Way to spend memory. store keeps the outputs of the convolutions for the backward pass, which is fastest.
    recompute computes them again. checkpoint keeps only the outputs of the cells and computes each cell again as a
    whole."""
    accumulate: Width = 1
    """Parts in which a batch is passed, one after another. The loss and its gradients are those of the whole batch.
    BatchNorm normalises each part by itself, and its running statistics move once for each."""
    max_memory: str | None = None
    """Bytes that a step may take, such as 4GiB; auto is what a GPU has free. memory and then accumulate are raised
    until a step is estimated to fit."""
    gap_every: NotNegativeInt = 1
    """Epochs between two measurements of the discretisation gap; 0 means never."""
    alignment_every: NotNegativeInt = 0
    """Epochs between two measurements of the layer alignment, on ten batches of the validation half; 0 means never."""

    def check_task(self, space: Space) -> None:
        """The space has such a supernet, and a batch such parts."""
        super().check_task(space)
        for name, value in network_options(self).items():
            if name not in space.has:
                raise FastdartsError(
                    f"--{name.replace('_', '-')} is {value} with method {self.method}, but space {space.name} has no "
                    "such supernet: choose another space or method"
                )
        if self.max_memory not in (None, AUTO):
            parse_bytes(self.max_memory, "--max-memory")
        if self.batch_size < 2 * self.accumulate > 2:
            raise FastdartsError(
                f"--accumulate is {self.accumulate}: expected parts of at least two images of the {self.batch_size} of "
                "--batch-size"
            )
        if self.accumulate > 1 and (reason := self.why_whole()):
            raise FastdartsError(f"--accumulate is {self.accumulate}, but {reason}: leave it out")
        if self.channels % self.partial:
            raise FastdartsError(
                f"--channels is {self.channels}: expected a multiple of {self.partial}, as one of --partial "
                f"{self.partial} channels is computed"
            )
        if getattr(self, "keep_kinks", False) and self.partial > 1:
            raise FastdartsError(
                f"--keep-kinks got --partial {self.partial}: what bypasses partial channels takes maxima of its own, "
                "so leave it out, or use --hypergradient exact"
            )


SEARCH_RECIPE: dict[str, Any] = {
    "batch_size": 64,
    "channels": 16,
    "partial": 1,
    "edge_normalisation": False,
    "warmup": 0,
    "learning_rate": 0.025,
    "learning_rate_min": 0.001,
    "learning_rate_warmup": 0,
    "arch_learning_rate": 3e-4,
    "arch_grad_clip": 0.0,
    "train_portion": 0.5,
    "eigenvalue_every": 0,
}
"""The published settings of DARTS (ICLR 2019), section 3.1 and its public code; a method's own are in its file."""


@dataclass(frozen=True)
class ImageEvaluateConfig(LearningConfig, DataConfig, EvaluateConfig):
    """Train a genotype from scratch and test it. Settings left out are the published ones of the variant: CIFAR-10
    (DARTS, section 3.2) or ImageNet (section 3.3)."""

    network: str | None = None
    """Published network, such as efficientnet-b0: its genotype, variant, channels and layers; `fastdarts describe` has
    the names."""
    variant: Literal["cifar", "imagenet", "imagenet-large", "nasbench201", "mbconv"] | None = None
    """Network and recipe: cifar (the default), or imagenet, which divides the image by 8 before the first cell.
    NASNet's largest network is imagenet-large. Cells of nasbench201 have nasbench201, and chains have mbconv."""
    batch_size: Batch | None = None
    """Images per step, of all ranks together (cifar 96, imagenet 128, others 256)."""
    epochs: Epochs | None = None
    """Passes over the training images (cifar 600, imagenet 250, nasbench201 200, mbconv 300)."""
    channels: Width | None = None
    """Channels of the first cells (cifar 36, imagenet 48, nasbench201 16). Of a chain they are those of its stem, and
    all of its layers become as much wider (mbconv: as in the genotype)."""
    layers: Few | None = None
    """Cells (cifar 20, imagenet 14, nasbench201 17). In nasnet, amoebanet and enas reduction cells come in addition. A
    chain has as many blocks as its genotype."""
    target_parameters: str | None = None
    """Most parameters of the network, such as 500k. Channels and layers that are left out are chosen: those of the
    largest network that fits."""
    target_macs: str | None = None
    """Most multiply-accumulates of an image, such as 50M; the same."""
    target_latency: str | None = None
    """Longest time of one image on this device, such as 5ms; the same."""
    learning_rate: Positive | None = None
    """SGD learning rate at the start (cifar 0.025, mbconv 0.05, others 0.1)."""
    schedule: Literal["cosine", "exponential"] | None = None
    """Course of the learning rate: along a cosine to 0, or times gamma after each epoch (imagenet)."""
    gamma: Factor = 0.97
    """Factor of the exponential schedule."""
    optimizer: ClassVar[str] = "sgd"
    momentum: Portion = 0.9
    """SGD momentum."""
    weight_decay: NotNegative | None = None
    """L2 on the weights (cifar 3e-4, imagenet 3e-5, nasbench201 5e-4, mbconv 4e-5)."""
    grad_clip: Positive = 5.0
    """Largest norm of the gradient."""
    auxiliary: bool = True
    """Auxiliary head in training; networks of nasbench201 and chains have none."""
    auxiliary_weight: NotNegative = 0.4
    """Weight of the loss of the auxiliary head."""
    drop_path_prob: Portion | None = None
    """Drop path probability; epoch e of E uses e/E of it (cifar 0.2, others 0)."""
    label_smoothing: Portion | None = None
    """Share of the training target that is spread over all classes (imagenet and mbconv 0.1, others 0)."""
    cutout: Portion | None = None
    """Side of a random square that is blanked in each training image, as a share of the image's (cifar 0.5; others
    0)."""
    augment: Augmentation = "standard"
    """Augmentation of training images. standard crops and mirrors, as published. trivial and rand add TrivialAugment or
    RandAugment of torchvision, and none changes nothing."""
    mixup: NotNegative = 0.0
    """Alpha of mixup: each training image is blended with another, and so are their labels. 0 blends none; 0.2 is
    usual."""
    cutmix: NotNegative = 0.0
    """Alpha of CutMix: a part of each training image comes from another. 0 is without; 1 is usual. With mixup, each
    batch has one of both."""
    validation_portion: Portion = 0.0
    """Share of the training images that chooses the best epoch and trains nothing. Of a folder, each class gives its
    part. The test images are then used once, with the weights of that epoch. With 0, as published, every epoch is
    tested and the last one counts."""
    pretrained: Path | None = None
    """Weights to start from: an evaluation, a model, its safetensors file or a .pt file. Genotype, variant, channels
    and layers are then those of the model. Another number of classes gets a new classifier."""
    seed: Seed = 0
    """Seed of the first training."""
    seeds: Seeds = 1
    """Trainings with seeds seed, seed+1, ...; the result is their mean and standard deviation."""

    task: str = "images"

    data_settings = ("dataset", "data", "test_portion", "split_seed")

    def check_task(self) -> None:
        """There are images of an even size on both sides, and the alphas are some that can be drawn with."""
        check_images(self)
        for name in ("mixup", "cutmix"):
            if (alpha := getattr(self, name)) and not 0.01 <= alpha <= 100:
                raise FastdartsError(f"--{name} is {alpha}: expected 0, or an alpha from 0.01 to 100")
        for name in TARGETS:
            if (text := getattr(self, f"target_{name}")) is not None:
                (parse_seconds if name == "latency" else parse_count)(text, f"--target-{name}")
                if self.channels and self.layers and self.resume is None:
                    raise FastdartsError(
                        f"--target-{name} is {text}, but --channels and --layers, --network or --pretrained say how "
                        "large the network is: leave one of them out"
                    )

    def resolved(self, space: ImageSpace, genotype: Any = None) -> ImageEvaluateConfig:
        """With every setting that was left out filled in from the recipe of the variant, by default that of the
        genotype's ``space``. What the space says of a ``genotype`` counts before that.

        Raises :class:`FastdartsError` if that space has no such variant.
        """
        variant = space.check_variant(self.variant)
        own = {} if genotype is None else space.recipe(variant, genotype)
        left_out = RECIPES[variant] | {"variant": variant} | dict(own)
        left_out = {k: v for k, v in left_out.items() if getattr(self, k) is None}
        if variant in ("nasbench201", "mbconv") and self.auxiliary:
            left_out["auxiliary"] = False
        return dataclasses.replace(self, **left_out)


RECIPES: dict[str, dict[str, Any]] = {
    "cifar": {
        "batch_size": 96,
        "epochs": 600,
        "channels": 36,
        "layers": 20,
        "learning_rate": 0.025,
        "schedule": "cosine",
        "weight_decay": 3e-4,
        "drop_path_prob": 0.2,
        "label_smoothing": 0.0,
        "cutout": 0.5,
    },
    "imagenet": {
        "batch_size": 128,
        "epochs": 250,
        "channels": 48,
        "layers": 14,
        "learning_rate": 0.1,
        "schedule": "exponential",
        "weight_decay": 3e-5,
        "drop_path_prob": 0.0,
        "label_smoothing": 0.1,
        "cutout": 0.0,
    },
    "nasbench201": {
        "batch_size": 256,
        "epochs": 200,
        "channels": 16,
        "layers": 17,
        "learning_rate": 0.1,
        "schedule": "cosine",
        "weight_decay": 5e-4,
        "drop_path_prob": 0.0,
        "label_smoothing": 0.0,
        "cutout": 0.0,
    },
    "mbconv": {
        "batch_size": 256,
        "epochs": 300,
        "learning_rate": 0.05,
        "schedule": "cosine",
        "weight_decay": 4e-5,
        "drop_path_prob": 0.0,
        "label_smoothing": 0.1,
        "cutout": 0.0,
    },
}


RECIPES["imagenet-large"] = RECIPES["imagenet"]
_DENSE = {
    "batch_size": 4,
    "epochs": 100,
    "channels": 42,
    "layers": 11,
    "learning_rate": 1e-4,
    "schedule": "cosine",
    "weight_decay": 0.0,
    "drop_path_prob": 0.0,
    "label_smoothing": 0.0,
    "cutout": 0.0,
}
RECIPES |= {f"autodispnet-{name}": _DENSE for name in ("c", "s", "css")}
RECIPES |= {f"autodispnet-small-{name}": _DENSE | {"channels": 18} for name in ("c", "css")}


def network_options(config: SupernetConfig) -> dict[str, Any]:
    """What distinguishes the supernet from that of DARTS, but for the space: ``config`` is resolved."""
    plain = {"partial": 1, "edge_normalisation": False, "stem": "cifar"}
    return {name: getattr(config, name) for name, value in plain.items() if getattr(config, name) != value}
