"""Which gradients a backward pass is for."""

import torch


def needs_grad(ctx, last: int, count: int) -> bool:
    """Whether this backward pass goes on to any of `count` inputs, the first of them the `last` from the end.

    The engine says so where only alphas are asked for; where autograd.grad() is asked for leaves, it raises on these,
    and they count as wanted.
    """
    if torch.compiler.is_compiling():
        return True
    nodes = [node for node, _ in ctx.next_functions[-last:][:count] if node is not None]
    try:
        return any(map(torch._C._will_engine_execute_node, nodes))
    except RuntimeError:
        return True
