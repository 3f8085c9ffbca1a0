"""Settings of a search and of an evaluation: every field is a flag and a TOML key; defaults are the published ones."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from fastdarts.errors import FastdartsError
from fastdarts.registry import Method, find_method, load_plugin, methods
from fastdarts.runs.kinds import (
    Batch,
    Epochs,
    EpochsOrNone,
    Factor,
    Few,
    Nodes,
    NotNegative,
    NotNegativeInt,
    Portion,
    Positive,
    Seed,
    Seeds,
    Width,
)
from fastdarts.runs.settings import RunConfig, expanded
from fastdarts.spaces import DARTS, Space, find_space
from fastdarts.tasks.images.settings import DataConfig

S = TypeVar("S", "SearchConfig", "EvaluateConfig")


class _OfMethod(type):
    """Makes ``SearchConfig(method="pc-darts", ...)`` the settings of that method, an object of its class."""

    def __call__(cls, *args: Any, **settings: Any) -> Any:
        if cls is not SearchConfig:
            return super().__call__(*args, **settings)
        kind, own = SearchConfig.of(settings)
        return kind(*args, **own)


@dataclass(frozen=True)
class SearchConfig(DataConfig, metaclass=_OfMethod):
    """Search for a cell. ``SearchConfig(method=NAME, ...)`` makes the settings of that method, which are a class of
    their own; settings left out are the published ones.

    Raises :class:`FastdartsError` for an unknown method, and for a setting that the method does not have.
    """

    group: ClassVar[str] = "search"

    method: str = ""
    """Method of the search; `fastdarts methods` lists them."""
    space: str = "darts"
    """Space to search in; `fastdarts spaces` lists them. Recurrent cells on text, rnn, have settings of their own: see
    --space rnn --help."""
    batch_size: Batch | None = None
    """Images per step, of all ranks together (DARTS: 64)."""
    epochs: Epochs = 50
    """Passes over the training half (of single-level methods over all images, of random search per candidate)."""
    channels: Width = 16
    """Channels of the first cells."""
    layers: Few | None = None
    """Cells; in nasbench201 residual blocks count too (DARTS: 8)."""
    nodes: Nodes | None = None
    """Intermediate nodes of a cell, all of them concatenated in its output (DARTS: 4)."""
    learning_rate: Positive | None = None
    """SGD learning rate of the weights at the start (DARTS: 0.025)."""
    learning_rate_min: NotNegative | None = None
    """The same at the end of the cosine (DARTS: 0.001)."""
    learning_rate_warmup: EpochsOrNone | None = None
    """Epochs in which it first rises in equal steps (DARTS: 0)."""
    momentum: Portion = 0.9
    """SGD momentum."""
    weight_decay: NotNegative = 3e-4
    """L2 on the weights."""
    grad_clip: Positive = 5.0
    """Largest norm of the weights' gradient."""
    train_portion: float | None = None
    """Share of the training images that trains the weights; the rest trains the alphas (DARTS: 0.5)."""
    cutout: Portion = 0.0
    """Blank a random square of each training image, this share of its side wide (the paper's, where used: 0.5)."""
    drop_path_prob: Portion = 0.0
    """Probability with which the output of each edge is dropped in the last epoch; it rises from 0. That of cutout then
    rises from 0 to 1 likewise (R-DARTS). Where single cells are trained, their operations are dropped instead."""
    seed: Seed = 2
    """Seed of the weights, the alphas, the order of the images and their augmentation."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the supernets of a space must have, see :class:`fastdarts.spaces.space.Space`."""
    projected_by: ClassVar[str] = ""
    """The method that projects a supernet of this one; "" if none does."""
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Published settings that differ from those of DARTS, by stem; without a stem's own, those of "cifar". Those under
    the name of a space count more."""

    @abstractmethod
    def build(self, space: Space) -> Any:
        """The policies that the method is made of; ``self`` is resolved."""

    def check(self, space: Space) -> None:
        """Raise :class:`FastdartsError` for settings that make no sense together; ``self`` is resolved."""

    @classmethod
    def of(cls, values: Mapping[str, Any], stored: bool = False) -> tuple[type[RunConfig], dict[str, Any]]:
        """The settings of the method that ``values`` name, and the values that belong to it.

        Those of a table with the name of the method are among them. Values of other methods are left out if they say
        what these do by default. They are also left out if they are ``stored`` with a run: old runs hold all settings.

        Raises :class:`FastdartsError` for an unknown method, and for a value that belongs to another one or to none.
        """
        values = dict(values)
        paths = values.get("plugin", ())
        # Those of a run may have moved, and been loaded from elsewhere.
        _load_plugins([path for path in paths if Path(path).is_file()] if stored else paths)
        method = find_method(values.pop("method", DEFAULT_METHOD))
        for name in [name for name in values if name in methods()]:
            table = values.pop(name)
            if not isinstance(table, dict) or "method" in table:
                raise FastdartsError(f"{name} is {table!r}: expected a table of settings of method {name}")
            values |= table if name == method.name else {}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        own = {field.name for field in dataclasses.fields(method.settings)}
        for name in [name for name in values if name not in own]:
            _refuse_foreign(method, name, values.pop(name), stored)
        return method.settings, values

    def prepared(self) -> SearchConfig:
        """``self`` as the run keeps it: independent of files that may change."""
        return self


@dataclass(frozen=True)
class SupernetConfig(SearchConfig):
    """Settings of the methods that train a supernet."""

    group: ClassVar[str] = "supernet"

    stem: Literal["cifar", "imagenet"] = "cifar"
    """Beginning of the search network, and which published settings count; imagenet divides the image by 8 before the
    first cell."""
    partial: Width | None = None
    """Only one of so many channels enters the candidate operations (DARTS: 1)."""
    edge_normalisation: bool | None = None
    """Learn weights of the edges, the betas, along with the alphas (DARTS: no)."""
    memory: Literal["store", "recompute", "checkpoint"] = "store"
    """store keeps the outputs of the convolutions for the backward pass (fastest); recompute computes them again;
    checkpoint keeps only the outputs of the cells and computes each cell again as a whole."""
    accumulate: Width = 1
    """Parts that a batch is passed in, one after another: the loss and its gradients are those of the whole batch, but
    BatchNorm normalises each part by itself and its running statistics move once for each."""
    max_memory: str | None = None
    """Bytes that a step may take, such as 4GiB: memory and then accumulate are raised until it is estimated to fit."""
    gap_every: NotNegativeInt = 1
    """Epochs between two measurements of the discretisation gap; 0 means never."""
    alignment_every: NotNegativeInt = 0
    """Epochs between two measurements of the layer alignment, on ten batches of the validation half; 0 means never."""

    def why_whole(self) -> str:
        """Why a batch cannot be passed in parts with these settings; "" if it can."""
        return ""


@dataclass(frozen=True)
class AlphaConfig(SupernetConfig):
    """Settings of the methods that train alphas."""

    group: ClassVar[str] = "alphas"

    warmup: EpochsOrNone | None = None
    """Epochs in which the weights are trained and alphas and betas are not (DARTS: 0)."""
    arch_learning_rate: Positive | None = None
    """Adam learning rate of the alphas (DARTS: 3e-4)."""
    arch_weight_decay: NotNegative = 1e-3
    """L2 on the alphas."""
    arch_grad_clip: NotNegative | None = None
    """Largest norm of their gradient, 0 for any (DARTS: 0)."""


@dataclass(frozen=True)
class ArchSideEffects:
    """The setting of the methods that pass the supernet for its alphas alone."""

    group: ClassVar[str] = "alphas"

    arch_side_effects: bool = True
    """Let the passes for the alphas move BatchNorm running statistics and draw random numbers, as published."""


@dataclass(frozen=True)
class BilevelConfig(ArchSideEffects, AlphaConfig):
    """Settings of the methods whose alphas may look through a step of the weights."""

    group: ClassVar[str] = "hypergradient"

    unrolled: bool = False
    """Second order: differentiate through one step of the weights; --hypergradient unrolled."""
    hypergradient: Literal["first-order", "unrolled", "exact", "neumann"] | None = None
    """How the alphas' gradient is found (first-order by default).
    unrolled: through one step of the weights, by finite differences as published; exact: the same by double backward,
    many times the memory; neumann: through weights that have converged, by a Neumann series."""
    difference_radius: Positive | None = None
    """Radius of the finite difference over the norm of its direction (unrolled; published and default: 0.01)."""
    keep_kinks: bool = False
    """Let both passes of a finite difference decide at ReLUs and max pools as the pass at the weights did, so that it
    agrees with the exact product (unrolled; published: no)."""
    neumann_terms: Few | None = None
    """Terms of the series (neumann; 3)."""
    product_error_every: NotNegativeInt = 0
    """Epochs between two comparisons of the finite difference with the exact product (unrolled); 0 means never."""
    eigenvalue_every: NotNegativeInt | None = None
    """Epochs between two measurements of the largest eigenvalue, and one after the last epoch; 0 means never
    (DARTS: 0)."""

    has_own_difference: ClassVar[bool] = False
    """Whether ``keep_kinks`` counts for a finite difference of the method's own too."""

    def check(self, space: Space) -> None:
        """The settings of a strategy go with that strategy."""
        check_hypergradient(self)
        if self.keep_kinks and self.partial > 1:
            raise FastdartsError(
                f"--keep-kinks got --partial {self.partial}: what bypasses partial channels takes maxima of its own, "
                "so leave it out, or use --hypergradient exact"
            )

    def why_whole(self) -> str:
        """Strategies that differentiate twice need the graph of the whole batch."""
        if hypergradient(self) in ("exact", "neumann"):
            return f"--hypergradient {hypergradient(self)} differentiates the graph of a whole batch"
        return ""


DEFAULT_METHOD = "darts"


def _load_plugins(paths: Any) -> None:
    """Import these files; raises :class:`FastdartsError` if ``paths`` is no list of files that can be imported."""
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
        raise FastdartsError(f"plugin is {paths!r}: expected a list of Python files")
    for path in paths:
        load_plugin(expanded(path))


def _refuse_foreign(method: Method, name: str, value: Any, stored: bool) -> None:
    """Raise :class:`FastdartsError` for the setting ``name``, which ``method`` does not have."""
    fields = {m.name: f for m in methods().values() for f in dataclasses.fields(m.settings) if f.name == name}
    if not fields:
        known = ", ".join(field.name for field in dataclasses.fields(method.settings))
        raise FastdartsError(f"unknown setting {name!r}: expected some of {known}")
    usual = [None, *(field.default for field in fields.values())]
    if name in SEARCH_RECIPE:
        usual.append(SEARCH_RECIPE[name])
    else:
        usual += [methods()[owner].settings.published.get("cifar", {}).get(name) for owner in fields]
    if not stored and value not in usual and (value or any(usual)):
        flag = name.replace("_", "-")
        said = f"--{flag} is {value} but" if not isinstance(value, bool) else f"--{'' if value else 'no-'}{flag}"
        raise FastdartsError(
            f"{said} goes with --method {', '.join(fields)}: method {method.name} does not use it, so leave it out"
        )


@dataclass(frozen=True)
class EvaluateConfig(DataConfig):
    """Train a genotype from scratch and test it. Settings left out are the published ones of the variant: CIFAR-10
    (DARTS, section 3.2) or ImageNet (section 3.3)."""

    genotype: str = ""
    """A name (DARTS_V2), a genotype.json, inline JSON, a printed Genotype(...), or the string of NAS-Bench-201."""
    variant: Literal["cifar", "imagenet", "nasbench201"] | None = None
    """Which network and recipe: cifar (the default), imagenet, which divides the image by 8 before the first cell, or,
    for the cells of that space and for these only, nasbench201."""
    batch_size: Batch | None = None
    """Images per step, of all ranks together (cifar 96, imagenet 128, nasbench201 256)."""
    epochs: Epochs | None = None
    """Passes over the training images (cifar 600, imagenet 250, nasbench201 200)."""
    channels: Width | None = None
    """Channels of the first cells (cifar 36, imagenet 48, nasbench201 16)."""
    layers: Few | None = None
    """Cells (cifar 20, imagenet 14, nasbench201 17)."""
    learning_rate: Positive | None = None
    """SGD learning rate at the start (cifar 0.025, imagenet and nasbench201 0.1)."""
    schedule: Literal["cosine", "exponential"] | None = None
    """How it falls: along a cosine to 0 (cifar, nasbench201), or by the factor gamma after each epoch (imagenet)."""
    gamma: Factor = 0.97
    """The factor of the exponential schedule."""
    momentum: Portion = 0.9
    """SGD momentum."""
    weight_decay: NotNegative | None = None
    """L2 on the weights (cifar 3e-4, imagenet 3e-5, nasbench201 5e-4)."""
    grad_clip: Positive = 5.0
    """Largest norm of the gradient."""
    auxiliary: bool = True
    """Train with an auxiliary head; networks of nasbench201 have none."""
    auxiliary_weight: NotNegative = 0.4
    """Weight of its loss."""
    drop_path_prob: Portion | None = None
    """Drop path probability; epoch e of E uses e/E of it (cifar 0.2, others 0)."""
    label_smoothing: Portion | None = None
    """Share of the training target that is spread over all classes (imagenet 0.1, others 0)."""
    cutout: Portion | None = None
    """Blank a random square of each training image, this share of its side wide (cifar 0.5: 16 pixels; others 0)."""
    seed: Seed = 0
    """Seed of the first training."""
    seeds: Seeds = 1
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
    "eigenvalue_every": 0,
}
"""The published settings of DARTS (ICLR 2019), section 3.1 and its public code; a method's own are in its file."""


def resolve(config: S, space: Space | None = None) -> S:
    """``config`` with every setting that was left out filled in: of a search from its method and space, of an
    evaluation from the recipe of its variant, by default that of the genotype's ``space``.

    Raises :class:`FastdartsError` if that space has no such variant.
    """
    if isinstance(config, SearchConfig):
        space = find_space(config.space)
        published = config.published.get(getattr(config, "stem", "cifar"), config.published.get("cifar", {}))
        left_out = SEARCH_RECIPE | {"layers": space.layers, "nodes": space.nodes} | dict(published)
        left_out |= config.published.get(space.name, {})
    else:
        variant = (space or DARTS).check_variant(config.variant)
        left_out = RECIPES[variant] | {"variant": variant}
        if variant == "nasbench201":
            config = dataclasses.replace(config, auxiliary=False)
    left_out = {k: v for k, v in left_out.items() if getattr(config, k, ...) is None}
    return dataclasses.replace(config, **left_out)


def network_options(config: SearchConfig) -> dict[str, Any]:
    """What distinguishes the supernet from that of DARTS, but for the space: ``config`` is resolved."""
    plain = {"partial": 1, "edge_normalisation": False, "stem": "cifar"}
    return {name: getattr(config, name) for name, value in plain.items() if getattr(config, name) != value}


class SecondLevel(Protocol):
    """What a search says about the gradient of its alphas."""

    unrolled: bool
    hypergradient: str | None
    difference_radius: Positive | None
    neumann_terms: Few | None


def hypergradient(config: SecondLevel) -> str:
    """The strategy that ``config`` means by ``hypergradient`` and ``unrolled``."""
    return config.hypergradient or ("unrolled" if config.unrolled else "first-order")


def check_hypergradient(config: SecondLevel) -> None:
    """Raise :class:`FastdartsError` if a setting belongs to another strategy than the one that is meant."""
    strategy = hypergradient(config)
    if config.unrolled and strategy != "unrolled":
        raise FastdartsError(f"--unrolled means --hypergradient unrolled but that is {strategy}: leave one of them out")
    for name, wanted in (
        ("difference_radius", "unrolled"), ("keep_kinks", "unrolled"), ("product_error_every", "unrolled"),
        ("neumann_terms", "neumann"),
    ):  # fmt: skip
        if name == "keep_kinks" and getattr(config, "has_own_difference", False):
            continue
        if getattr(config, name, None) and strategy != wanted:  # a recurrent search has not all of them
            raise FastdartsError(
                f"--{name.replace('_', '-')} goes with --hypergradient {wanted}: here it is {strategy}, so leave it out"
            )
