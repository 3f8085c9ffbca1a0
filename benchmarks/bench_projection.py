"""The evaluations of a projection (DARTS-PT): the variants of a decision together, and one masked pass at a time."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastdarts.bench.check import Deviation
from fastdarts.bench.eager import EagerMixedOp, make_eager
from fastdarts.nn.statistics import batch_statistics
from fastdarts.nn.supernet import Supernet
from fastdarts.policies.projection import changes_of, turns
from fastdarts.spaces import SPACES

LAST = torch.channels_last


class Skipping(EagerMixedOp):
    """The mixed operation of the public DARTS-PT code: candidates of weight 0 are not called."""

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * op(x) for w, op in zip(weights, self._ops, strict=True) if w != 0)


@dataclass
class Alone:
    """A network that makes one masked pass at a time; ``constant``: all its passes do the same work."""

    model: nn.Module
    constant: bool
    seconds: list[float] = field(default_factory=list)

    def logits(self, x: Tensor, tables: list[Tensor]) -> Tensor:
        self.model.mixing_weights = lambda: tables
        start = time.perf_counter()
        logits = self.model(x).cpu()
        self.seconds.append(time.perf_counter() - start)
        return logits

    def total(self, variants: list[int]) -> float:
        """Seconds of a whole projection, one pass of each decision having been timed."""
        if self.constant:
            return statistics.median(self.seconds) * sum(variants)
        return sum(count * seconds for count, seconds in zip(variants, self.seconds, strict=True))


def sides(model: nn.Module) -> dict[str, Alone]:
    """What is compared: copies of ``model``."""
    eager = make_eager(copy.deepcopy(model))
    skipping = copy.deepcopy(eager)
    for module in skipping.modules():
        module.__class__ = Skipping if type(module) is EagerMixedOp else type(module)
    return {
        "modules": Alone(eager, True),
        "modules, weights of 0 skipped": Alone(skipping, False),
        "the same, channels-last": Alone(copy.deepcopy(skipping).to(memory_format=LAST), False),
        "kernels, one at a time": Alone(copy.deepcopy(model), True),
    }


@pytest.mark.parametrize("name", ["darts-7", "s3", "nasbench201"])
@torch.no_grad()
def bench_projection(request: pytest.FixtureRequest, record: Callable, device: str, name: str) -> None:
    """All decisions of a projection of the published supernet on one batch each (32 images unless --batch says more).

    Together, all variants of every decision are timed. The other sides make one masked pass at a time, of which one per
    decision is timed, in turns, and counted once for each variant. "Modules" and "kernels" compute all candidates;
    "weights of 0 skipped" is what the public DARTS-PT code does, "kernels, weights of 0 skipped" what is timed together
    but for what the variants share. Not timed before the modules' logits are as near to float64 as theirs, and those of
    the kernels alone the same bit for bit in every decision.
    """
    batch, space = request.config.getoption("--batch") or 32, SPACES[name]
    torch.manual_seed(2)
    sizes = 16, 10, space.layers, nn.CrossEntropyLoss(), space.nodes
    model = space.supernet(*sizes, in_channels=3, memory="store").to(device)
    x, others = torch.randn(batch, 3, 32, 32, device=device), sides(model)
    kinds, variants, together, skipped = list(model.primitives), [], 0.0, Alone(model, False)
    check(model, x)
    for side in others.values():
        side.model.train()  # as published: statistics of the batch, running ones move
        side.logits(x, [table.detach() for table in model.mixing_weights()])
        side.seconds.clear()
    with batch_statistics(model):
        for number, (kind, what, index) in enumerate(turns(space, space.nodes, 2)):
            k, tables = kinds.index(kind), [table.detach() for table in model.mixing_weights()]
            changes = changes_of(tables[k], what, index)
            start = time.perf_counter()
            ours = torch.stack(model.masked(x, kind, changes)).cpu()
            together += time.perf_counter() - start
            variants.append(len(changes))
            row, weights = changes[number % len(changes)]
            masked = [table.clone() for table in tables]
            masked[k][row] = weights
            start = time.perf_counter()
            (own,) = Supernet.masked(model, x, kind, [changes[number % len(changes)]])
            own = own.cpu()
            skipped.seconds.append(time.perf_counter() - start)
            assert torch.equal(ours[number % len(changes)], own), f"{kind} cell, {what} {index}: the logits differ"
            for title, side in others.items():
                logits = side.logits(x.contiguous(memory_format=LAST) if "last" in title else x, masked)
                same = torch.equal(ours[number % len(changes)], logits) or title != "kernels, one at a time"
                assert same, f"{kind} cell, {what} {index}: the logits differ"
            fixed = model.fixed
            for place, (row, _) in enumerate(changes):
                last = len(tables[k][row]) - 1
                if what == "edge":
                    fixed[k][row] = F.one_hot(torch.tensor(row % (last + 1)), last + 1)
                elif place > 1:
                    fixed[k][row] = 0.0
            model.fix(fixed)
    print(f"\n{name}, batch {batch}: {sum(variants)} passes, together {together:.1f} s")
    record(f"projection {name} N{batch}", "together", [together], {"passes": sum(variants)})
    for title, side in (others | {"kernels, weights of 0 skipped": skipped}).items():
        total = side.total(variants)
        print(f"  {title}: {total:.1f} s, {total / together:.2f}x")
        record(f"projection {name} N{batch}", title, [total], {"timed": len(side.seconds)})


def check(model: nn.Module, x: Tensor) -> None:
    """Logits without a candidate are no farther from float64 than twice those of the modules, and a few ulp."""
    kind, (change, *_) = next(iter(model.primitives)), changes_of(model.mixing_weights()[0].detach(), "edge", 5)
    masked = [table.detach().clone() for table in model.mixing_weights()]
    masked[0][change[0]] = change[1]
    with batch_statistics(model):
        (ours,) = model.masked(x, kind, [change])
        eager = make_eager(copy.deepcopy(model))
        theirs = Alone(eager, True).logits(x, masked)
        exact = Alone(eager.double(), True).logits(x.double(), [table.double() for table in masked])
    errors = ((logits.cpu().double() - exact).abs().max().item() for logits in (ours, theirs))
    found = Deviation("logits", *errors, torch.finfo(torch.float32).eps * exact.abs().max().item())
    assert not found.wrong, f"{found.name} are off by {found.ours:.2g}, where {found.allowed:.2g} is allowed"
