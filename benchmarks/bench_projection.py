"""The evaluations of a projection (DARTS-PT): the variants of a decision together, and one masked pass at a time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from fastdarts.discretise import batch_statistics
from fastdarts.projection import changes_of, turns
from fastdarts.spaces import SPACES


@pytest.mark.parametrize("name", ["darts-7", "s3"])
@torch.no_grad()
def bench_projection(request: pytest.FixtureRequest, record: Callable, device: str, name: str) -> None:
    """All decisions of the paper's supernet on one batch each (32 images unless --batch says more), in turns.

    Alone, every pass computes all candidates, those of weight 0 too; logits of both sides are the same bit for bit.
    """
    batch, space = request.config.getoption("--batch") or 32, SPACES[name]
    torch.manual_seed(2)
    sizes = 16, 10, space.layers, nn.CrossEntropyLoss(), space.nodes
    model = space.supernet(*sizes, in_channels=3, memory="store").to(device)
    alone, x = copy.deepcopy(model), torch.randn(batch, 3, 32, 32, device=device)
    kinds, seconds = list(model.primitives), {"together": [], "one at a time": []}
    with batch_statistics(model), batch_statistics(alone):
        alone(x)
        for kind, what, index in turns(space, space.nodes, 2):
            k, tables = kinds.index(kind), [table.detach() for table in model.mixing_weights()]
            changes = changes_of(tables[k], what, index)
            start = time.perf_counter()
            ours = torch.stack(model.masked(x, kind, changes)).cpu()
            seconds["together"].append(time.perf_counter() - start)
            start, theirs = time.perf_counter(), []
            for row, weights in changes:
                table = tables[k].clone()
                table[row] = weights
                masked = [table if t is tables[k] else t for t in tables]
                alone.mixing_weights = lambda masked=masked: masked
                theirs.append(alone(x))
            theirs = torch.stack(theirs).cpu()
            seconds["one at a time"].append(time.perf_counter() - start)
            assert torch.equal(ours, theirs), f"{kind} cell, {what} {index}: the logits differ"
            fixed = model.fixed
            for place, (row, _) in enumerate(changes):
                last = len(tables[k][row]) - 1
                if what == "edge":
                    fixed[k][row] = F.one_hot(torch.tensor((row + place) % (last + 1)), last + 1)
                elif place > 1:
                    fixed[k][row] = 0.0
            model.fix(fixed)
    total = {side: sum(times) for side, times in seconds.items()}
    print(f"\n{name}, batch {batch}: " + ", ".join(f"{side} {value:.1f} s" for side, value in total.items()), end="")
    print(f", {total['one at a time'] / total['together']:.2f}x")
    for side, value in total.items():
        record(f"projection {name} N{batch}", side, [value], {"decisions": len(seconds[side])})
