"""recurrent on the GPU: the maths stands in contract.py. Products are torch's; what is between two of them is one
launch, N + 1 of each for a time step forward.

A program works on BLOCK_H columns of all streams, [BLOCK_B, BLOCK_H] at a time: batch normalisation is of columns, so
that no program waits for another, and what it reads again of its results are its own. Sums for the mixing weights, one
per time step, program and edge, are added in a fixed order: no atomics, the same bits always.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = {"BLOCK_B": 32, "BLOCK_H": 16, "num_warps": 4}


@triton.jit
def tanh(x):
    """In float32, to a few units in the last place: a series where the quotient would lose digits."""
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    s = x * x
    near = x * (1 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835)))))
    return tl.where(tl.abs(x) < 0.2, near, tl.where(x > 0, far, -far))


@triton.jit
def logistic(x):
    """σ(x) and σ(−x), each to its own precision."""
    e = tl.exp(-tl.abs(x))
    large, small = 1 / (1 + e), e / (1 + e)
    return tl.where(x > 0, large, small), tl.where(x > 0, small, large)


@triton.jit
def tile(first, c, batch, width, BLOCK_B: tl.constexpr):
    """Streams from `first` on, which of them × columns c exist, and where these lie in [batch, width]."""
    b = first + tl.arange(0, BLOCK_B)
    return b, (b < batch)[:, None] & (c < width)[None, :], b[:, None] * width + c[None, :]


@triton.jit
def normalise(
    raw, state, dropped, mask, mean, var, sums, c, batch, width,
    EPS: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The state of columns c from u in `raw`, which sums up to `sums`; and dropped, if HAS_MASK."""
    b_mean = sums / batch
    squares = tl.zeros([BLOCK_H], tl.float32)
    for first in range(0, batch, BLOCK_B):
        _b, inside, at = tile(first, c, batch, width, BLOCK_B)
        off = tl.load(raw + at, mask=inside, other=0.0) - b_mean[None, :]
        squares += tl.sum(tl.where(inside, off * off, 0.0), 0)
    tl.store(mean + c, b_mean, mask=c < width)
    tl.store(var + c, squares / (batch - 1), mask=c < width)
    r = 1 / tl.sqrt(squares / batch + EPS)
    for first in range(0, batch, BLOCK_B):
        _b, inside, at = tile(first, c, batch, width, BLOCK_B)
        s = (tl.load(raw + at, mask=inside, other=0.0) - b_mean[None, :]) * r[None, :]
        s = s.to(state.dtype.element_ty)
        tl.store(state + at, s, mask=inside)
        if HAS_MASK:
            kept = s.to(tl.float32) * tl.load(mask + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(dropped + at, kept.to(state.dtype.element_ty), mask=inside)


@triton.jit
def first_state_kernel(
    gates, last, raw, state, dropped, mask, mean, var, batch, width,
    EPS: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """State 0 from its gates and the last output."""
    c = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    sums = tl.zeros([BLOCK_H], tl.float32)
    for first in range(0, batch, BLOCK_B):
        b, inside, at = tile(first, c, batch, width, BLOCK_B)
        o_g = b[:, None] * (2 * width) + c[None, :]
        carry, _rest = logistic(tl.load(gates + o_g, mask=inside, other=0.0).to(tl.float32))
        new = tanh(tl.load(gates + o_g + width, mask=inside, other=0.0).to(tl.float32))
        h = tl.load(last + at, mask=inside, other=0.0).to(tl.float32)
        u = h + carry * (new - h)
        tl.store(raw + at, u, mask=inside)
        sums += tl.sum(tl.where(inside, u, 0.0), 0)
    normalise(raw, state, dropped, mask, mean, var, sums, c, batch, width, EPS, HAS_MASK, BLOCK_B, BLOCK_H)


@triton.jit
def node_kernel(
    gates, states, mixing, raw, state, dropped, mask, mean, var, out, batch, width, node,
    EPS: tl.constexpr, HAS_MASK: tl.constexpr, LAST: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The state of a node from its gates and the states before it; of the LAST node the output of the time step too."""
    c = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    sums = tl.zeros([BLOCK_H], tl.float32)
    for first in range(0, batch, BLOCK_B):
        b, inside, at = tile(first, c, batch, width, BLOCK_B)
        u = tl.zeros([BLOCK_B, BLOCK_H], tl.float32)
        for j in range(0, node):
            o_g = (j * batch + b)[:, None] * (2 * width) + c[None, :]
            p = mixing + j * 4
            p_tanh, p_relu, p_logistic, p_same = tl.load(p), tl.load(p + 1), tl.load(p + 2), tl.load(p + 3)
            carry, _rest = logistic(tl.load(gates + o_g, mask=inside, other=0.0).to(tl.float32))
            n = tl.load(gates + o_g + width, mask=inside, other=0.0).to(tl.float32)
            s = tl.load(states + j * batch * width + at, mask=inside, other=0.0).to(tl.float32)
            squashed, _rest = logistic(n)
            stay = (p_tanh + p_relu + p_logistic + p_same) * s
            mixed = p_tanh * tanh(n) + p_relu * tl.where(n > 0, n, 0.0) + p_logistic * squashed + p_same * n
            u += stay + carry * (mixed - stay)
        tl.store(raw + at, u, mask=inside)
        sums += tl.sum(tl.where(inside, u, 0.0), 0)
    normalise(raw, state, dropped, mask, mean, var, sums, c, batch, width, EPS, HAS_MASK, BLOCK_B, BLOCK_H)
    if LAST:
        for first in range(0, batch, BLOCK_B):
            _b, inside, at = tile(first, c, batch, width, BLOCK_B)
            total = tl.zeros([BLOCK_B, BLOCK_H], tl.float32)
            for i in range(1, node + 1):
                total += tl.load(states + i * batch * width + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(out + at, (total / node).to(out.dtype.element_ty), mask=inside)


@triton.jit
def normalise_backward(
    state, var, mask, common, products, own, c, batch, width,
    EPS: tl.constexpr, HAS_MASK: tl.constexpr, COMMON: tl.constexpr, OWN: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The gradient of u, to `own`, from that of the state: common if COMMON, own and mask · products if OWN."""
    sums, along = tl.zeros([BLOCK_H], tl.float32), tl.zeros([BLOCK_H], tl.float32)
    for first in range(0, batch, BLOCK_B):
        _b, inside, at = tile(first, c, batch, width, BLOCK_B)
        g = tl.zeros([BLOCK_B, BLOCK_H], tl.float32)
        if COMMON:
            g += tl.load(common + at, mask=inside, other=0.0)
        if OWN:
            product = tl.load(products + at, mask=inside, other=0.0).to(tl.float32)
            if HAS_MASK:
                product *= tl.load(mask + at, mask=inside, other=0.0).to(tl.float32)
            g += tl.load(own + at, mask=inside, other=0.0) + product
        tl.store(own + at, g, mask=inside)
        sums += tl.sum(g, 0)
        along += tl.sum(g * tl.load(state + at, mask=inside, other=0.0).to(tl.float32), 0)
    b_var = tl.load(var + c, mask=c < width, other=1.0)
    r, mean, slope = 1 / tl.sqrt(b_var * ((batch - 1) / batch) + EPS), sums / batch, along / batch
    for first in range(0, batch, BLOCK_B):
        _b, inside, at = tile(first, c, batch, width, BLOCK_B)
        s = tl.load(state + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(own + at, mask=inside, other=0.0)
        tl.store(own + at, r[None, :] * (g - mean[None, :] - s * slope[None, :]), mask=inside)


@triton.jit
def node_gradients_kernel(
    gates, states, mixing, state, var, mask, common, products, own, dgates, before, sums, batch, width, node,
    EPS: tl.constexpr, HAS_MASK: tl.constexpr, LAST: tl.constexpr, NEED_MIXING: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Gradients of a node's gates, of the states before it but for what goes through the products, and parts `sums`
    [programs, edges, 4] of those of the mixing weights; nothing is in own and before yet at the LAST node."""
    c = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    normalise_backward(
        state, var, mask, common, products, own, c, batch, width, EPS, HAS_MASK, True, not LAST, BLOCK_B, BLOCK_H
    )
    for j in range(0, node):
        p = mixing + j * 4
        p_tanh, p_relu, p_logistic, p_same = tl.load(p), tl.load(p + 1), tl.load(p + 2), tl.load(p + 3)
        every = p_tanh + p_relu + p_logistic + p_same
        of_tanh, of_relu = tl.zeros([BLOCK_H], tl.float32), tl.zeros([BLOCK_H], tl.float32)
        of_logistic, of_same = tl.zeros([BLOCK_H], tl.float32), tl.zeros([BLOCK_H], tl.float32)
        for first in range(0, batch, BLOCK_B):
            b, inside, at = tile(first, c, batch, width, BLOCK_B)
            o_g = (j * batch + b)[:, None] * (2 * width) + c[None, :]
            carry, leave = logistic(tl.load(gates + o_g, mask=inside, other=0.0).to(tl.float32))
            n = tl.load(gates + o_g + width, mask=inside, other=0.0).to(tl.float32)
            s = tl.load(states + j * batch * width + at, mask=inside, other=0.0).to(tl.float32)
            du = tl.load(own + at, mask=inside, other=0.0)
            squashed, rest = logistic(n)
            turned, relu = tanh(n), tl.where(n > 0, n, 0.0)
            mixed = p_tanh * turned + p_relu * relu + p_logistic * squashed + p_same * n
            dc = du * (mixed - every * s) * (carry * leave)
            slope = p_tanh * (1 - turned * turned) + tl.where(n > 0, p_relu, 0.0) + p_logistic * (squashed * rest)
            dmixed = du * carry
            tl.store(dgates + o_g, dc.to(dgates.dtype.element_ty), mask=inside)
            tl.store(dgates + o_g + width, (dmixed * (slope + p_same)).to(dgates.dtype.element_ty), mask=inside)
            kept = du * leave
            ds = every * kept
            o_s = j * batch * width + at
            if not LAST:
                ds += tl.load(before + o_s, mask=inside, other=0.0)
            tl.store(before + o_s, ds, mask=inside)
            if NEED_MIXING:
                past = kept * s
                of_tanh += tl.sum(past + dmixed * turned, 0)
                of_relu += tl.sum(past + dmixed * relu, 0)
                of_logistic += tl.sum(past + dmixed * squashed, 0)
                of_same += tl.sum(past + dmixed * n, 0)
        if NEED_MIXING:
            to = sums + (tl.program_id(0) * (node * (node - 1) // 2 + node) + node * (node - 1) // 2 + j) * 4
            tl.store(to, tl.sum(of_tanh))
            tl.store(to + 1, tl.sum(of_relu))
            tl.store(to + 2, tl.sum(of_logistic))
            tl.store(to + 3, tl.sum(of_same))


@triton.jit
def first_gradients_kernel(
    gates, last, state, var, mask, products, own, dgates, direct, batch, width,
    EPS: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Gradients of the gates of state 0 and, but for what goes through their product, of the last output."""
    c = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    normalise_backward(
        state, var, mask, own, products, own, c, batch, width, EPS, HAS_MASK, False, True, BLOCK_B, BLOCK_H
    )
    for first in range(0, batch, BLOCK_B):
        b, inside, at = tile(first, c, batch, width, BLOCK_B)
        o_g = b[:, None] * (2 * width) + c[None, :]
        carry, leave = logistic(tl.load(gates + o_g, mask=inside, other=0.0).to(tl.float32))
        new = tanh(tl.load(gates + o_g + width, mask=inside, other=0.0).to(tl.float32))
        h = tl.load(last + at, mask=inside, other=0.0).to(tl.float32)
        du = tl.load(own + at, mask=inside, other=0.0)
        tl.store(dgates + o_g, (du * (new - h) * (carry * leave)).to(dgates.dtype.element_ty), mask=inside)
        tl.store(dgates + o_g + width, (du * carry * (1 - new * new)).to(dgates.dtype.element_ty), mask=inside)
        tl.store(direct + at, du * leave, mask=inside)


def _check(hidden: Tensor, edges: int) -> None:
    if (edges + 1) * 2 * hidden.numel() >= 2**31:
        raise ValueError(f"The Triton kernels take gates of fewer than 2^31 elements, got {[*hidden.shape]}, {edges}.")


def _first(node: int) -> int:
    """The edge that leads to a node, the first being 1."""
    return node * (node - 1) // 2


def forward(
    inputs: Tensor,
    hidden: Tensor,
    weights: Sequence[Tensor],
    mask: Tensor | None,
    mixing: Tensor,
    eps: float,
    store: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Launcher of the op `recurrent`."""
    (steps, (batch, width)), nodes = (len(inputs), hidden.shape), len(weights) - 1
    _check(hidden, len(mixing))
    held, grid = steps if store else 1, (triton.cdiv(width, TILE["BLOCK_H"]),)
    options = {"EPS": eps, "HAS_MASK": mask is not None, **TILE}
    with torch.cuda.device_of(hidden):
        out = hidden.new_empty(steps, batch, width)
        mean = mixing.new_empty(steps, nodes + 1, width)
        var = torch.empty_like(mean)
        states = hidden.new_empty(held, nodes + 1, batch, width)
        gates = hidden.new_empty(held, len(mixing) + 1, batch, 2 * width)
        raw = mixing.new_empty(batch, width)
        dropped = hidden.new_empty(nodes, batch, width) if mask is not None else None
        last = hidden
        for t, x in enumerate(inputs.unbind()):
            state, gate = states[t if store else 0], gates[t if store else 0]
            taken = state if mask is None else dropped
            torch.addmm(x, last if mask is None else last * mask, weights[0], out=gate[0])
            some = mask if mask is not None else raw
            first_state_kernel[grid](
                gate, last, raw, state, taken, some, mean[t, 0], var[t, 0], batch, width, **options
            )  # fmt: skip
            for i in range(1, nodes + 1):
                own = gate[1 + _first(i) : 1 + _first(i) + i]
                torch.mm(taken[:i].view(-1, width), weights[i], out=own.view(-1, 2 * width))
                node_options = options | {"HAS_MASK": mask is not None and i < nodes, "LAST": i == nodes}
                node_kernel[grid](
                    own, state, mixing[_first(i)], raw, state[i], taken[min(i, nodes - 1)], some, mean[t, i], var[t, i],
                    out[t], batch, width, i, **node_options,
                )  # fmt: skip
            last = out[t]
    return (out, mean, var, states, gates) if store else (out, mean, var, out.new_empty(0), out.new_empty(0))


def backward(
    grad: Tensor,
    inputs: Tensor,
    hidden: Tensor,
    weights: Sequence[Tensor],
    mask: Tensor | None,
    mixing: Tensor,
    eps: float,
    out: Tensor,
    var: Tensor,
    states: Tensor,
    gates: Tensor,
    need_inputs: bool,
    need_hidden: bool,
    need_weights: bool,
    need_mixing: bool,
) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Launcher of the op `recurrent_backward`."""
    (steps, (batch, width)), nodes = (len(inputs), hidden.shape), len(weights) - 1
    programs = triton.cdiv(width, TILE["BLOCK_H"])
    options = {"EPS": eps, "HAS_MASK": mask is not None, **TILE}

    def masked(t: Tensor) -> Tensor:
        return t if mask is None else t * mask

    with torch.cuda.device_of(hidden):
        some = mask if mask is not None else var
        dinputs = inputs.new_empty(inputs.shape if need_inputs else (1, batch, 2 * width))
        dweights = [w.new_zeros(w.shape) for w in weights] if need_weights else []
        own = mixing.new_empty(nodes + 1, batch, width)
        products = hidden.new_empty(nodes, batch, width)
        dgates = hidden.new_empty(nodes, batch, 2 * width)
        direct, product = mixing.new_zeros(batch, width), hidden.new_zeros(batch, width)
        # of node i: [programs, edges up to its own, 4], of which it writes its own
        sums = [mixing.new_empty(steps if need_mixing else 0, programs, _first(i) + i, 4) for i in range(1, nodes + 1)]
        for t in range(steps - 1, -1, -1):
            last = out[t - 1] if t else hidden
            common = (grad[t] + direct + masked(product).to(mixing.dtype)) / nodes
            taken = masked(states[t]) if need_weights else states[t]
            for i in range(nodes, 0, -1):
                final = i == nodes
                node_gradients_kernel[(programs,)](
                    gates[t, 1 + _first(i)], states[t], mixing[_first(i)], states[t, i], var[t, i], some, common,
                    products[0 if final else i], own[i], dgates, own, sums[i - 1][t] if need_mixing else common, batch,
                    width, i, LAST=final, NEED_MIXING=need_mixing, **options,
                )  # fmt: skip
                d, to = dgates[:i].view(-1, 2 * width), products[:i].view(-1, width)
                if final:
                    torch.mm(d, weights[i].t(), out=to)
                else:
                    torch.addmm(to, d, weights[i].t(), out=to)
                if need_weights:
                    torch.addmm(dweights[i], taken[:i].view(-1, width).t(), d, out=dweights[i])
            d = dinputs[t if need_inputs else 0]
            first_gradients_kernel[(programs,)](
                gates[t, 0], last, states[t, 0], var[t, 0], some, products[0], own[0], d, direct, batch, width,
                **options,
            )  # fmt: skip
            torch.mm(d, weights[0].t(), out=product)
            if need_weights:
                torch.addmm(dweights[0], masked(last).t(), d, out=dweights[0])
        dhidden = (direct + masked(product)).to(hidden.dtype) if need_hidden else hidden.new_empty(0)
        dmixing = mixing.new_empty(0)
        if need_mixing:
            dmixing = torch.cat([s[:, :, _first(i) :].sum((0, 1)) for i, s in enumerate(sums, start=1)])
    return dinputs if need_inputs else inputs.new_empty(0), dhidden, dweights, dmixing
