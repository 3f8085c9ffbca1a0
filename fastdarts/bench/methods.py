"""A step of every method that trains a supernet, beside the step of DARTS and beside the same policies on plain
modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fastdarts.bench.check import Kernels, Wrong
from fastdarts.bench.eager import EagerCell, EagerMixedOp, EagerNetwork
from fastdarts.bench.measure import interleave, number
from fastdarts.bench.recurrent import published_first_order
from fastdarts.engine.projecting import Projecting
from fastdarts.engine.step import SearchStep
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import DroppingIdentity
from fastdarts.policies.hypergradients import FirstOrder
from fastdarts.registry import methods
from fastdarts.spaces import DARTS as CELLS
from fastdarts.spaces import find_space
from fastdarts.spaces.cells.cell import Cell
from fastdarts.spaces.cells.supernet import Network
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, SupernetConfig, resolve

DARTS, OURS, MODULES = SIDES = "DARTS", "fastdarts", "modules"
SETTINGS: dict[str, dict[str, Any]] = {
    # one stage, in which skip connections drop elements
    "p-darts": {"added_layers": (0,), "kept_candidates": (), "skip_dropout": (0.4,), "epochs": 25},
    "dr-nas": {"partial": 4, "progressive": False},
    "enas": {"space": "darts"},
}
"""What is not the published setting here."""


class PlainMixedOp(EagerMixedOp):
    """The published forward, of the candidates that the method computes."""

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        if self.active is None:
            return super().forward(x, weights)
        if not self.active:  # no candidate: the edge is left out
            return 0.0 * x[:, :, :: self.stride, :: self.stride]
        return sum(weights[k] * self._ops[k](x) for k in self.active)

    def only(self, x: Tensor, k: int) -> Tensor:
        return self._ops[k](x)


class PlainCell(EagerCell):
    """Every edge on its own; of a single path, one candidate of it."""

    def discrete(self, s0: Tensor, s1: Tensor, chosen: Sequence[int | None], weights2: Tensor | None = None) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        edges = iter(zip(self._ops, chosen, strict=True))
        for _ in range(self._steps):
            pairs = zip(tuple(states), edges, strict=False)
            states.append(sum(edge.only(state, k) for state, (edge, k) in pairs if k is not None))
        return torch.cat(states[-self._multiplier :], dim=1)


class PlainNetwork(EagerNetwork):
    """The mixing weights are those that the method computes with in this pass."""

    def forward(self, input: Tensor) -> Tensor:
        s0, s1 = self._begin(input)
        edges = self.edge_weights()
        for cell, weights in zip(self.cells, self.cell_weights(), strict=True):
            s0, s1 = s1, cell(s0, s1, weights, edges[cell.reduction])
        return self.classifier(self.global_pooling(s1).flatten(1))

    def _begin(self, input: Tensor) -> tuple[Tensor, Tensor]:
        return self._stems(input)


class PlainDropping(DroppingIdentity):
    """Dropout as PyTorch computes it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rate, self.training)


PLAIN = {MixedOp: PlainMixedOp, Cell: PlainCell, Network: PlainNetwork, DroppingIdentity: PlainDropping}


@dataclass(frozen=True)
class MethodCase:
    """A step of a search: alphas, then weights, or in the order of the method.

    The epoch is one in which all of the method is at work.
    """

    method: str
    channels: int = 16
    layers: int = 4
    batch: int = 8
    size: int = 32
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.method} step C{self.channels} {self.layers} cells N{self.batch}"

    @property
    def config(self) -> SupernetConfig:
        """The settings of its search."""
        sizes = {"channels": self.channels, "layers": self.layers, "batch_size": self.batch, "seed": self.seed}
        return resolve(SearchConfig(**{"method": self.method} | sizes | SETTINGS.get(self.method, {}) | self.settings))

    def differs(self) -> bool:
        """Whether anything but the images, the stopping and the result distinguishes its step from that of DARTS."""
        config, base = self.config, replace(self, method="darts").config
        recipe, plain = (own.build(find_space(own.space)) for own in (config, base))
        policies = ("relaxation", "hypergradient", "stages", "penalty", "alignment", "perturbation", "path", "alphas")
        kinds = [[type(getattr(of, name)) for name in policies] for of in (recipe, plain)]
        values = [[of.order, of.weight_steps, own.partial] for of, own in ((recipe, config), (plain, base))]
        return kinds[0] != kinds[1] or values[0] != values[1]

    @staticmethod
    def epoch(step: SearchStep) -> int:
        """The one that is timed."""
        return max(step.recipe.warmup, 1)

    def step(self, side: str, dtype: torch.dtype = torch.float32) -> SearchStep:
        """The supernet in training; of the side of DARTS, that of DARTS in the same size."""
        case = replace(self, method="darts", settings={}) if side == DARTS else self
        step = SearchStep(case.config, ImageProblem.of_shape(10, 3, (self.size, self.size)), torch.device("cpu"))
        step.model.to(dtype)
        if step.recipe.penalty is not None:
            step.recipe.penalty.attach(step.model, (self.size, self.size))  # again, in this type
        step.recipe.stages.start_epoch(step.model, self.epoch(step))
        if side == MODULES:
            for module in step.model.modules():
                module.__class__ = PLAIN.get(type(module), type(module))
            if step.architect is not None and isinstance(step.recipe.hypergradient, FirstOrder):
                step.architect.strategy = published_first_order
        return step

    def run(self, side: str, dtype: torch.dtype = torch.float32) -> Callable[[], dict[str, Tensor]]:
        """What is timed: it returns the gradients of its step by name."""
        step = self.step(side, dtype)
        recipe, config, model, epoch = step.recipe, step.config, step.model, self.epoch(step)
        for policy in (recipe.relaxation, recipe.perturbation):
            if policy is not None:
                policy.start_epoch(epoch, config.epochs)
        torch.manual_seed(self.seed)
        batches = [
            (torch.randn(self.batch, 3, self.size, self.size).to(dtype), torch.randint(10, (self.batch,)))
            for _ in range(2)
        ]

        def run() -> dict[str, Tensor]:
            torch.manual_seed(self.seed)  # of dropout
            loss = step.step(*batches, Meter(), epoch, recipe.weight_steps - 1)
            # after the first step the optimizers hold its gradients
            sgd = step.optimizer.state
            found = {"loss": torch.tensor(loss, dtype=dtype)}
            found |= {f"grad of {name}": sgd[p].get("momentum_buffer") for name, p in model.named_parameters()}
            if step.architect is not None:
                adam = step.architect.optimizer.state
                found |= {f"grad of alphas {i}": adam[a]["exp_avg"] for i, a in enumerate(model.arch_parameters())}
            return found

        return run

    def check(self) -> None:
        """Raise :class:`Wrong` if fastdarts and plain modules disagree on a small step in float64."""
        settings = {name: (0.0,) for name in SETTINGS.get(self.method, ()) if name == "skip_dropout"}
        small = replace(self, channels=8, batch=2, size=16, settings=self.settings | settings)
        expected = small.run(MODULES, torch.float64)()
        with Kernels() as kernels:
            found = small.run(OURS, torch.float64)()
        if not any("mixed_op" in name for name in kernels.seen):
            raise Wrong(f"{self} runs no kernel of fastdarts")
        for name, exact in expected.items():
            if exact is None or found[name] is None:
                if (exact is None) != (found[name] is None):
                    raise Wrong(f"{name} of {self} is missing on one side")
                continue
            off = (found[name] - exact).norm() / exact.norm().clamp(min=1e-12)
            if not off <= 1e-7:
                raise Wrong(f"{name} of {self} is off by {off:.2g} of its size in float64, where 1e-7 is allowed")

    def computed(self) -> tuple[float, int]:
        """Candidates that an edge computes in a step, on average, and how many there are."""
        step = self.step(OURS)
        step.model.relaxation.draw(step.model.alpha_tables())
        with torch.no_grad():
            step.model.cell_weights()
        edges = [edge for cells in step.model.mixed_ops().values() for edge in cells[0]]
        counts = [len(edge.primitives) if edge.active is None else len(edge.active) for edge in edges]
        if step.recipe.path is not None:
            counts = [1]
        return sum(counts) / len(counts), len(edges[0].primitives)


def cases() -> list[MethodCase]:
    """Every registered method that trains a supernet of cells, DARTS first, without those whose step is its own."""
    known = ((name, method.settings) for name, method in sorted(methods().items()))
    trains = ((name, kind) for name, kind in known if issubclass(kind, SupernetConfig))
    own = (name for name, kind in trains if not issubclass(kind, Projecting) and not kind.lacking(CELLS))
    found = [case for name in own if (case := MethodCase(name)).differs()]
    return [MethodCase("darts"), *found]


def measure(case: MethodCase, seconds: float) -> dict[str, Any]:
    """Times of all sides; raises :class:`Wrong` first, if their results differ."""
    case.check()
    computed, offered = case.computed()
    timings = interleave({side: case.run(side) for side in SIDES}, seconds)
    sides = {
        side: {"ms": timing.median * 1e3, "rounds_ms": [s * 1e3 for s in timing.seconds]}
        for side, timing in timings.items()
    }
    return {"case": str(case), "method": case.method, "computed": computed, "offered": offered, "sides": sides}


HEADS = ("method", "candidates", "DARTS, ms", "method, ms", "of DARTS", "modules, ms", "speed-up")


def line(row: dict[str, Any]) -> list[str]:
    """A row of the table, under :data:`HEADS`."""
    if "wrong" in row:
        return [row["method"], "not timed: " + row["wrong"], *[""] * (len(HEADS) - 2)]
    base, ours, modules = (row["sides"][side]["ms"] for side in SIDES)
    share = f"{row['computed']:.2g} of {row['offered']}"
    times = number(base), number(ours), f"{ours / base:.2f}×", number(modules), f"{modules / ours:.1f}×"
    return [row["method"], share, *times]


LEGEND = """\
Median ms of a step at {channels} channels, {layers} cells and batch {batch}, in rounds in which the sides take turns.
Candidates: how many an edge computes. DARTS: its own step, on the kernels. Modules: the same policies on plain PyTorch
modules in NCHW."""


def print_methods(rows: Sequence[dict[str, Any]], machine: dict[str, Any]) -> None:
    """The table in Markdown."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    table = Table(*HEADS, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*line(row))
    console.print(f"{machine['cpu']} ({machine['isa']}), {machine['threads']} threads, torch {machine['torch']}\n")
    console.print(table)
    console.print("", LEGEND.format(**vars(MethodCase("darts"))), sep="\n")
