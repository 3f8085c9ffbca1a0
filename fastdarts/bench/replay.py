"""Sides whose launches are replayed as CUDA graphs, with the bits of those that are not."""

from __future__ import annotations

import sys
from functools import partial

import torch

from fastdarts.bench.cases import OURS, EdgeCase, EvaluationCase, StepCase, Work
from fastdarts.bench.check import Wrong
from fastdarts.bench.measure import captured
from fastdarts.engine.capture import Graphs


def replay(case: EdgeCase, side: str) -> Work:
    """A side whose launches are replayed as a CUDA graph; ours must give the same bits as without."""
    work = case.work(side, device="cuda")
    plain, again = work.run(), captured(work.run)
    if side == OURS and (wrong := [name for name, result in again().items() if not torch.equal(result, plain[name])]):
        raise Wrong(f"{wrong[0]} of {case} is another when a CUDA graph computes it")
    return work._replace(run=again)


STEPS = 6
"""Steps after which all passes of one have been recorded and replayed: they are watched before, so that their shapes
are known."""


def replay_step(case: StepCase | EvaluationCase, device: str = "cuda") -> Work:
    """Fastdarts' own recording of whole passes; after some steps all results must have the bits of steps without."""
    graphs = Graphs("on", torch.device(device), partial(print, file=sys.stderr))
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True  # as in a search
    try:
        plain, work = case.work(OURS, device=device), case.work(OURS, device=device, graphs=graphs)
        for _ in range(STEPS):
            expected, found = plain.run(), work.run()
        if wrong := [name for name, result in found.items() if not torch.equal(result, expected[name])]:
            raise Wrong(f"{wrong[0]} of {case} is another when its passes are replayed as CUDA graphs")
        return work
    finally:
        torch.backends.cudnn.deterministic = before
