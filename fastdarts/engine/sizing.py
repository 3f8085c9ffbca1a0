"""Channels and layers for a genotype from what its network may cost: parameters, MACs, time."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastdarts.errors import FastdartsError
from fastdarts.report.describe import macs
from fastdarts.runs.checks import parse_count, parse_seconds
from fastdarts.spaces import Architecture
from fastdarts.spaces.cells.network import count_parameters
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.settings import TARGETS, ImageEvaluateConfig
from fastdarts.trained.folder import Facts
from fastdarts.trained.model import Model

STEP, WIDE, MOST = 2, 16, 512
"""Channels grow by `STEP` up to `MOST`. A network with fewer than `WIDE` becomes shallower instead."""
CELLS, SHALLOW = 3, 5
"""Layers by which networks become shallower, as many as there are stages, and the fewest."""


@dataclass(frozen=True)
class Sized:
    """A size that was chosen: what the network has of each target, and what the next larger one would have."""

    channels: int
    layers: int
    targets: Mapping[str, float]
    found: Mapping[str, float]
    beyond: Mapping[str, float]

    def facts(self) -> dict[str, Any]:
        """What environment.json holds."""
        return {"chosen": self.line()} | {f"measured_{name}": value for name, value in self.found.items()}

    def line(self) -> str:
        """In one line; latencies are in milliseconds, and in seconds elsewhere."""
        costs = []
        for name, value in self.found.items():
            more = f", {self.channels + STEP} channels have {_said(name, self.beyond[name])}" if self.beyond else ""
            costs.append(f"{name} {_said(name, value)} (target {_said(name, self.targets[name])}{more})")
        return f"{self.channels} channels, {self.layers} layers, {', '.join(costs)}"


def targets_of(config: ImageEvaluateConfig) -> dict[str, float]:
    """The targets that the settings name: parameters and MACs as numbers, latency in seconds.

    Raises :class:`FastdartsError` for text that is none.
    """
    found = {}
    for name in TARGETS:
        if (text := getattr(config, f"target_{name}")) is not None:
            parse = parse_seconds if name == "latency" else parse_count
            found[name] = parse(text, f"--target-{name}")
    return found


def choose_size(
    config: ImageEvaluateConfig,
    fixed: Mapping[str, int | None],
    architecture: Architecture,
    objective: Objective,
    device: torch.device,
) -> Sized:
    """The largest network of the genotype that keeps all targets of ``config``, which is resolved.

    The published number of layers is taken, and the largest even number of channels that fits, at most 512. If fewer
    than 16 fit, there are three layers less, and so on, down to 5. If 16 never fit, the shallowest network gets as many
    as fit. What is ``fixed`` (channels or layers) stays.

    Parameters and multiply-accumulates are counted on the network itself, without the auxiliary head. Latency is the
    median time of one image on ``device`` through the network as :func:`fastdarts.load` runs it, after it is warm.

    Raises :class:`FastdartsError` if the smallest network is too large.

    >>> free = {"channels": None, "layers": None}
    >>> choose_size(config, free, architecture, objective, device).channels  # doctest: +SKIP
    24
    """
    targets = targets_of(config)

    @functools.cache
    def cost(channels: int, layers: int) -> dict[str, float]:
        return _cost(channels, layers, targets, config.variant, architecture, objective, device)

    def share(channels: int, layers: int) -> float:
        return max(cost(channels, layers)[name] / most for name, most in targets.items())

    depth, width = fixed["layers"], fixed["channels"]
    depth = depth or (config.layers if architecture.space.fixed_depth else None)
    depths = [depth] if depth else [*_depths(config.layers)]
    least = width or (STEP if depth else WIDE)
    layers = next((number for number in depths if share(least, number) <= 1), None)
    if layers is None and not width and share(least := STEP, depths[-1]) <= 1:
        layers = depths[-1]
    if layers is None:
        smallest = cost(least, depths[-1])
        name = max(targets, key=lambda name: smallest[name] / targets[name])
        raise FastdartsError(
            f"--target-{name} is {getattr(config, f'target_{name}')}, but the smallest network of this genotype "
            f"({least} channels, {depths[-1]} layers) has {_said(name, smallest[name])}: raise the target"
        )
    channels = width or _largest(lambda channels: share(channels, layers), least)
    beyond = {} if width or channels + STEP > MOST else cost(channels + STEP, layers)
    return Sized(channels, layers, targets, cost(channels, layers), beyond)


def _depths(published: int) -> Iterator[int]:
    """Numbers of layers, from the published one down."""
    return iter(range(published, SHALLOW - 1, -CELLS))


def _largest(share: Callable[[int], float], fits: int) -> int:
    """The largest even number of channels of which ``share`` is at most 1; it grows with them, and ``fits`` does."""
    above, guesses = MOST + STEP, 0
    while above - fits > STEP:
        guess = fits / share(fits) ** 0.5 if guesses % 3 < 2 else (fits + above) / 2  # costs grow with the square
        guess = min(max(int(guess) // STEP * STEP, fits + STEP), above - STEP)
        if share(guess) <= 1:
            fits = guess
        else:
            above = guess
        guesses += 1
    return fits


def _cost(
    channels: int,
    layers: int,
    targets: Mapping[str, float],
    variant: str,
    architecture: Architecture,
    objective: Objective,
    device: torch.device,
) -> dict[str, float]:
    """What a network costs, of what there are targets for."""
    space, genotype = architecture
    sizes = space, variant, channels, layers, False, genotype
    shape = (objective.channels, *objective.size)
    with torch.device("meta"):
        network = objective.network(*sizes)
    found: dict[str, float] = {}
    if "parameters" in targets:
        found["parameters"] = count_parameters(network)
    if "macs" in targets:
        found["macs"] = macs(network, shape, objective.tiles)
    if "latency" in targets:
        facts = Facts(architecture.to_dict(), variant, channels, layers, **objective.model_facts())
        with torch.random.fork_rng(devices=[]):
            network = objective.network(*sizes)
        found["latency"] = latency(Model(facts, network).to(device).eval(), shape, device)
    return found


@torch.inference_mode()
def latency(model: nn.Module, shape: tuple[int, int, int], device: torch.device) -> float:
    """The median seconds of a pass of one image [C, H, W] = ``shape`` through ``model``, after five passes that warm
    it: of 20 passes at least, and of as many as half a second holds."""
    image = torch.zeros(1, *shape, device=device)
    times: list[float] = []
    end = float("inf")
    while len(times) < 25 or time.perf_counter() < end:
        begin = time.perf_counter()
        model(image)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
        if len(times) == 5:
            end = time.perf_counter() + 0.5
    return statistics.median(times[5:])


def _said(name: str, value: float) -> str:
    return f"{1000 * value:.3g} ms" if name == "latency" else f"{value:,.0f}"
