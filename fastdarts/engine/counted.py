"""What the networks of a search without gradients cost, and which are too large."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastdarts.engine.costs import LATENCIES
from fastdarts.engine.history import Failed
from fastdarts.errors import FastdartsError
from fastdarts.policies.expected_cost import Setting, measured_on, noted
from fastdarts.policies.latency import LatencyTable, Priced, read_table
from fastdarts.runs.writer import atomic_write
from fastdarts.spaces import Architecture, Space
from fastdarts.spaces.cells.network import count_parameters
from fastdarts.spaces.chain.genotype import Chain, scaled
from fastdarts.spaces.chain.parts import chain_parts
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.task import Data


class Counted:
    """Counts what networks cost: a search's own settings say how large they are.

    A latency is measured once for each architecture, and kept in a file of the run. So a search that goes on counts
    what it did. With a table of the user's, the latency of a chain is the sum of its layers.
    """

    def __init__(self, config: Any, space: Space, problem: Data):
        self._config, self._space, self._problem = config, space, problem
        self._limits = config.limits()
        self._table = None if config.cost_table is None else read_table(config.cost_table)
        self._folder: Path | None = None
        self._device = torch.device("cpu")

    def facts(self) -> dict[str, str]:
        """What must be the same on all machines that count."""
        return {} if self._config.cost_table is None else {"cost table": self._table.digest}

    def open(self, device: torch.device, folder: Path | None) -> None:
        """Latencies are those of ``device``, and are kept in ``folder``; without one nothing is measured."""
        self._device, self._folder = device, folder
        if folder is not None and (folder / LATENCIES).exists():
            self._table = read_table(folder / LATENCIES)

    def count(self, kind: str, architecture: Architecture) -> float:
        """Parameters, multiply-accumulates or milliseconds of an image, of the network that a training would train."""
        setting = self._setting()
        if kind == "latency":
            return self._latency(setting, architecture.genotype)
        with torch.device("meta"):
            network = setting.network(architecture.genotype)
        if kind == "parameters":
            return float(count_parameters(network))
        from fastdarts.report.describe import macs  # which loads what a search in a table needs not

        return float(macs(network, setting.shape))

    def _setting(self) -> Setting:
        config, problem, space = self._config, self._problem, self._space
        sizes = config.channels, config.layers, config.nodes, problem.outputs
        return Setting(space, space.variants[0], *sizes, (problem.data.channels, *problem.size), self._device)

    def _latency(self, setting: Setting, genotype: Any) -> float:
        builders: dict[str, Callable[[], Priced]] = {}
        if isinstance(genotype, Chain) and self._config.cost_table is not None:
            chain = scaled(genotype, setting.channels / genotype.stem)._replace(stem=setting.channels)
            keys = noted(chain_parts(chain, setting.shape[1:], setting.shape[0], setting.classes), builders)
        else:
            keys = [setting.key(genotype)]
            builders[keys[0]] = lambda: Priced(setting.network(genotype), (1, *setting.shape), candidate=False)
        if self._folder is not None:
            here = measured_on(self._device)
            self._table = self._table or LatencyTable({}, here)
            with torch.random.fork_rng(devices=[]):
                measured = self._table.complete(builders, self._device, here)
            if measured:
                atomic_write(self._folder / LATENCIES, self._table.to_text().encode())
        return sum(self._table[key] for key in keys)

    def __call__(self, architecture: Architecture) -> float | None:
        """The cost that is asked for; raises :class:`Failed` for a network that is too large."""
        for kind, most in self._limits.items():
            if (found := self.count(kind, architecture)) > most:
                raise Failed(f"it has {found:.0f} {kind}, more than {most:.0f}")
        return None if self._config.cost is None else self.count(self._config.cost, architecture)


def costs_of(config: Any, space: Space, problem: Data) -> Counted:
    """What counts the networks of a search."""
    if config.needs_network and not isinstance(problem, ImageProblem):
        raise FastdartsError("costs are those of networks for images: leave --cost, --max-parameters, --max-macs out")
    return Counted(config, space, problem)
