"""Settings of a search and of an evaluation: every field is a flag and a TOML key; defaults are the published ones."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from fastdarts.errors import FastdartsError
from fastdarts.spaces import DARTS, Space, find_space

S = TypeVar("S", "SearchConfig", "EvaluateConfig")
Dataset = Literal["digits", "fashion-mnist", "cifar10", "cifar100", "svhn", "folder"]


def expanded(path: str | Path) -> Path:
    """``path`` with the home folder in place of a leading ~; raises :class:`FastdartsError` for an empty one."""
    if not (text := os.fspath(path)) or "\0" in text:
        raise FastdartsError(f"got {text!r} for a path: name a file or folder, or leave it out")
    return Path(os.path.expanduser(text))


@dataclass(frozen=True)
class RunConfig:
    """Where the work is done, and what it leaves. In paths, a leading ~ is the home folder."""

    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes the GPU if there is one. Of several ranks each takes its own with cuda."""
    threads: int | None = None
    """CPU threads; results are bit-identical only for the same number."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints within an epoch; one is written after each epoch anyway, and 0 means every step."""
    run: Path | None = None
    """Folder for everything the run leaves; by default a new one under runs/."""
    resume: Path | None = None
    """Go on with the run in this folder, or of this checkpoint file."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), Path):
                object.__setattr__(self, field.name, Path(os.path.expanduser(value)))


@dataclass(frozen=True)
class DataConfig(RunConfig):
    """Which images, and where the work is done."""

    dataset: Dataset = "digits"
    """Images to learn from; digits needs no download, folder means one folder of images per class, or train/ and test/
    of these."""
    data: Path | None = None
    """Folder of the dataset: the torchvision root, the folder of the IDX files, or the image folder."""
    test_portion: float = 0.2
    """Share of the images of every class that is the test set, where an image folder has none."""
    image_size: int | None = None
    """Resize images to this many pixels a side (even); by default they keep their size."""
    samples: int | None = None
    """Use only the first so many training images."""
    batch_size: int = 64
    """Images per step, of all ranks together."""
    sync_bn: bool = False
    """Of several ranks (torchrun): normalise by the statistics of the whole batch, not of each rank's part."""
    workers: int = 0
    """Processes that prepare images; results do not depend on it."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16 computes feature maps in bfloat16, as torch.autocast does; weights, statistics, mixing weights, all updates
    and whatever is differentiated twice or subtracted to find a product stay in float32."""


@dataclass(frozen=True)
class SearchConfig(DataConfig):
    """Search for a cell. Settings left out are the published ones: of DARTS (ICLR 2019), section 3.1 and its public
    code, or for pc-darts of PC-DARTS (ICLR 2020), section 4 and its public code."""

    method: Literal[
        "darts", "pc-darts", "darts-es", "darts-ada", "lambda-darts", "blank", "joint", "coordinate", "random",
        "random-ws", "select", "darts-pt", "blank-pt",
    ] = "darts"  # fmt: skip
    """darts: alphas on held-out data, weights on the rest; pc-darts: the same with partial channels, edge normalisation
    and a warm-up; darts-es, darts-ada: the same, and when the largest
    eigenvalue of the alphas' Hessian rises fast, back to before that, to stop or to go on with more L2;
    lambda-darts: the weights learn to make all cells ask for the same change of the mixing weights; blank: alphas stay
    as they are; darts-pt, blank-pt: what `fastdarts project` does with the supernet of a search; joint,
    coordinate: the paper's single-level baselines on all data, in one step or alternating; random: train random cells
    and keep the best; random-ws: the same with shared weights; select: train the genotypes of several searches and keep
    the best (R-DARTS)."""
    space: str = "darts"
    """Where to search: darts, darts-7 (without none), s1, s2, s3, s4, tiny (81 architectures), nasbench201, or a space
    of your own in fastdarts.spaces.SPACES; rnn, recurrent cells on text, has settings of its own (--space rnn
    --help)."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """How the search network begins, and of pc-darts which settings; imagenet divides the image by 8 before the first
    cell."""
    batch_size: int | None = None
    """Images per step, of all ranks together (64; pc-darts 256, imagenet 1024)."""
    partial: int | None = None
    """Only one of so many channels enters the candidate operations (1; pc-darts 4, imagenet 2)."""
    edge_normalisation: bool | None = None
    """Learn weights of the edges, the betas, along with the alphas (no; pc-darts yes)."""
    warmup: int | None = None
    """Epochs in which the weights are trained and alphas and betas are not (0; pc-darts 15, imagenet 35)."""
    unrolled: bool = False
    """Second order: differentiate through one step of the weights (methods darts, pc-darts, darts-es, darts-ada,
    lambda-darts); --hypergradient unrolled."""
    hypergradient: Literal["first-order", "unrolled", "exact", "neumann"] | None = None
    """How the alphas' gradient is found (methods as for unrolled; first-order by default).
    unrolled: through one step of the weights, by finite differences as published; exact: the same by double backward,
    many times the memory; neumann: through weights that have converged, by a Neumann series."""
    difference_radius: float | None = None
    """Radius of the finite difference over the norm of its direction (unrolled; published and default: 0.01)."""
    keep_kinks: bool = False
    """Let both passes of a finite difference decide at ReLUs and max pools as the pass at the weights did, so that it
    agrees with the exact product (unrolled; lambda-darts; published: no)."""
    neumann_terms: int | None = None
    """Terms of the series (neumann; 3)."""
    arch_side_effects: bool = True
    """Let the passes for the alphas move BatchNorm running statistics and draw random numbers, as published."""
    product_error_every: int = 0
    """Epochs between two comparisons of the finite difference with the exact product (unrolled); 0 means never."""
    supernet: Path | None = None
    """Folder of the search whose supernet is projected (methods darts-pt and blank-pt)."""
    decide_every: int = 5
    """Epochs of tuning from one decision of a projection to the next."""
    criterion: Literal["accuracy", "loss"] = "accuracy"
    """What of the supernet without a candidate a projection judges that candidate by."""
    bn_statistics: Literal["batch", "running"] = "batch"
    """By which BatchNorm normalises there: those of the batch, as published, or the running ones, which do not know
    what has been decided since the last tuning."""
    epochs: int = 50
    """Passes over the training half (over all images for joint and coordinate; per candidate for random; a projection
    has as many as its decisions need)."""
    channels: int = 16
    """Channels of the first cells."""
    layers: int | None = None
    """Cells (8; nasbench201 17, its residual blocks counted)."""
    nodes: int | None = None
    """Intermediate nodes of a cell, all of them concatenated in its output (4; tiny 1)."""
    learning_rate: float | None = None
    """SGD learning rate of the weights at the start (0.025; pc-darts 0.1, imagenet 0.5)."""
    learning_rate_min: float | None = None
    """The same at the end of the cosine (0.001; pc-darts 0)."""
    learning_rate_warmup: int | None = None
    """Epochs in which it first rises in equal steps (0; pc-darts imagenet 5)."""
    momentum: float = 0.9
    """SGD momentum."""
    weight_decay: float = 3e-4
    """L2 on the weights."""
    grad_clip: float = 5.0
    """Largest norm of the weights' gradient."""
    arch_learning_rate: float | None = None
    """Adam learning rate of the alphas (3e-4; pc-darts 6e-4, imagenet 6e-3)."""
    arch_weight_decay: float = 1e-3
    """L2 on the alphas."""
    arch_grad_clip: float | None = None
    """Largest norm of their gradient, 0 for any (0; pc-darts imagenet 5)."""
    train_portion: float | None = None
    """Share of the training images that trains the weights; the rest trains the alphas (0.5; pc-darts imagenet 0.8)."""
    cutout: float = 0.0
    """Blank a random square of each training image, this share of its side wide (the paper's, where used: 0.5)."""
    drop_path_prob: float = 0.0
    """Drop the output of each edge of the supernet with a probability that rises from 0 to this; that of cutout then
    rises from 0 to 1 likewise (R-DARTS; with method random, of each operation of a cell, cutout staying as it is)."""
    memory: Literal["store", "recompute", "checkpoint"] = "store"
    """store keeps the outputs of the convolutions for the backward pass (fastest); recompute computes them again;
    checkpoint keeps only the outputs of the cells and computes each cell again as a whole."""
    accumulate: int = 1
    """Parts that a batch is passed in, one after another: the loss and its gradients are those of the whole batch, but
    BatchNorm normalises each part by itself and its running statistics move once for each."""
    max_memory: str | None = None
    """Bytes that a step may take, such as 4GiB: memory and then accumulate are raised until it is estimated to fit."""
    gap_every: int = 1
    """Epochs between two measurements of the discretisation gap; 0 means never."""
    candidates: int | None = None
    """Random cells to compare, trained one by one (method random: 8) or with shared weights (random-ws: 1000)."""
    genotypes: tuple[str, ...] = ()
    """What method select compares, two or more of one space: folders of searches, or whatever evaluate takes."""
    eigenvalue_every: int | None = None
    """Epochs between two measurements of the largest eigenvalue, and one after the last epoch; 0 means never (darts-es
    and darts-ada 2, others 0)."""
    es_window: int = 5
    """Measurements in a moving average of the eigenvalue."""
    es_lag: int = 4
    """Measurements between the two averages that are compared."""
    es_factor: float = 1.3
    """How many times the older average the newer one must be; the paper's wording is 0.75 (older / newer) and lag 5."""
    es_start: int = 10
    """First epoch to return to."""
    ada_factor: float = 10.0
    """darts-ada multiplies the L2 on the weights by this, ..."""
    ada_max_weight_decay: float = 0.03
    """... up to this."""
    lambda_strength: float = 0.125
    """How much layer alignment counts in the loss of the weights in the last epoch (lambda-darts); it rises from 0."""
    lambda_radius: float = 1e-4
    """Radius of the finite difference of its gradient, over the norm of the direction in the mixing weights."""
    lambda_correlation: Literal["cosine", "signed"] = "cosine"
    """Which alignment counts; signed divides the product of two gradients by that of their absolute values."""
    alignment_every: int = 0
    """Epochs between two measurements of the layer alignment, on ten batches of the validation half; 0 means never."""
    seed: int = 2
    """Seed of the weights, the alphas, the order of the images and their augmentation."""


@dataclass(frozen=True)
class EvaluateConfig(DataConfig):
    """Train a genotype from scratch and test it. Settings left out are the published ones of the variant: CIFAR-10
    (DARTS, section 3.2) or ImageNet (section 3.3)."""

    genotype: str = ""
    """A name (DARTS_V2), a genotype.json, inline JSON, a printed Genotype(...), or the string of NAS-Bench-201."""
    variant: Literal["cifar", "imagenet", "nasbench201"] | None = None
    """Which network and recipe: cifar (the default), imagenet, which divides the image by 8 before the first cell, or,
    for the cells of that space and for these only, nasbench201."""
    batch_size: int | None = None
    """Images per step, of all ranks together (cifar 96, imagenet 128, nasbench201 256)."""
    epochs: int | None = None
    """Passes over the training images (cifar 600, imagenet 250, nasbench201 200)."""
    channels: int | None = None
    """Channels of the first cells (cifar 36, imagenet 48, nasbench201 16)."""
    layers: int | None = None
    """Cells (cifar 20, imagenet 14, nasbench201 17)."""
    learning_rate: float | None = None
    """SGD learning rate at the start (cifar 0.025, imagenet and nasbench201 0.1)."""
    schedule: Literal["cosine", "exponential"] | None = None
    """How it falls: along a cosine to 0 (cifar, nasbench201), or by the factor gamma after each epoch (imagenet)."""
    gamma: float = 0.97
    """The factor of the exponential schedule."""
    momentum: float = 0.9
    """SGD momentum."""
    weight_decay: float | None = None
    """L2 on the weights (cifar 3e-4, imagenet 3e-5, nasbench201 5e-4)."""
    grad_clip: float = 5.0
    """Largest norm of the gradient."""
    auxiliary: bool = True
    """Train with an auxiliary head; networks of nasbench201 have none."""
    auxiliary_weight: float = 0.4
    """Weight of its loss."""
    drop_path_prob: float | None = None
    """Drop path probability; epoch e of E uses e/E of it (cifar 0.2, others 0)."""
    label_smoothing: float | None = None
    """Share of the training target that is spread over all classes (imagenet 0.1, others 0)."""
    cutout: float | None = None
    """Blank a random square of each training image, this share of its side wide (cifar 0.5: 16 pixels; others 0)."""
    seed: int = 0
    """Seed of the first training."""
    seeds: int = 1
    """Trainings with seeds seed, seed+1, ...; the result is their mean and standard deviation."""


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
}


SEARCH_RECIPE: dict[str, Any] = {
    "batch_size": 64,
    "partial": 1,
    "edge_normalisation": False,
    "warmup": 0,
    "learning_rate": 0.025,
    "learning_rate_min": 0.001,
    "learning_rate_warmup": 0,
    "arch_learning_rate": 3e-4,
    "arch_grad_clip": 0.0,
    "train_portion": 0.5,
}
PC_DARTS: dict[str, dict[str, Any]] = {
    "cifar": {
        "batch_size": 256,
        "partial": 4,
        "edge_normalisation": True,
        "warmup": 15,
        "learning_rate": 0.1,
        "learning_rate_min": 0.0,
        "arch_learning_rate": 6e-4,
    },
    "imagenet": {
        "batch_size": 1024,
        "partial": 2,
        "edge_normalisation": True,
        "warmup": 35,
        "learning_rate": 0.5,
        "learning_rate_min": 0.0,
        "learning_rate_warmup": 5,
        "arch_learning_rate": 6e-3,
        "arch_grad_clip": 5.0,
        "train_portion": 0.8,  # published: 10 % and 2.5 % of each class
    },
}


def resolve(config: S, space: Space | None = None) -> S:
    """``config`` with every setting that was left out filled in: of a search from its method and space, of an
    evaluation from the recipe of its variant, by default that of the genotype's ``space``.

    Raises :class:`FastdartsError` if that space has no such variant.
    """
    if isinstance(config, SearchConfig):
        space = find_space(config.space)
        left_out = SEARCH_RECIPE | (PC_DARTS.get(config.stem, {}) if config.method == "pc-darts" else {})
        left_out |= {
            "layers": space.layers,
            "nodes": space.nodes,
            "candidates": 1000 if config.method == "random-ws" else 8,
            "eigenvalue_every": 2 if config.method in ROLLBACK else 0,
        }
    else:
        variant = (space or DARTS).check_variant(config.variant)
        left_out = RECIPES[variant] | {"variant": variant}
        if variant == "nasbench201":
            config = dataclasses.replace(config, auxiliary=False)
    return dataclasses.replace(config, **{k: v for k, v in left_out.items() if getattr(config, k) is None})


# What may differ between a checkpoint and the command that resumes it: where things lie and how often they are saved.
FREE_ON_RESUME = frozenset({"data", "workers", "run", "resume", "checkpoint_minutes", "supernet"})

ROLLBACK = ("darts-es", "darts-ada")
BILEVEL = ("darts", "pc-darts", *ROLLBACK, "lambda-darts")
PROJECTION = dict.fromkeys(("darts", *ROLLBACK, "lambda-darts"), "darts-pt") | {"blank": "blank-pt"}
"""How the supernets of these methods are projected."""


def network_options(config: SearchConfig) -> dict[str, Any]:
    """What distinguishes the supernet from that of DARTS, but for the space: ``config`` is resolved."""
    plain = {"partial": 1, "edge_normalisation": False, "stem": "cifar"}
    return {name: getattr(config, name) for name, value in plain.items() if getattr(config, name) != value}


class SecondLevel(Protocol):
    """What a search says about the gradient of its alphas."""

    unrolled: bool
    hypergradient: str | None
    difference_radius: float | None
    neumann_terms: int | None


def hypergradient(config: SecondLevel) -> str:
    """The strategy that ``config`` means by ``hypergradient`` and ``unrolled``."""
    return config.hypergradient or ("unrolled" if config.unrolled else "first-order")


def projection_epochs(config: SearchConfig) -> int:
    """How many epochs of tuning a projection has: decisions come before the first, the last and every
    ``decide_every``-th one.

    As published, the last decision of two-input cells has an epoch of its own, while that of NAS-Bench-201 comes an
    epoch early.
    """
    space, nodes = find_space(config.space), resolve(config).nodes
    edges = len(next(iter(space.primitives(nodes).values())))
    return config.decide_every * (edges - 1) if space.inputs == 1 else config.decide_every * (edges + nodes - 2) + 1
