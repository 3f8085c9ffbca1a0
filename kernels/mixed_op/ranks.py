"""Statistics and totals of a batch of which other processes have parts, as the GPU kernels of mixed_op ask for them.

The CUDA kernels call both functions through the dispatcher, between two launches: nothing waits for the device.
"""

import functools

import torch
from torch import Tensor

from fastdarts.kernels.process_group import add_up, gather
from fastdarts.kernels.registry import LIBRARY


def join_statistics(mean: Tensor, var: Tensor, rows: Tensor, own: int, of_all: int) -> None:
    """Overwrites mean and (unbiased) variance of these rows, over ``own`` values each, by those over all processes."""
    found = torch.stack([mean[rows], var[rows] * (own - 1)]).double()
    found = gather(torch.cat([found.new_full((1,), own), found.flatten()]))
    sizes = found[:, :1, None] / of_all
    means, squares = found[:, 1:].view(-1, 2, len(rows), mean.shape[1]).unbind(1)
    mean[rows] = (joined := (sizes * means).sum(0)).to(mean.dtype)
    squares = squares + of_all * sizes * (means - joined).square()
    var[rows] = (squares.sum(0) / (of_all - 1)).to(var.dtype)


@functools.cache  # for good: a CUDA graph holds their addresses
def _on_device(rows: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(rows, device=device)


def _join_statistics(mean: Tensor, var: Tensor, rows: list[int], own: int, of_all: int) -> None:
    join_statistics(mean, var, _on_device(tuple(rows), mean.device), own, of_all)


def _add_up_rows(gain: Tensor, offset: Tensor, own_gain: Tensor, own_offset: Tensor, rows: list[int]) -> None:
    """gain and offset of these rows: the sums over all processes of their own."""
    index = _on_device(tuple(rows), gain.device)
    gain[index], offset[index] = add_up(torch.stack([own_gain[index], own_offset[index]]))


OPS = {
    "join_statistics(Tensor(a!) mean, Tensor(b!) var, int[] rows, int own, int of_all)": _join_statistics,
    "add_up_rows(Tensor(a!) gain, Tensor(b!) offset, Tensor own_gain, Tensor own_offset, int[] rows)": _add_up_rows,
}


def register() -> None:
    """Registers both with torch, under names that begin with mixed_op."""
    for schema, function in OPS.items():
        LIBRARY.define(f"mixed_op_{schema} -> ()")
        LIBRARY.impl(f"mixed_op_{schema.partition('(')[0]}", function, "CompositeExplicitAutograd")
