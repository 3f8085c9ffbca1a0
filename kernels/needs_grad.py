"""Which gradients a backward pass is for."""

import torch


def needs_grad(ctx, last: int, count: int) -> bool:
    """Whether this backward pass goes on to any of `count` inputs, the first of them the `last` from the end."""
    if torch.compiler.is_compiling():
        return count > 0
    return any(map(_runs, ctx.next_functions[-last:][:count]))


def will_run(ctx, last: int, count: int | None = None) -> list[bool]:
    """Of `count` inputs, the first of them the `last` from the end, whether this backward pass goes on to each.

    The engine says so where only alphas are asked for; where autograd.grad() is asked for leaves, it raises on these,
    and they count as wanted.
    """
    count = last if count is None else count
    if torch.compiler.is_compiling():
        return [True] * count
    return [*map(_runs, ctx.next_functions[-last:][:count])]


def _runs(edge: tuple) -> bool:
    node, _ = edge
    try:
        return node is not None and torch._C._will_engine_execute_node(node)
    except RuntimeError:
        return True
