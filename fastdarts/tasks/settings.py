"""Settings of searches and evaluations: every field is a flag and a TOML key; defaults are the published ones.

The settings of a search are those of its method and those of its task (images, text) in one class, which
:meth:`SearchConfig.of_task` makes.
"""

from __future__ import annotations

import dataclasses
import os
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from fastdarts.errors import FastdartsError, unknown_setting
from fastdarts.notices import notice
from fastdarts.registry import Method, find_method, load_plugin, methods
from fastdarts.runs.kinds import (
    Batch,
    Epochs,
    EpochsOrNone,
    Few,
    Nodes,
    NotNegative,
    NotNegativeInt,
    Portion,
    Positive,
    Seed,
)
from fastdarts.runs.settings import RunConfig, expanded
from fastdarts.runs.stored import read_table
from fastdarts.spaces import DARTS, ImageSpace, Space, architecture_text, find_space, space_named_in
from fastdarts.tasks.composition import composed
from fastdarts.tasks.task import Task, find_task, tasks

DEFAULT_METHOD = "darts"


class _OfTask(type):
    """Makes ``SearchConfig(method="pc-darts", space="rnn", ...)`` the settings of that method and task."""

    def __call__(cls, *args: Any, **settings: Any) -> Any:
        if args:
            raise FastdartsError(f"{cls.__name__} got {args[0]!r} without a name: give every setting by its name")
        if cls.task:
            return super().__call__(**settings)
        kind, own = cls.of(settings)
        return kind(**own)


@dataclass(frozen=True)
class SearchConfig(RunConfig, metaclass=_OfTask):
    """Search for a cell. ``SearchConfig(method=NAME, space=NAME, ...)`` makes the settings of that method for the task
    of that space, which are a class of their own; settings left out are the published ones.

    Raises :class:`FastdartsError` for an unknown method, and for a setting that method or task do not have.
    """

    group: ClassVar[str] = "search"

    method: str = ""
    """Method of the search; `fastdarts methods` lists them."""
    space: str = "darts"
    """Space to search in; `fastdarts spaces` lists them. It decides what is learned from: images, or text (rnn)."""
    task: str = ""
    """Task that is learned: images (classes), regression, multilabel, rotation, jigsaw, colourisation, disparity,
    segmentation, or one of a plug-in (that of the space)."""
    batch_size: Batch | None = None
    """Images per step, of all ranks together (DARTS: 64)."""
    epochs: Epochs = 50
    """Passes over the training half (of single-level methods over all images)."""
    nodes: Nodes | None = None
    """Intermediate nodes of a cell, all of them in its output (DARTS: 4)."""
    learning_rate: Positive | None = None
    """SGD learning rate of the weights at the start (DARTS: 0.025)."""
    learning_rate_min: NotNegative | None = None
    """Learning rate at the end of the cosine (DARTS: 0.001)."""
    learning_rate_warmup: EpochsOrNone | None = None
    """Epochs in which the learning rate first rises in equal steps (DARTS: 0)."""
    momentum: Portion = 0.9
    """SGD momentum."""
    weight_decay: NotNegative = 3e-4
    """L2 on the weights."""
    grad_clip: Positive = 5.0
    """Largest norm of the weights' gradient."""
    seed: Seed = 2
    """Seed of the weights, the alphas, the order of the data and everything else that is drawn."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the supernets of a space, or the task, must have, see :class:`fastdarts.spaces.space.Space`."""
    projected_by: ClassVar[str] = ""
    """The method that projects a supernet of this one; "" if none does."""
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Published settings that differ from those of DARTS, by stem; without a stem's own, those of "cifar". Those under
    the name of a space count more."""

    counts_more: ClassVar[bool] = False

    # What tasks may make settings of; of others, these values count.
    sync_bn: ClassVar[bool] = False
    precision: ClassVar[str] = "float32"
    label_smoothing: ClassVar[float] = 0.0
    drop_path_prob: ClassVar[float] = 0.0
    memory: ClassVar[str] = "store"
    accumulate: ClassVar[int] = 1
    max_memory: ClassVar[str | None] = None
    stem: ClassVar[str] = "cifar"
    partial: ClassVar[int] = 1
    edge_normalisation: ClassVar[bool] = False
    gap_every: ClassVar[int] = 0
    alignment_every: ClassVar[int] = 0

    @abstractmethod
    def build(self, space: Space) -> Any:
        """The policies that the method is made of; ``self`` is resolved."""

    def check(self, space: Space) -> None:
        """Raise :class:`FastdartsError` for settings of the method that make no sense together; ``self`` is
        resolved."""

    def check_task(self, space: Space) -> None:
        """The same for settings of the task."""

    def left_out(self, space: Space) -> dict[str, Any]:
        """What counts for settings that were left out: those of DARTS for the task, then the method's own."""
        named = {"layers": space.layers, "nodes": space.nodes}
        return {**find_task(self.task).recipe, **named, **self.published.get(space.name, {})}

    def filled(self) -> SearchConfig:
        """From its method, task and space."""
        return resolve(self)

    def prepared(self) -> SearchConfig:
        """``self`` as the run keeps it: independent of files that may change."""
        return self

    @classmethod
    def family(cls) -> type[SearchConfig]:
        """Any method's."""
        return SearchConfig

    @classmethod
    def owners(cls) -> tuple[type, ...]:
        """Those that the method and the task have written."""
        return cls.__mro__[1:] if cls.task else cls.__mro__

    @classmethod
    def own(cls) -> type[SearchConfig]:
        """The class that says what is the method's, without the settings of the task."""
        return cls.__mro__[1] if cls.task else cls

    @classmethod
    def of_task(cls, task: str) -> type[SearchConfig]:
        """The settings of this method and of a task in one class, see :func:`fastdarts.tasks.composition.composed`."""
        if cls.task:
            return cls.own().of_task(task)
        parts = tuple(part for part in find_task(task).settings if issubclass(cls, part.extends))
        return composed(cls, parts, task)

    @classmethod
    def refuses(cls, name: str) -> bool:
        """Whether the method has the setting ``name`` from a family of methods, and refuses it."""
        return False

    @classmethod
    def lacking(cls, space: Space) -> list[str]:
        """What the method needs and neither ``space`` nor the task has."""
        return sorted(cls.needs - space.has - find_task(cls.task or space.task).has)

    @classmethod
    def check_registered(cls) -> None:
        """Raise :class:`FastdartsError` if the name is that of a setting in searches of some task, or if a published
        setting is none that may be left out."""
        kinds = [cls.of_task(task) for task in tasks()]
        at = f"method {cls.method!r} ({cls.__module__}.{cls.__qualname__})"
        if any(_field(kind, cls.method) for kind in kinds):
            raise FastdartsError(f"{at} has a name that cannot be one: it is that of a setting, so choose another")
        for name in {name for values in cls.published.values() for name in values}:
            found = [field for kind in kinds if (field := _field(kind, name)) is not None]
            if not any(field.default is None for field in found):
                raise FastdartsError(
                    f"{at} has a published {name}, which is no setting that may be left out: give the field itself "
                    "that default"
                )

    def __reduce__(self) -> Any:
        return _again, (self.own(), self.task, vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From a pickle of a version in which the settings of a method were those of images."""
        object.__setattr__(self, "__class__", self.own().of_task(task_of(state.get("space"), state.get("task")).name))
        vars(self).update(state)

    @classmethod
    def of(cls, values: Mapping[str, Any], stored: bool = False) -> tuple[type[RunConfig], dict[str, Any]]:
        """The settings of the method and space that ``values`` name, and the values that belong to them.

        Those of a table with the name of the method are among them. Values of other methods are left out if they say
        what these do by default. They are also left out if they are ``stored`` with a run: old runs hold all settings.

        Raises :class:`FastdartsError` for an unknown method, and for a value that belongs to another one or to none.
        """
        values = dict(values)
        paths = values.get("plugin", ())
        # Those of a run may have moved, and been loaded from elsewhere.
        _load_plugins([path for path in paths if Path(path).is_file()] if stored else paths)
        named = values.pop("method", cls.method or DEFAULT_METHOD)
        # A class that is derived from that of a method stays what it is.
        method = (
            Method(named, cls.own(), "")
            if cls.own() is not SearchConfig and named == cls.method
            else find_method(named)
        )
        for name in [name for name in values if name in methods()]:
            table = values.pop(name)
            if not isinstance(table, dict) or "method" in table:
                raise FastdartsError(f"{name} is {table!r}: expected a table of settings of method {name}")
            values |= table if name == method.name else {}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        if not isinstance(space := values.get("space", DARTS.name), str):
            raise FastdartsError(f"space is {space!r}: expected the name of a space; `fastdarts spaces` lists them")
        settings = method.settings.of_task(task_of(values.get("space", DARTS.name), values.get("task")).name)
        own = {field.name for field in dataclasses.fields(settings)}
        for name in [name for name in values if name not in own]:
            _refuse_foreign(method, settings, name, values.pop(name), stored)
        return settings, values


def _again(own: type[SearchConfig], task: str, values: dict[str, Any]) -> SearchConfig:
    """Settings from what a pickle holds."""
    return own.of_task(task)(**values)


def task_of(space: object, named: object = None) -> Task:
    """The task that is ``named``, or else that of the space of this name; of images if there is no such space, which
    others say.

    Raises :class:`FastdartsError` if there is no task of that name.
    """
    if named:
        return find_task(str(named))
    try:
        return find_task(find_space(space if isinstance(space, str) else DARTS.name).task)
    except FastdartsError:
        return find_task(DARTS.task)


@dataclass(frozen=True)
class SupernetConfig(SearchConfig):
    """Settings of the methods that train a supernet."""

    group: ClassVar[str] = "supernet"

    @classmethod
    def lacking(cls, space: Space) -> list[str]:
        """A supernet, where ``space`` has none, and what else the method needs."""
        has = not isinstance(space, ImageSpace) or space.has_supernet
        return ["a supernet"] * (not has) + super().lacking(space)

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
    """Largest norm of the alphas' gradient, 0 for any (DARTS: 0)."""


@dataclass(frozen=True)
class ArchSideEffects:
    """The setting of the methods that pass the supernet for its alphas alone."""

    group: ClassVar[str] = "alphas"

    arch_side_effects: bool = True
    """Side effects of the passes for the alphas, as published: they move BatchNorm running statistics and draw random
    numbers."""


@dataclass(frozen=True)
class BilevelConfig(ArchSideEffects, AlphaConfig):
    """Settings of the methods whose alphas may look through a step of the weights."""

    group: ClassVar[str] = "hypergradient"

    unrolled: bool = False
    """Second order: differentiate through one step of the weights; --hypergradient unrolled."""
    hypergradient: Literal["first-order", "unrolled", "exact", "neumann"] | None = None
    """Strategy for the alphas' gradient (first-order by default). unrolled: through one step of the weights, by finite
    differences as published. exact: the same by double backward, many times the memory. neumann: through weights that
    have converged, by a Neumann series."""
    difference_radius: Positive | None = None
    """Radius of the finite difference over the norm of its direction (unrolled; published and default: 0.01)."""
    keep_kinks: bool = False
    """Decisions of ReLUs and max pools, kept from the pass at the weights in both passes of a finite difference. The
    difference then agrees with the exact product (unrolled; published: no)."""
    neumann_terms: Few | None = None
    """Terms of the series (neumann; 3)."""
    product_error_every: NotNegativeInt = 0
    """Epochs between two comparisons of the finite difference with the exact product (unrolled); 0 means never."""
    eigenvalue_every: NotNegativeInt | None = None
    """Epochs between two measurements of the largest eigenvalue, and one after the last epoch; 0 means never
    (DARTS: 0)."""

    eigenvalue_stop: bool = False
    """End of the search where the largest eigenvalue has risen fast, by the rule and the numbers of DARTS-ES. The
    epochs since the rise are dropped. --eigenvalue-every 2 is published."""

    has_own_stop: ClassVar[bool] = False
    """Whether the method has a rule of its own that ends a search."""
    has_own_difference: ClassVar[bool] = False
    """Whether ``keep_kinks`` counts for a finite difference of the method's own too."""

    def check(self, space: Space) -> None:
        """The settings of a strategy go with that strategy, and what ends a search is measured."""
        check_hypergradient(self)
        if self.eigenvalue_stop and self.has_own_stop:
            raise FastdartsError(
                f"--eigenvalue-stop does not go with method {self.method}, which has a rule of its own that ends a "
                "search: leave it out"
            )
        if self.eigenvalue_stop and not self.eigenvalue_every:
            raise FastdartsError(
                "--eigenvalue-stop decides by the eigenvalue, which is never measured: add --eigenvalue-every 2, as "
                "published"
            )

    @classmethod
    def refuses(cls, name: str) -> bool:
        """Methods with a rule of their own refuse to be ended by another one."""
        return name == "eigenvalue_stop" and cls.has_own_stop

    def why_whole(self) -> str:
        """Strategies that differentiate twice need the graph of the whole batch."""
        if hypergradient(self) in ("exact", "neumann"):
            return f"--hypergradient {hypergradient(self)} differentiates the graph of a whole batch"
        return ""


def _load_plugins(paths: Any) -> None:
    """Import these files; raises :class:`FastdartsError` if ``paths`` is no list of files that can be imported."""
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
        raise FastdartsError(f"plugin is {paths!r}: expected a list of Python files")
    for path in paths:
        load_plugin(expanded(path))


def _refuse_foreign(method: Method, settings: type[SearchConfig], name: str, value: Any, stored: bool) -> None:
    """Raise :class:`FastdartsError` for the setting ``name``, which ``settings``, of ``method``, do not have."""
    task = settings.task
    everywhere = {(m.name, t): _field(m.settings.of_task(t), name) for m in methods().values() for t in tasks()}
    fields = {where: field for where, field in everywhere.items() if field is not None}
    if not fields:
        known = [field.name for field in dataclasses.fields(settings)]
        raise FastdartsError(unknown_setting(name, value, known))
    near = {(m, t): field for (m, t), field in fields.items() if t == task} or fields
    usual = [None, *(field.default for field in near.values())]
    recipes = [find_task(t).recipe[name] for t in tasks() if name in find_task(t).recipe]
    usual += recipes or [methods()[m].settings.published.get("cifar", {}).get(name) for m, _ in near]
    if stored or value in usual or not (value or any(usual)):
        return
    flag = name.replace("_", "-")
    said = f"--{flag} is {value} but" if not isinstance(value, bool) else f"--{'' if value else 'no-'}{flag}"
    here = [m for m, t in fields if t == task and not methods()[m].settings.of_task(t).refuses(name)]
    if here:
        raise FastdartsError(
            f"{said} goes with --method {', '.join(here)}: method {method.name} does not use it, so leave it out"
        )
    titles = ", ".join(find_task(t).title for t in tasks() if (method.name, t) in fields) or "another task"
    raise FastdartsError(
        f"{said} goes with searches on {titles}: a search on {find_task(task).title} does not use it, so leave it out"
    )


def _field(settings: type[SearchConfig], name: str) -> dataclasses.Field | None:
    return next((field for field in dataclasses.fields(settings) if field.name == name), None)


@dataclass(frozen=True)
class EvaluateConfig(RunConfig, metaclass=_OfTask):
    """Train a genotype from scratch and test it. ``EvaluateConfig(genotype=..., ...)`` makes the settings for the task
    of that genotype's space, which are a class of their own; settings left out are the published ones."""

    group: ClassVar[str] = "evaluation"

    genotype: str = ""
    """Genotype: a name (DARTS_V2), a genotype.json, a search's folder, inline JSON, a printed Genotype(...), or the
    string of NAS-Bench-201."""

    task: str = ""
    """Task that is learned: images (classes), regression, multilabel, rotation, jigsaw, colourisation, disparity,
    segmentation, or one of a plug-in (that of the genotype's space)."""

    data_settings: ClassVar[tuple[str, ...]] = ()
    """What says which data is learned from; without the first of them, those of the genotype's run count."""

    @classmethod
    def family(cls) -> type[EvaluateConfig]:
        """Any task's."""
        return EvaluateConfig

    def check_task(self) -> None:
        """Raise :class:`FastdartsError` for settings that make no sense."""

    @classmethod
    def of(cls, values: Mapping[str, Any], stored: bool = False) -> tuple[type[RunConfig], dict[str, Any]]:
        """The settings for ``task``, or else for that of ``space`` or of the space of ``genotype``, among ``values``.

        Where the genotype is the folder of a run and ``values`` do not say which data, those of that run count.

        Raises :class:`FastdartsError` if that task has no evaluations.
        """
        if "genotype" in values:
            values = {**values, "genotype": architecture_text(values["genotype"])}
        space = values.get("space") or space_named_in(values.get("genotype", "")) or DARTS.name
        if not stored:
            values = {**values, **_taken_over(values, space)}
        task = task_of(space, values.get("task"))
        if task.evaluation is None:
            raise FastdartsError(
                f"the genotype is of space {space}, but task {task.name} ({task.title}) has no evaluations: use a "
                "genotype of another task, or give the task settings of evaluations"
            )
        own = {field.name for field in dataclasses.fields(task.evaluation)}
        values = {name: value for name, value in values.items() if name in own or name != "space"}
        if unknown := sorted(values.keys() - own):
            raise FastdartsError(unknown_setting(unknown[0], values[unknown[0]], sorted(own)))
        return task.evaluation, values


def _taken_over(values: Mapping[str, Any], space: str) -> dict[str, Any]:
    """The task and the data of the run whose folder, or a model in it, is the genotype or the pretrained network among
    ``values``, if these name no data."""
    kind = task_of(space, values.get("task")).evaluation
    if kind is None or {*kind.data_settings[:1]} <= values.keys():
        return {}
    folder, before = _run_named(values)
    kind = task_of(space, values.get("task") or before.get("task")).evaluation
    if not before or kind is None:
        return {}
    found = {name: before[name] for name in ("task", *kind.data_settings) if name in before and name not in values}
    found |= {"data": Path(found["data"])} if isinstance(found.get("data"), str) else {}
    usual = {field.name: field.default for field in dataclasses.fields(kind)} | {"task": task_of(space).name}
    if shown := [f"--{name.replace('_', '-')} {value}" for name, value in found.items() if value != usual[name]]:
        notice(
            f"{' '.join(shown)} {'are' if len(shown) > 1 else 'is'} taken over from the run in {folder}",
            f"give --{kind.data_settings[0]} to train on other data",
        )
    return found


def _run_named(values: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The folder of the run that an evaluation starts from, and its settings; none where it starts from no run."""
    for text in (values.get("genotype"), values.get("pretrained")):
        path = Path(str(text or "").removesuffix("genotype.json"))
        for folder in (path, path.parent) if text and os.path.isdir(path) else ():
            with suppress(FastdartsError):  # damaged; the genotype may be whole
                if found := read_table(folder / "config.toml"):
                    return folder, found
    return Path(), {}


def resolve(config: SearchConfig) -> SearchConfig:
    """``config`` with every setting that was left out filled in, from its method, task and space."""
    left_out = config.left_out(find_space(config.space))
    left_out = {k: v for k, v in left_out.items() if getattr(config, k, ...) is None}
    return dataclasses.replace(config, **left_out)


def hypergradient(config: BilevelConfig) -> str:
    """The strategy that ``config`` means by ``hypergradient`` and ``unrolled``."""
    return config.hypergradient or ("unrolled" if config.unrolled else "first-order")


def check_hypergradient(config: BilevelConfig) -> None:
    """Raise :class:`FastdartsError` if a setting belongs to another strategy than the one that is meant."""
    strategy = hypergradient(config)
    if config.unrolled and strategy != "unrolled":
        raise FastdartsError(f"--unrolled means --hypergradient unrolled but that is {strategy}: leave one of them out")
    for name, wanted in (
        ("difference_radius", "unrolled"), ("keep_kinks", "unrolled"), ("product_error_every", "unrolled"),
        ("neumann_terms", "neumann"),
    ):  # fmt: skip
        if name == "keep_kinks" and config.has_own_difference:
            continue
        if getattr(config, name) and strategy != wanted:
            raise FastdartsError(
                f"--{name.replace('_', '-')} goes with --hypergradient {wanted}: here it is {strategy}, so leave it out"
            )
