"""Costs of networks: what a search counts, and what one network has of each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.engine.memory import estimate
from fastdarts.errors import FastdartsError
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.expected_cost import CostMonitor, ExpectedCost, Setting, linear_loss, log_loss
from fastdarts.policies.gates import PolicyGradient
from fastdarts.policies.latency import Priced, measure, read_table
from fastdarts.report.describe import macs
from fastdarts.spaces.cells.network import count_parameters
from fastdarts.tasks.settings import SearchConfig, SupernetConfig
from fastdarts.tasks.task import Problem

LATENCIES = "latency.json"
"""The table in the folder of a run."""


def with_cost(recipe: Any, config: SearchConfig) -> Any:
    """``recipe`` with the cost that ``config`` names for its alphas, if it has alphas; ``config`` is resolved. Raises
    :class:`FastdartsError` for a table that cannot be read, and where the alphas cannot learn from it."""
    if not isinstance(recipe, Bilevel) or getattr(config, "cost", None) is None:
        return recipe
    if not recipe.relaxation.strength_learns:
        raise FastdartsError(
            f"--cost is {config.cost}, but the strengths of method {config.method} have no gradient in its alphas, so "
            "that a cost would teach them nothing: leave it out"
        )
    weight = config.cost_weight
    combine: Callable[[Tensor, Tensor, float], Tensor]
    if config.cost_loss == "log":
        combine = functools.partial(log_loss, weight=weight or 0.2, exponent=config.cost_exponent)
    else:
        combine = functools.partial(linear_loss, weight=weight or 0.1)
    table = None if config.cost_table is None else read_table(config.cost_table)
    cost = ExpectedCost(config.cost, config.wanted(), combine, table)
    if isinstance(recipe.hypergradient, PolicyGradient):
        recipe.hypergradient.cost = cost
    return replace(recipe, cost=cost, monitors=(*recipe.monitors, CostMonitor(cost)))


def setting_of(config: SupernetConfig, problem: Problem, space: Any, device: torch.device) -> Setting:
    """The network that a search would derive, as large as its supernet."""
    variant = space.check_variant("imagenet" if getattr(config, "stem", "cifar") == "imagenet" else None)
    sizes = config.channels, config.layers, config.nodes, problem.outputs
    shape = (problem.data.channels, *problem.size)
    return Setting(space, variant, *sizes, shape, device)


def network_costs(
    build: Callable[[], nn.Module],
    shape: tuple[int, int, int],
    device: torch.device,
    names: Sequence[str] = ("parameters", "macs", "memory", "latency"),
) -> dict[str, float]:
    """What one image [C, H, W] = ``shape`` costs in the network that ``build()`` makes, evaluating, by ``names``.

    ``parameters`` are counted without an auxiliary head, and so are ``macs``. ``memory`` is the peak of its tensors in
    bytes, estimated. ``latency`` is in milliseconds, measured on ``device``.

    >>> network_costs(lambda: nn.Conv2d(3, 8, 3), (3, 8, 8), torch.device("cpu"), ("parameters", "macs"))
    {'parameters': 224, 'macs': 7776}
    """

    def work() -> None:
        with torch.inference_mode():
            build().eval()(torch.zeros(1, *shape))

    with torch.random.fork_rng(devices=[]):
        network = build()
    costs: dict[str, Callable[[], float]] = {
        "parameters": lambda: count_parameters(network),
        "macs": lambda: macs(network, shape),
        "memory": lambda: estimate(work, device).peak,
        "latency": lambda: measure([Priced(network, (1, *shape), candidate=False)], device)[0],
    }
    return {name: costs[name]() for name in names}
