"""Which gradients a backward pass is for."""

from collections.abc import Iterator

import torch


def needs_grad(ctx, last: int, count: int) -> bool:
    """Whether this backward pass goes on to any of `count` inputs, the first of them the `last` from the end."""
    return any(_running(ctx, last, count))


def will_run(ctx, last: int, count: int | None = None) -> list[bool]:
    """Of `count` inputs, the first of them the `last` from the end, whether this backward pass goes on to each.

    The engine says so where only alphas are asked for; where autograd.grad() is asked for leaves, it raises on these,
    and they count as wanted.
    """
    return [*_running(ctx, last, last if count is None else count)]


def _running(ctx, last: int, count: int) -> Iterator[bool]:
    if torch.compiler.is_compiling():
        yield from [True] * count
        return
    runs = torch._C._will_engine_execute_node
    for node, _ in ctx.next_functions[-last:][:count]:
        try:
            yield node is not None and runs(node)
        except RuntimeError:
            yield True
