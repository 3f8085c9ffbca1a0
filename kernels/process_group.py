"""The process group below the kernels: its ranks, collectives over them, and the statistics of a batch they share.

The group is torch.distributed's default group, and it counts inside :func:`joined` only. Elsewhere, and inside
:func:`alone`, this process is the only one, and nothing communicates. :func:`add_up`, :func:`gather` and
:func:`normalise` are collective: every process calls them, in the same order. They raise ConnectionError when one of
the processes has ended.
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
    """The number of processes that share a batch."""
    return dist.get_world_size() if _joined else 1


def rank() -> int:
    """The number of this process, from 0 on."""
    return dist.get_rank() if _joined else 0


@contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes of torch.distributed's default group share their batches; the group must exist."""
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
    """``function(*args)`` of torch.distributed; ConnectionError if a process is gone."""
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
    """Σ over the processes. Their losses add up to the one that is differentiated, and so do the sum's gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return add_up(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


def normalise(x: Tensor, images: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x − μ) / √(σ² + eps) of x, [N, C, H, W], by the statistics of the ``images`` images of all processes.

    Also returns μ and the unbiased σ², [C], detached. Differentiable any number of times, if the processes' losses add
    up to the one that is differentiated.
    """
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
