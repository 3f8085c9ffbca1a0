"""The flat updates beside PyTorch's own, over the weights of the published supernet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fastdarts.bench.check import Wrong
from fastdarts.bench.measure import interleave
from fastdarts.functional import flat_norm, flat_perturb, flat_sgd, flat_unroll
from fastdarts.nn.optim import SGD, Flat
from fastdarts.spaces.cells.supernet import Network

COPY, FOREACH, FUSED, OURS = "copy", "foreach", "fused SGD", "fastdarts"
RATES = {"lr": 0.025, "mu": 0.9, "weight_decay": 3e-4}
RADIUS, MAX_NORM = 1e-2, 5.0


class Weights:
    """The weights of a supernet with gradients and momentum, in buffers and as lists of tensors that share them."""

    def __init__(self, channels: int = 16, layers: int = 8, device: str = "cpu"):
        torch.manual_seed(0)
        network = Network(channels, 10, layers, nn.CrossEntropyLoss()).to(device)
        self.flat = Flat(list(network.parameters()))
        self.w, self.out = self.flat.weights, self.flat.empty()
        self.grad, self.momentum = self.flat.empty(), self.flat.empty()
        self.lists = [self.flat.views(buffer) for buffer in (self.w, self.out, self.grad, self.momentum)]
        for t in (*self.lists[2], *self.lists[3]):  # not what is between them
            t.normal_()

    def optimizer(self, kind: type[torch.optim.SGD], **options: Any) -> torch.optim.SGD:
        """One over parameters of its own, with the same values."""
        parameters = [nn.Parameter(t.clone()) for t in self.lists[0]]
        for p, grad in zip(parameters, self.lists[2], strict=True):
            p.grad = grad.clone()
        optimizer = kind(parameters, RATES["lr"], momentum=RATES["mu"], weight_decay=RATES["weight_decay"], **options)
        for p, momentum in zip(parameters, self.lists[3], strict=True):
            optimizer.state[p]["momentum_buffer"] = momentum.clone()
        return optimizer


@dataclass(frozen=True)
class FlatCase:
    """One update: how often it passes over the weights, and its sides, each giving its results as a list."""

    name: str
    passes: int
    sides: dict[str, Callable[[], list[Tensor]]]

    def __str__(self) -> str:
        return self.name


def cases(weights: Weights) -> list[FlatCase]:
    """Every update; the passes are the fewest that read and write every array once."""
    ws, outs, grads, momenta = weights.lists
    w, out, grad, momentum = weights.w, weights.out, weights.grad, weights.momentum
    norm = flat_norm(grad)
    epsilon = (RADIUS / norm).item()

    def unrolled() -> list[Tensor]:
        step = torch._foreach_add(grads, ws, alpha=RATES["weight_decay"])
        torch._foreach_add_(step, momenta, alpha=RATES["mu"])
        return torch._foreach_add(ws, step, alpha=-RATES["lr"])

    def ours(update: Callable[[], object]) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            update()
            return outs

        return run

    def steps(optimizer: torch.optim.SGD, clip: bool) -> Callable[[], list[Tensor]]:
        parameters = optimizer.param_groups[0]["params"]

        def run() -> list[Tensor]:
            if clip:
                nn.utils.clip_grad_norm_(parameters, MAX_NORM, foreach=True)
            optimizer.step()
            return parameters

        return run

    stepped, kept = w.clone(), momentum.clone()
    seen = weights.flat.views(stepped)

    def step() -> list[Tensor]:
        flat_sgd(stepped, grad, kept, flat_norm(grad), max_norm=MAX_NORM, **RATES)
        return seen

    return [
        FlatCase(
            "norm",
            1,
            {
                FOREACH: lambda: [torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))],
                OURS: lambda: [flat_norm(grad)],
            },
        ),
        FlatCase("step with clipping", 6, {
            FOREACH: steps(weights.optimizer(torch.optim.SGD, foreach=True), clip=True),
            FUSED: steps(weights.optimizer(torch.optim.SGD, fused=True), clip=True),
            OURS: step,
        }),
        FlatCase("the same from gradients apart", 8, {
            FOREACH: steps(weights.optimizer(torch.optim.SGD, foreach=True), clip=True),
            FUSED: steps(weights.optimizer(torch.optim.SGD, fused=True), clip=True),
            OURS: steps(weights.optimizer(SGD, max_norm=MAX_NORM), clip=False),
        }),
        FlatCase("unrolled step", 4, {
            FOREACH: unrolled,
            OURS: ours(lambda: flat_unroll(w, grad, momentum, **RATES, out=out)),
        }),
        FlatCase("w + εv", 3, {
            FOREACH: lambda: torch._foreach_add(ws, grads, alpha=epsilon),
            OURS: ours(lambda: flat_perturb(w, grad, norm, RADIUS, out=out)),
        }),
    ]  # fmt: skip


def measure_flat(case: FlatCase, weights: Weights, seconds: float) -> dict[str, Any]:
    """Times of every side and its share of the bandwidth of a copy, in turns; raises :class:`Wrong` first."""
    first, *others = [[t.detach().clone() for t in run()] for run in case.sides.values()]
    for found in others:
        for a, b in zip(first, found, strict=True):
            if not torch.allclose(a, b, rtol=1e-4, atol=1e-6):
                raise Wrong(f"{case} is off by {(a - b).abs().max().item():.2g} from torch's")
    elsewhere = torch.empty_like(weights.w)
    timings = interleave({COPY: lambda: elsewhere.copy_(weights.grad)} | case.sides, seconds)
    second = timings[COPY].median / 2  # of one pass, a copy being two
    return {
        "case": str(case),
        "weights": weights.w.numel(),
        "copy_gb_s": weights.w.nbytes / second / 1e9,
        "sides": {
            side: {
                "ms": timings[side].median * 1e3,
                "rounds_ms": [s * 1e3 for s in timings[side].seconds],
                "copy_share": case.passes * second / timings[side].median,
            }
            for side in case.sides
        },
    }


def print_flat(rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """The machine, the table in Markdown, and what its columns mean."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    table = Table("update", FOREACH, FUSED, OURS, "speed-up", "of copy bandwidth", box=box.MARKDOWN)
    for row in rows:
        sides, peers = row["sides"], [side for side in (FOREACH, FUSED) if side in row["sides"]]
        table.add_row(
            row["case"],
            *(f"{sides[side]['ms']:.3g}" if side in sides else "" for side in (FOREACH, FUSED, OURS)),
            " / ".join(f"{sides[peer]['ms'] / sides[OURS]['ms']:.1f}×" for peer in peers),
            f"{sides[OURS]['copy_share']:.0%}",
        )
    console.print(
        f"{facts['cpu']} ({facts['isa']}), {facts['threads']} threads, torch {facts['torch']}, fastdarts "
        f"{facts['fastdarts']} ({facts['compiler']}), malloc {facts['malloc']}\n"
    )
    console.print(table)
    copies = " to ".join(f"{f(row['copy_gb_s'] for row in rows):.1f}" for f in (min, max))
    console.print(
        f"\nMedian ms of rounds in turns, over {rows[0]['weights']:,} weights in float32. A copy reads and writes "
        f"{copies} GB/s. Of copy bandwidth: the\nfewest bytes that the update can move (1 to 8 passes), per second, as "
        "a share of that."
    )
