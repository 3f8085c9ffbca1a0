"""Several processes, each with its own part of a batch: who they are, sums over them, batch statistics of all of it.

They are those of torch.distributed's default group, inside :func:`joined` only: elsewhere, and inside :func:`alone`,
there is one process, and nothing communicates. Everything else here is collective: all processes call it, in the same
order. ConnectionError means that one of them has ended.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastdarts.kernels.registry import NO_NATIVE

AXES = (0, 2, 3)
_joined = False


def world() -> int:
    """How many processes share a batch."""
    return dist.get_world_size() if _joined else 1


def rank() -> int:
    """Which of them this is, from 0 on."""
    return dist.get_rank() if _joined else 0


@contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes of torch.distributed's default group, which must be there, share their batches."""
    with _as(True):
        yield


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process counts as the only one."""
    with _as(False):
        yield


@contextmanager
def _as(value: bool) -> Iterator[None]:
    global _joined
    before, _joined = _joined, value
    try:
        yield
    finally:
        _joined = before


def collective(function: Callable, *args: Any) -> Any:
    """``function(*args)`` of torch.distributed."""
    try:
        return function(*args)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConnectionError(f"rank {rank()} has lost another one: see what that one says ({reason})") from error


def add_up(tensor: Tensor) -> Tensor:
    """``tensor``, contiguous, overwritten by its sum over the processes: the same bits on all of them."""
    if world() > 1:
        collective(dist.all_reduce, tensor)
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """[processes, ...]: ``tensor``, of one shape everywhere, of each process in the order of their ranks."""
    if world() == 1:
        return tensor[None]
    result = tensor.new_empty(world(), *tensor.shape)
    collective(dist.all_gather, [*result.unbind()], tensor.contiguous())
    return result


class _Sum(torch.autograd.Function):
    """Σ over the processes, whose losses add up to the one that is differentiated: so do the gradients of the sum."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return add_up(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


def normalise(x: Tensor, images: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x − μ) / √(σ² + eps) by the statistics of ``images`` images over all processes, [N, C, H, W] here; with μ and
    the unbiased σ², [C], detached. Differentiable any number of times, where the processes' losses add up to one."""
    count = images * x.shape[2] * x.shape[3]
    x = x.contiguous()  # sums over channels-last maps round ten times worse
    mean = _Sum.apply(x.sum(AXES)) / count
    centred = x - mean.view(-1, 1, 1)
    squares = _Sum.apply(centred.square().sum(AXES))
    out = centred * torch.rsqrt(squares / count + eps).view(-1, 1, 1)
    return out, mean.detach(), squares.detach() / (count - 1)


def _gather_doubles(own: memoryview) -> bytearray:
    """:func:`gather` as the native kernels call it."""
    result = bytearray(own.nbytes * world())
    rows = torch.frombuffer(result, dtype=torch.float64).chunk(world())
    collective(dist.all_gather, [*rows], torch.frombuffer(own, dtype=torch.float64))
    return result


if not NO_NATIVE:
    importlib.import_module("fastdarts._C").set_gather(_gather_doubles)
