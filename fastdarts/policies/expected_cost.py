"""What the network of a search is expected to cost, and the losses in which that counts.

ProxylessNAS (Cai et al. 2019, section 3.3) has made the latency a function of the alphas. The reward for methods
without a gradient is :func:`fastdarts.policies.searchers.objective.mnasnet_reward`.
"""

from __future__ import annotations

import json
import math
import statistics
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import FlopCounterMode

from fastdarts.errors import FastdartsError
from fastdarts.nn.supernet import Supernet
from fastdarts.policies.base import Monitor, Policy, Row, Search
from fastdarts.policies.latency import LatencyTable, Priced, key_of
from fastdarts.ranks import from_first
from fastdarts.runs.writer import processor
from fastdarts.spaces import ImageSpace
from fastdarts.spaces.space import Part

COSTS = ("parameters", "macs", "latency")
"""What a search may count: numbers of parameters and of multiply-accumulates, and milliseconds."""
SAMPLES = 5
"""Networks that are measured for what all of them have in common."""
NOT_BELOW = 1 + 1e-6
"""A cost in a logarithm: below 1 it would be negative."""


def log_loss(loss: Tensor, cost: Tensor, target: float, weight: float = 0.2, exponent: float = 0.3) -> Tensor:
    r"""``mul#log`` of ProxylessNAS: :math:`a \, L \, (\ln E / \ln T)^b`, a scalar.

    ``loss`` L and ``cost`` E are scalars, E and ``target`` T above 1; ``weight`` is a and ``exponent`` is b.

    >>> round(log_loss(torch.tensor(28.0), torch.tensor(14.0), 14.0).item(), 4)
    5.6
    """
    return weight * loss * (cost.clamp_min(NOT_BELOW).log() / math.log(target)) ** exponent


def linear_loss(loss: Tensor, cost: Tensor, target: float, weight: float = 0.1) -> Tensor:
    r"""``add#linear`` of ProxylessNAS: :math:`L + \lambda (E - T) / T`, a scalar; ``weight`` is λ.

    >>> round(linear_loss(torch.tensor(1.0), torch.tensor(21.0), 14.0).item(), 4)
    1.05
    """
    return loss + weight * (cost - target) / target


def expected(weights: Sequence[Tensor], prices: Sequence[Tensor], fixed: float = 0.0) -> Tensor:
    r"""The mean cost where each edge has one candidate by chance:
    :math:`E = F + \sum_e \sum_k \frac{w_{ek}}{\sum_j w_{ej}} T_{ek}`.

    weights, prices: [E, K] per kind of cell; NaN in ``prices`` marks candidates that are no operation of a genotype.

    >>> p = torch.tensor([[0.3, -0.2, 0.1]]).softmax(-1)
    >>> round(expected([p], [torch.tensor([[5.0, 2.0, 8.0]])], 10.0).item(), 4)
    15.2625
    """
    total = weights[0].new_full((), fixed)
    for table, costs in zip(weights, prices, strict=True):
        chosen = torch.where(costs.isnan(), 0.0, table)
        total = total + (chosen * costs.nan_to_num(0.0)).sum(-1).div(chosen.sum(-1)).sum()
    return total


class Setting(NamedTuple):
    """The network of which a cost is expected: that of any genotype of ``space``, of these sizes."""

    space: ImageSpace
    variant: str
    channels: int
    layers: int
    nodes: int
    classes: int
    shape: tuple[int, int, int]
    device: torch.device

    def network(self, genotype: Any) -> nn.Module:
        """The network of a genotype."""
        sizes = self.channels, self.classes, self.layers, False
        return self.space.network(self.variant, *sizes, genotype, in_channels=self.shape[0])

    def key(self, genotype: Any) -> str:
        """The key of the whole network of a genotype in a table of latencies."""
        text = json.dumps([self.variant, self.space.to_dict(genotype)])
        facts = {"channels": self.channels, "layers": self.layers, "genotype": zlib.crc32(text.encode())}
        channels, height, width = self.shape
        return key_of("network", (height, width, channels), (self.classes,), **facts)


class ExpectedCost(Policy):
    """The cost of the network that would be derived, expected over the strengths of candidates, in the loss of alphas.

    A candidate costs what it does by itself on its map. Of the edges into a node, as many are kept as the cell keeps,
    all equally likely. What is not a candidate (stem, cells' inputs, classifier) is a constant: the cost of a network
    less that of its operations. Of latencies it is the median over five random networks, so that it also holds what
    operations take longer in a network than alone. In chains it is the sum of the other layers, unless latencies are
    measured on this device.

    Args:
        kind: one of :data:`COSTS`.
        target: the cost that is wanted, in milliseconds for latency.
        combine: what makes the loss of the alphas from their own loss, the cost and the target.
        table: latencies that are known. What is missing is measured, unless the table is from elsewhere.
    """

    def __init__(
        self,
        kind: str,
        target: float,
        combine: Callable[[Tensor, Tensor, float], Tensor],
        table: LatencyTable | None = None,
    ):
        self.kind, self.target, self._combine = kind, target, combine
        self.table = table
        self._prices: list[Tensor] = []
        self._raw: list[Tensor] = []
        self._fixed, self._setting = 0.0, None

    def attach(self, model: Supernet, setting: Setting) -> None:
        """Find what all candidates of a fresh supernet cost, and the rest of the network."""
        self._setting, space = setting, setting.space
        parts, builders = space.parts(model, setting.channels, setting.shape, setting.classes), {}
        keys: dict[str, list[list[list[list[str] | None]]]] = {kind: [] for kind in model.primitives}
        for kind, edges in parts.cells:
            keys[kind].append([[None if own is None else noted(own, builders) for own in edge] for edge in edges])
        rest = noted(parts.rest or (), builders)
        whole = self._networks(builders) if self._measures(setting.device) or parts.rest is None else {}
        costs = self._costs(builders, setting.device)
        self._raw = []
        for kind, names in model.primitives.items():
            total = torch.zeros(len(names), len(names[0]), dtype=torch.float64)
            for cell in keys[kind]:
                rows = [[math.nan if own is None else sum(costs[key] for key in own) for own in row] for row in cell]
                total += torch.tensor(rows, dtype=torch.float64)
            self._raw.append(total)
        cell = space.topology(setting.nodes)
        share = torch.tensor(
            [1.0 if cell.kept is None else min(1.0, cell.kept / len(cell.into(edge.target))) for edge in cell.edges]
        )
        self._prices = [
            (table * share[:, None]).to(alpha) for table, alpha in zip(self._raw, model.alpha_tables(), strict=True)
        ]
        self._fixed = sum(costs[key] for key in rest)
        if whole:
            self._fixed = statistics.median(costs[key] - self.predicted(genotype) for key, genotype in whole.items())

    def _measures(self, device: torch.device) -> bool:
        """Whether latencies are those of ``device``: then whole networks can be measured too."""
        return self.kind == "latency" and (self.table is None or self.table.processor == measured_on(device))

    def _networks(self, builders: dict[str, Callable[[], Priced]]) -> dict[str, Any]:
        """Random genotypes by the keys of their networks, whose builders are noted."""
        setting, generator, whole = self._setting, torch.Generator().manual_seed(0), {}
        for _ in range(SAMPLES if self.kind == "latency" else 1):
            genotype = setting.space.sample(generator, setting.nodes)
            key = setting.key(genotype)
            whole[key] = genotype
            builders[key] = lambda genotype=genotype: Priced(
                setting.network(genotype), (1, *setting.shape), candidate=False
            )
        return whole

    def _costs(self, builders: dict[str, Callable[[], Priced]], device: torch.device) -> dict[str | None, float]:
        if self.kind != "latency":
            with _disable_current_modes(), torch.device("meta"):
                return {key: float(counted(make(), self.kind)) for key, make in builders.items()}

        def completed() -> LatencyTable:
            table = LatencyTable({}, measured_on(device)) if self.table is None else self.table
            with torch.random.fork_rng(devices=[]):
                table.complete(builders, device, measured_on(device))
            return table

        self.table = from_first(completed)
        return {key: self.table[key] for key in builders}

    def predicted(self, genotype: Any) -> float:
        """The cost of the network of a genotype, by its operations."""
        taken = self._setting.space.taken(genotype, self._setting.nodes)
        pairs = zip(taken.values(), self._raw, strict=True)
        costs = torch.stack([table[place] for places, table in pairs for place in places])
        return self._fixed + costs.nansum().item()

    def expected(self, weights: Sequence[Tensor]) -> Tensor:
        """See :func:`expected`, with the strengths [E, K] of each kind of cell."""
        return expected(weights, self._prices, self._fixed)

    def total(self, loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """The loss of the alphas in which the cost counts."""
        return self._combine(loss, self.expected(weights), self.target)

    def facts(self, genotype: Any) -> dict[str, Any]:
        """What result.json holds."""
        return {"cost": {"kind": self.kind, "target": self.target, "predicted": self.predicted(genotype)}}

    def state_dict(self) -> dict[str, Any]:
        """The latencies: a search that goes on counts what it did."""
        return {} if self.table is None else {"processor": self.table.processor, "latencies": dict(self.table.values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.table = LatencyTable(state["latencies"], state["processor"])


def measured_on(device: torch.device) -> str:
    """What measures latencies here, in words: the ``processor`` of a :class:`LatencyTable`."""
    return f"{processor(device)}, {torch.get_num_threads()} threads"


def noted(parts: Sequence[Part], builders: dict[str, Callable[[], Priced]]) -> list[str]:
    """The keys of parts, whose builders are noted."""
    keys = []
    for part in parts:
        keys.append(key_of(part.name, part.input, part.output, **part.facts))
        height, width, channels = part.input
        shape = 1, channels, height, width
        builders[keys[-1]] = lambda part=part, shape=shape: Priced(part.build(), shape, part.of_cell)
    return keys


class CostMonitor(Monitor):
    """The expected cost of the network after an epoch: ``expected_parameters``, ``expected_macs`` or
    ``expected_latency`` (milliseconds)."""

    def __init__(self, cost: ExpectedCost):
        super().__init__()
        self._cost = cost

    def measure(self, search: Search) -> Row:
        with torch.no_grad():
            return {f"expected_{self._cost.kind}": self._cost.expected(search.model.mixing_weights()).item()}


def counted(priced: Priced, kind: str) -> int:
    """Parameters of a module, or multiply-accumulates of one image, evaluating."""
    if kind == "parameters":
        return sum(p.numel() for p in priced.module.parameters())
    if kind != "macs":
        raise FastdartsError(f"got the cost {kind!r}: expected parameters or macs, which can be counted")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        priced.module.eval()(torch.empty(priced.shape, device="meta"))
    return counter.get_total_flops() // 2
