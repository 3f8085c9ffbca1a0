"""How the settings that methods share become policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fastdarts.errors import FastdartsError
from fastdarts.nn.relaxation import SOFTMAX
from fastdarts.policies.base import Monitor, Selection
from fastdarts.policies.bilevel import AlphaOptimizer, Bilevel, Single
from fastdarts.policies.hypergradients import Exact, FirstOrder, Neumann, Strategy, Unrolled
from fastdarts.policies.monitors import Eigenvalue, Facts, Gap, LayerAlignment, ProductError, Validation
from fastdarts.policies.rollback import Rollback
from fastdarts.policies.samplers import DrawnPath
from fastdarts.spaces import Space
from fastdarts.tasks.settings import AlphaConfig, ArchSideEffects, BilevelConfig, SupernetConfig, hypergradient
from fastdarts.tasks.task import find_task


def strategy(config: BilevelConfig) -> Strategy:
    """How the alphas' gradient is found with these settings."""
    return {
        "first-order": FirstOrder(),
        "unrolled": Unrolled(config.difference_radius or Unrolled.radius, config.keep_kinks),
        "exact": Exact(),
        "neumann": Neumann(config.neumann_terms or Neumann.terms),
    }[hypergradient(config)]


def bilevel(config: SupernetConfig, space: Space, **policies: Any) -> Bilevel:
    """DARTS with these settings, but for the ``policies`` that are given."""
    shared: dict[str, Any] = {"alphas": None, "monitors": monitors(config)}
    if isinstance(config, AlphaConfig):
        adam = AlphaOptimizer(
            config.arch_learning_rate, config.arch_weight_decay, config.arch_grad_clip, find_task(config.task).betas
        )
        shared |= {"alphas": adam, "warmup": config.warmup}
    if isinstance(config, BilevelConfig):
        shared["hypergradient"] = strategy(config)
        if config.eigenvalue_every and not policies.get("relaxation", SOFTMAX).twice_differentiable:
            raise FastdartsError(
                f"--eigenvalue-every is {config.eigenvalue_every}, but the mixing weights of method {config.method} "
                "cannot be differentiated twice: leave it out"
            )
        if config.eigenvalue_stop:
            shared["stopper"] = Rollback(config.eigenvalue_every)
    if isinstance(config, ArchSideEffects):
        shared["side_effects"] = config.arch_side_effects
    if "stages" not in policies:
        shared["stages"] = Single(config.epochs, space)
    return Bilevel(**shared | policies)


def single_path(
    config: SupernetConfig, path: DrawnPath, selection: Selection, *monitors: Monitor, **policies: Any
) -> Bilevel:
    """A method whose weights learn from single cells of ``path``, and which has no alphas."""
    shared = {"order": "together", "stages": Single(config.epochs, path.space)}
    return bilevel(config, path.space, path=path, selection=selection, monitors=monitors, **shared | policies)


def refuse_mixture(config: SupernetConfig, space: Space) -> None:
    """Raise :class:`FastdartsError` for settings of a mixture of candidates, where single cells are trained."""
    if config.drop_path_prob and space.single.copies == 1:
        raise FastdartsError(
            f"--drop-path-prob drops edges of a mixture, but method {config.method} trains single cells: leave it out"
        )
    if config.alignment_every:
        raise FastdartsError(
            f"--alignment-every is {config.alignment_every} but method {config.method} trains no mixture of candidates "
            "whose cells could be compared: leave it out"
        )


def refuse_none(config: SupernetConfig, space: Space, why: str) -> None:
    """Raise :class:`FastdartsError` if the edges of ``space`` offer `none`, which the method makes superfluous by
    ``why``."""
    if any("none" in names for table in space.primitives(config.nodes).values() for names in table):
        raise FastdartsError(
            f"--space is {config.space}, whose edges offer none, but method {config.method} {why}: choose a space "
            "without none, such as darts-7"
        )


def refuse_idle(config: SupernetConfig, names: Sequence[str], wanted: str) -> None:
    """Raise :class:`FastdartsError` if one of these settings is not left as it is, as it counts with ``wanted``
    only."""
    usual = {field.name: field.default for field in dataclasses.fields(config)}
    for name in names:
        if getattr(config, name) != usual[name]:
            flag = name.replace("_", "-")
            raise FastdartsError(f"--{flag} is {getattr(config, name)}, but counts with {wanted} only: leave it out")


def monitors(config: SupernetConfig) -> tuple[Monitor, ...]:
    """What is measured of a mixture after each epoch."""
    first: list[Monitor] = []
    product: list[Monitor] = []
    if isinstance(config, BilevelConfig):
        first = [Eigenvalue(config.eigenvalue_every, config.arch_weight_decay, config.partial > 1)]
        product = [ProductError(config.product_error_every)]
    return (*first, Validation(), Gap(config.gap_every), *product, LayerAlignment(config.alignment_every), Facts())
