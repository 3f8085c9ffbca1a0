"""Calls of mixed_op one after another, on the states of a cell, as one node of the graph of autograd.

A cell is a list of steps: links, which are calls, and pools. A step reads one state and adds to others. Whoever reads a
state comes after all that add to it. Between the steps nothing is left to autograd: a node costs as much time of the
host as the launches of a link.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.kernels.interleave import contract as interleave
from fastdarts.kernels.mixed_op.autograd import Call, bypassing, head, mixed_op
from fastdarts.kernels.mixed_op.contract import LAST, backward_op, forward_op, is_exact
from fastdarts.kernels.needs_grad import needs_grad, will_run
from fastdarts.kernels.registry import select


class Link(NamedTuple):
    """One call: the state that it reads, and the states that it makes or adds to.

    `first` is the place of its first row among the gains of all rows; None if its gains are constants. `edge` is that
    of its first edge among the weights of what bypasses the candidates; None if nothing does. Its last edges are
    dropped per sample: `drops` are their places among the factors.
    """

    call: Call
    source: int
    targets: tuple[int, ...]
    first: int | None
    edge: int | None
    drops: tuple[int, ...] = ()

    @property
    def edges(self) -> slice:
        """Its weights of what bypasses."""
        return slice(self.edge, self.edge + self.call.edges)

    @property
    def kept(self) -> tuple[int, ...]:
        """The states that it makes or adds to without dropping anything."""
        return self.targets[: len(self.targets) - len(self.drops)]

    @property
    def dropped(self) -> tuple[int, ...]:
        """The others."""
        return self.targets[len(self.targets) - len(self.drops) :]


class Pool(NamedTuple):
    """A 3×3 pool that nothing normalises, which torch computes: once for all states that it makes or adds to.

    What comes to a target is dropped by the factors of this number; kept if that is None.
    """

    kind: str  # max_pool or avg_pool
    stride: int
    source: int
    targets: tuple[int, ...]
    drops: tuple[int | None, ...]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Its output, and the places of the maxima."""
        if self.kind == "max_pool":
            return torch.ops.aten.max_pool2d_with_indices(x, [3, 3], [self.stride] * 2, [1, 1])
        return F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False), None

    def backward(self, grad: Tensor, x: Tensor, places: Tensor | None) -> Tensor:
        """The gradient of x."""
        sizes = [3, 3], [self.stride] * 2, [1, 1]
        if places is None:
            return torch.ops.aten.avg_pool2d_backward(grad, x, *sizes, False, False, None)
        return torch.ops.aten.max_pool2d_with_indices_backward(grad, x, *sizes, [1, 1], False, places)


class Chain:
    """Steps in their order; the first `inputs` states are given, and those of `concat` make the output.

    `links` are the calls of mixed_op among the steps, `weights` is how many tensors they take, and `read` has the
    states that a step reads.
    """

    def __init__(self, steps: Sequence[Link | Pool], inputs: int, states: int, concat: Sequence[int]):
        self.steps, self.inputs, self.states, self.concat = tuple(steps), inputs, states, tuple(concat)
        self.links = [step for step in self.steps if type(step) is Link]
        self.weights = sum(link.call.weights for link in self.links)
        self.read = {step.source for step in self.steps}


class Given(NamedTuple):
    """What every link is given beside states and weights: gain and offset [R, C'], seeds, running statistics."""

    gain: Tensor
    offset: Tensor | None
    seeds: Tensor | None
    running: tuple[Tensor, Tensor] | None


class _Pass(NamedTuple):
    """What a pass through a chain made: all states; of every step what its backward reads, and of every link how many
    raw outputs that are; mean and var of every link; and whether its products were exact."""

    states: list[Tensor]
    reached: list[Tensor | None]
    stored: list[int]
    found: list[tuple[Tensor, Tensor]]
    exact: bool

    def output(self, chain: Chain) -> Tensor:
        """The states that are concatenated."""
        made = [self.states[i] for i in chain.concat]
        return made[0].view_as(made[0]) if len(made) == 1 else torch.cat(made, 1)


def _run(
    chain: Chain, given: Sequence[Given], factors: Tensor | None, beta: Tensor | None, tensors: Sequence[Tensor]
) -> _Pass:
    states = [*tensors[: chain.inputs], *[None] * (chain.states - chain.inputs)]
    weights, at, stored, reached, found = tensors[chain.inputs :], 0, [], [], []
    device, dtype = states[0].device.type, states[0].dtype
    links = zip(chain.links, given, strict=True)
    run = select(forward_op, chain.links[0].call.impl, device, dtype)
    exact = (device == "cpu" and run is forward_op.dispatch) or is_exact(dtype)  # which takes torch 25 us to say
    for step in chain.steps:
        if type(step) is Pool:
            made, places = step.forward(states[step.source])
            for t, number in zip(step.targets, step.drops, strict=True):
                one = made if number is None else made * factors[number]
                states[t] = one if states[t] is None else states[t] + one
            reached.append(places)
            continue
        link, own = next(links)
        call = link.call
        x = part = states[link.source]
        base = before = [states[t] for t in link.kept if states[t] is not None]
        if link.edge is not None:
            part, base = head(x, call).contiguous(memory_format=LAST), []
        mean, var = own.running or (None, None)
        out, z, mean, var, _ = run(
            part, base, own.gain, own.offset, weights[at : at + call.weights], own.seeds, call.candidates,
            call.edges, call.stride, mean, var, call.eps, 0, call.gives_raw(mean), (), False, exact,
        )  # fmt: skip
        z = z if call.store else []
        if link.edge is not None:
            out = bypassing(interleave.forward_op, call, device, dtype)(x, out, before, beta[link.edges], call.stride)
        at += call.weights
        for t, made in zip(link.kept, out, strict=False):
            states[t] = made
        for t, number, made in zip(link.dropped, link.drops, out[len(link.kept) :], strict=True):
            made.mul_(factors[number])
            states[t] = made if states[t] is None else made.add_(states[t])
        found.append((mean, var))
        stored.append(len(z))
        reached += (None if part is x else part, mean, var, *z)
    return _Pass(states, reached, stored, found, exact)


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx, chain, given, found, factors, gains, offsets, beta, *tensors):
        made = _run(chain, given, factors, beta, tensors)
        found += made.found
        ctx.chain, ctx.given, ctx.stored, ctx.factors, ctx.exact = chain, given, made.stored, factors, made.exact
        kept = [x if number in chain.read else None for number, x in enumerate(made.states)]
        ctx.save_for_backward(gains, offsets, beta, *kept, *tensors[chain.inputs :], *made.reached)
        return made.output(chain)

    @staticmethod
    def backward(ctx, grad):
        chain, (gains, offsets, beta, *saved) = ctx.chain, ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return *(None,) * 4, *_differentiable(ctx, gains, offsets, beta, saved, grad)
        states, saved = saved[: chain.states], saved[chain.states :]
        count = chain.weights
        weights, reached = saved[:count], saved[count:]
        (need_gains, need_offsets, need_beta), need, need_weight = _needs(ctx, (gains, offsets, beta), count)
        need_rows = need_gains or need_offsets
        need += [False] * (chain.states - chain.inputs)  # by state
        passes = []
        for step in chain.steps:
            on = need[step.source]
            if type(step) is Link:
                on = on or (need_weight and step.call.weights > 0) or (need_rows and step.first is not None)
                on = on or (need_beta and step.edge is not None)
            passes.append(on)
            for t in step.targets:
                need[t] = need[t] or on
        device, dtype = states[0].device.type, states[0].dtype
        run = select(backward_op, chain.links[0].call.impl, device, dtype)
        gradients: list[Tensor | None] = [None] * chain.states
        parts = _apart(grad, len(chain.concat))
        for t, part in zip(chain.concat, parts, strict=True):
            gradients[t] = part
        of_gains, of_offsets, of_beta, of_weights = [], [], [], [None] * count
        end, at = len(reached), count
        links = zip(*map(reversed, (chain.links, ctx.given, ctx.stored)), strict=True)
        for step, on in zip(reversed(chain.steps), reversed(passes), strict=True):
            if type(step) is Pool:
                end -= 1
                if on:
                    into = zip(step.targets, step.drops, strict=True)
                    own = [gradients[t] if n is None else gradients[t] * ctx.factors[n] for t, n in into]
                    dx = step.backward(functools.reduce(torch.add, own), states[step.source], reached[end])
                    before = gradients[step.source]
                    gradients[step.source] = dx if before is None else before.add_(dx)
                continue
            link, own, stored = next(links)
            call, x, need_x = link.call, states[link.source], need[link.source]
            part, mean, var, *z = reached[end - stored - 3 : end]
            end, at = end - stored - 3, at - call.weights
            if not on:
                continue
            for t in link.targets:
                if gradients[t] is None:
                    gradients[t] = torch.zeros_like(parts[0])
            maps, own_weights = [gradients[t] for t in link.kept], weights[at : at + call.weights]
            maps += [gradients[t] * ctx.factors[number] for t, number in zip(link.dropped, link.drops, strict=True)]
            if link.edge is not None:
                split = bypassing(interleave.backward_op, call, device, dtype)
                partial = x.shape[1] // call.channels
                maps, dx, dbeta = split(maps, x, beta[link.edges], partial, call.stride, need_x, need_beta)
                of_beta.append(dbeta)
            dpart, dgain, doffset, dweights = run(
                maps, x if part is None else part, own.gain, own.offset, own_weights, own.seeds, call.candidates,
                call.stride, z, mean, var, own.running is None, call.eps, 0, need_x, need_weight, (), ctx.exact,
            )  # fmt: skip
            if need_x:
                if link.edge is None:
                    dx = dpart
                else:
                    head(dx, call).copy_(dpart)
                before = gradients[link.source]
                gradients[link.source] = dx if before is None else before.add_(dx)
            if need_rows and link.first is not None:
                of_gains.append(dgain)
                of_offsets.append(doffset)
            if dweights:
                of_weights[at : at + call.weights] = dweights
        wanted = ctx.needs_input_grad[-count:]
        if need_weight and not all(wanted):
            of_weights = [g if want else None for g, want in zip(of_weights, wanted, strict=True)]
        dgains = torch.cat(of_gains[::-1]) if need_gains and of_gains else None
        dgains = dgains.sum(1) if dgains is not None and gains.dim() == 1 else dgains
        doffsets = torch.cat(of_offsets[::-1]) if need_offsets and of_offsets else None
        dbeta = torch.cat(of_beta[::-1]) if need_beta and of_beta else None
        of_inputs = [g if want else None for g, want in zip(gradients[: chain.inputs], need, strict=False)]
        return *(None,) * 4, dgains, doffsets, dbeta, *of_inputs, *of_weights


def _needs(ctx, tables: Sequence[Tensor | None], count: int) -> tuple[list[bool], list[bool], bool]:
    """Which of the tables and of the given states this backward pass is for, and whether for any of the `count`
    weights."""
    wanted = ctx.needs_input_grad[4:]
    of_weights, wanted = wanted[len(wanted) - count :], wanted[: len(wanted) - count]
    missing = [number for number, table in enumerate(tables) if table is None]
    others = len(wanted) - len(missing)
    runs = will_run(ctx, others + count, others)
    for number in missing:  # the graph knows tensors only
        runs.insert(number, False)
    found = [want and on for want, on in zip(wanted, runs, strict=True)]
    need_weight = any(of_weights) and needs_grad(ctx, count, count)
    return found[: len(tables)], found[len(tables) :], need_weight


def _apart(grad: Tensor, count: int) -> list[Tensor]:
    """The gradients of `count` maps that were concatenated, in memory of their own, in one launch."""
    n, channels, height, width = grad.shape
    apart = grad.permute(0, 2, 3, 1).reshape(n, height, width, count, channels // count)
    return apart.permute(3, 0, 1, 2, 4).clone(memory_format=torch.contiguous_format).permute(0, 1, 4, 2, 3).unbind()


def _differentiable(
    ctx,
    gains: Tensor | None,
    offsets: Tensor | None,
    beta: Tensor | None,
    saved: Sequence[Tensor],
    grad: Tensor,
) -> list[Tensor | None]:
    """The gradients with a graph of their own: the calls are made again, each as a node of the graph."""
    chain, count = ctx.chain, ctx.chain.weights
    given = [gains, offsets, beta, *saved[: chain.inputs], *saved[chain.states : chain.states + count]]
    reached, at = saved[chain.states + count :], 0
    given = [None if t is None else t.view_as(t) if t.requires_grad else t for t in given]  # where differentiation ends
    gains, offsets, beta, *tensors = given
    states: list[Tensor | None] = [*tensors[: chain.inputs], *[None] * (chain.states - chain.inputs)]
    first = chain.inputs  # of the weights that are left
    links = zip(chain.links, ctx.given, ctx.stored, strict=True)
    for step in chain.steps:
        if type(step) is Pool:
            at += 1
            x = states[step.source]
            made = F.max_pool2d(x, 3, step.stride, 1) if step.kind == "max_pool" else step.forward(x)[0]
            for t, number in zip(step.targets, step.drops, strict=True):
                one = made if number is None else made * ctx.factors[number]
                states[t] = one if states[t] is None else states[t] + one
            continue
        link, own, stored = next(links)
        call, (_, mean, var) = link.call, reached[at : at + 3]
        at += 3 + stored
        running = None if own.running is None else (mean, var)  # those of now may have moved since
        gain, offset, past = own.gain, own.offset, None if link.edge is None else beta[link.edges]
        if link.first is not None:
            rows = slice(link.first, link.first + len(gain))
            gain = gains[rows] if gains.dim() == 2 else gains[rows, None].expand(-1, call.channels)
            offset = None if offsets is None else offsets[rows]
        base = [states[t] for t in link.kept if states[t] is not None]
        own_weights = tensors[first : first + call.weights]
        out, *_ = mixed_op(call, states[link.source], base, gain, offset, own_weights, own.seeds, running, past)
        first += call.weights
        for t, made in zip(link.kept, out, strict=False):
            states[t] = made
        for t, number, made in zip(link.dropped, link.drops, out[len(link.kept) :], strict=True):
            made = made * ctx.factors[number]
            states[t] = made if states[t] is None else states[t] + made
    out = torch.cat([states[i] for i in chain.concat], 1)
    wanted = [t for t in given if t is not None and t.requires_grad]
    found = torch.autograd.grad(out, wanted, grad, create_graph=True, allow_unused=True)
    by_place = {id(t): g for t, g in zip(wanted, found, strict=True)}
    return [None if t is None else by_place.get(id(t)) for t in given]


def chained(
    chain: Chain,
    given: Sequence[Given],
    gains: Tensor | None,
    offsets: Tensor | None,
    beta: Tensor | None,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    factors: Tensor | None = None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The output of a chain, and mean and var of every link.

    `inputs` are channels-last and weights contiguous. `gains` are those of all rows that are not constant, and given
    holds them, and their offsets, without a graph: either [R] mixing weights, 1 in the middle of a separable
    convolution, and no offsets; or the weights of BatchNorms [R, C'], and their biases as offsets [R, C']. `beta` are
    the weights of what bypasses the candidates, of all edges in the order of the links. `factors` [D, N, 1, 1, 1]
    multiply the samples of what is dropped.
    """
    if not torch.is_grad_enabled():
        made = _run(chain, given, factors, beta, [*inputs, *weights])
        return made.output(chain), made.found
    found: list[tuple[Tensor, Tensor]] = []
    return _Chain.apply(chain, given, found, factors, gains, offsets, beta, *inputs, *weights), found
