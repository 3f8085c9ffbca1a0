"""Calls of mixed_op one after another, on the states of a cell, as one node of the graph of autograd.

A cell is a list of links. A link reads one state and adds to others. Whoever reads a state comes after all that add to
it. Between the links nothing is left to autograd: a node costs as much time of the host as the launches of a link.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts.kernels.mixed_op.autograd import Call, mixed_op
from fastdarts.kernels.mixed_op.contract import backward_op, forward_op, is_exact
from fastdarts.kernels.needs_grad import will_run
from fastdarts.kernels.registry import select


class Link(NamedTuple):
    """One call: the state that it reads, and the states that it makes or adds to.

    `first` is the place of its first row among the mixing weights of all rows; None if nothing weighs it.
    """

    call: Call
    source: int
    targets: tuple[int, ...]
    first: int | None


class Chain(NamedTuple):
    """Links in their order; the first `inputs` states are given, and those of `concat` make the output."""

    links: tuple[Link, ...]
    inputs: int
    states: int
    concat: tuple[int, ...]


class Given(NamedTuple):
    """What every link is given beside states and weights: gain [R, C'], seeds, running statistics."""

    gain: Tensor
    seeds: Tensor | None
    running: tuple[Tensor, Tensor] | None


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx, chain, given, found, rows, *tensors):
        states = [*tensors[: chain.inputs], *[None] * (chain.states - chain.inputs)]
        weights, at, stored, reached = tensors[chain.inputs :], 0, [], []
        x = states[0]
        call, exact = chain.links[0].call, is_exact(x.dtype)
        run = select(forward_op, call.impl, x.device.type, x.dtype)
        for link, own in zip(chain.links, given, strict=True):
            call, targets = link.call, link.targets
            base = [] if states[targets[0]] is None else [states[t] for t in targets]
            mean, var = own.running or (None, None)
            out, z, mean, var, _ = run(
                states[link.source], base, own.gain, None, weights[at : at + call.weights], own.seeds, call.candidates,
                call.edges, call.stride, mean, var, call.eps, 0, call.gives_raw(mean), (), False, exact,
            )  # fmt: skip
            z = z if call.store else []
            at += call.weights
            for t, made in zip(targets, out, strict=True):
                states[t] = made
            found.append((mean, var))
            stored.append(len(z))
            reached += (mean, var, *z)
        ctx.chain, ctx.given, ctx.stored, ctx.exact = chain, given, stored, exact
        read = {link.source for link in chain.links}
        kept = [x if number in read else None for number, x in enumerate(states)]
        ctx.save_for_backward(*(rows,) * (rows is not None), *kept, *weights, *reached)
        ctx.has_rows = rows is not None
        made = [states[i] for i in chain.concat]
        return made[0].view_as(made[0]) if len(made) == 1 else torch.cat(made, 1)

    @staticmethod
    def backward(ctx, grad):
        chain, (rows, *saved) = ctx.chain, ctx.saved_tensors if ctx.has_rows else (None, *ctx.saved_tensors)
        if torch.is_grad_enabled():  # create_graph=True
            return None, None, None, *_differentiable(ctx, rows, saved, grad)
        states, saved = saved[: chain.states], saved[chain.states :]
        count = sum(link.call.weights for link in chain.links)
        weights, reached = saved[:count], saved[count:]
        _, _, _, need_rows, *needed = ctx.needs_input_grad
        need_weights = needed[chain.inputs :]
        goes_on = will_run(ctx, (rows is not None) + chain.inputs + count)
        goes_on = [True] * (rows is None) + goes_on
        need_rows = need_rows and goes_on[0]
        needs = [want and on for want, on in zip(needed, goes_on[1:], strict=True)]
        need_weight = any(needs[chain.inputs :])
        need = [*needs[: chain.inputs], *[False] * (chain.states - chain.inputs)]  # by state
        passes = []
        for link in chain.links:
            on = need[link.source] or (need_weight and link.call.weights > 0) or (need_rows and link.first is not None)
            passes.append(on)
            for t in link.targets:
                need[t] = need[t] or on
        x = states[0]
        run = select(backward_op, chain.links[0].call.impl, x.device.type, x.dtype)
        gradients: list[Tensor | None] = [None] * chain.states
        parts = _apart(grad, len(chain.concat))
        for t, part in zip(chain.concat, parts, strict=True):
            gradients[t] = part
        of_rows, of_weights = [], [None] * count
        end, at = len(reached), count
        for link, own, stored, on in zip(*map(reversed, (chain.links, ctx.given, ctx.stored, passes)), strict=True):
            call = link.call
            mean, var, *z = reached[end - stored - 2 : end]
            end, at = end - stored - 2, at - call.weights
            if not on:
                continue
            for t in link.targets:
                if gradients[t] is None:
                    gradients[t] = torch.zeros_like(parts[0])
            maps, own_weights = [gradients[t] for t in link.targets], weights[at : at + call.weights]
            dx, dgain, _, dweights = run(
                maps, states[link.source], own.gain, None, own_weights, own.seeds, call.candidates, call.stride, z,
                mean, var, own.running is None, call.eps, 0, need[link.source], need_weight, (), ctx.exact,
            )  # fmt: skip
            if need[link.source]:
                before = gradients[link.source]
                gradients[link.source] = dx if before is None else before.add_(dx)
            if need_rows and link.first is not None:
                of_rows.append(dgain)
            if dweights:
                of_weights[at : at + call.weights] = dweights
        if not all(need_weights):
            of_weights = [g if want else None for g, want in zip(of_weights, need_weights, strict=True)]
        drows = torch.cat(of_rows[::-1]).sum(1) if of_rows else None
        of_inputs = [g if want else None for g, want in zip(gradients[: chain.inputs], need, strict=False)]
        return None, None, None, drows, *of_inputs, *of_weights


def _apart(grad: Tensor, count: int) -> list[Tensor]:
    """The gradients of `count` maps that were concatenated, in memory of their own, in one launch."""
    n, channels, height, width = grad.shape
    apart = grad.permute(0, 2, 3, 1).reshape(n, height, width, count, channels // count)
    return apart.permute(3, 0, 1, 2, 4).clone(memory_format=torch.contiguous_format).permute(0, 1, 4, 2, 3).unbind()


def _differentiable(ctx, rows: Tensor | None, saved: Sequence[Tensor], grad: Tensor) -> list[Tensor | None]:
    """The gradients with a graph of their own: the calls are made again, each as a node of the graph."""
    chain, count = ctx.chain, sum(link.call.weights for link in ctx.chain.links)
    given = [rows, *saved[: chain.inputs], *saved[chain.states : chain.states + count]]
    given = [None if t is None else t.view_as(t) if t.requires_grad else t for t in given]  # where differentiation ends
    rows, tensors = given[0], given[1:]
    states: list[Tensor | None] = [*tensors[: chain.inputs], *[None] * (chain.states - chain.inputs)]
    at = chain.inputs
    for link, own in zip(chain.links, ctx.given, strict=True):
        call, targets = link.call, link.targets
        gain = own.gain
        if link.first is not None:
            gain = rows[link.first : link.first + len(gain), None].expand(-1, call.channels)
        base = [] if states[targets[0]] is None else [states[t] for t in targets]
        own_weights = tensors[at : at + call.weights]
        out, *_ = mixed_op(call, states[link.source], base, gain, None, own_weights, own.seeds, own.running, None)
        at += call.weights
        for t, made in zip(targets, out, strict=True):
            states[t] = made
    out = torch.cat([states[i] for i in chain.concat], 1)
    wanted = [t for t in given if t is not None and t.requires_grad]
    found = torch.autograd.grad(out, wanted, grad, create_graph=True, allow_unused=True)
    by_place = {id(t): g for t, g in zip(wanted, found, strict=True)}
    return [None if t is None else by_place.get(id(t)) for t in given]


def chained(
    chain: Chain,
    given: Sequence[Given],
    rows: Tensor | None,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The output of a chain, and mean and var of every link.

    `inputs` are channels-last and weights contiguous. `rows` [R] are the mixing weights of all rows that are weighed,
    1 in the middle of a separable convolution; gain of such links holds them for every channel, without a graph.
    """
    found: list[tuple[Tensor, Tensor]] = []
    return _Chain.apply(chain, given, found, rows, *inputs, *weights), found
