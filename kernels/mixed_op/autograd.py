"""The differentiable mixed_op: which kernels a call runs, what it keeps for backward, and the gradients asked for."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts.kernels.interleave import contract as interleave
from fastdarts.kernels.mixed_op.contract import LAST, backward_op, forward_op, is_exact
from fastdarts.kernels.mixed_op.kinks import NO_KINKS
from fastdarts.kernels.needs_grad import needs_grad
from fastdarts.kernels.registry import Op, select


class Call(NamedTuple):
    """What a call of the op is apart from its tensors; contract.py says what the numbers mean."""

    candidates: tuple[int, ...]
    edges: int
    stride: int
    eps: float
    images: int
    store: bool
    impl: str | None
    channels: int  # of gain
    weights: int  # how many tensors
    passing: bool = False  # no gradient is wanted

    def without_gradients(self) -> "Call":
        """The call where nothing is kept for backward."""
        return self._replace(store=False, passing=True)

    def gives_raw(self, running: Tensor | None) -> bool:
        """Whether the kernel is to give its raw outputs.

        With running statistics and without raw outputs it folds the normalisations into the convolutions, which rounds
        in another way. What backward computes again must have the bits of the forward pass.
        """
        return self.store or not (self.passing or running is None)


class _MixedOp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, call, kinks, noted, places, seeds, running_mean, running_var, x, mixing, offset, beta, *rest
    ):  # fmt: skip
        device, dtype = x.device.type, x.dtype
        count = call.weights
        base, weights = rest[: len(rest) - count], rest[len(rest) - count :]
        lacking = {"triton": NO_KINKS} if kinks or noted is not None else {}
        run, exact = select(forward_op, call.impl, device, dtype, lacking), is_exact(dtype)
        gain = mixing if places is None else _spread(mixing, places, call.channels)
        part, own = (x, base) if beta is None else (head(x, call).contiguous(memory_format=LAST), ())
        out, z, mean, var, found = run(
            part, own, gain, offset, weights, seeds, call.candidates, call.edges, call.stride, running_mean,
            running_var, call.eps, call.images, call.gives_raw(running_mean), kinks, noted is not None, exact,
        )  # fmt: skip
        z = z if call.store else []
        if noted is not None:
            noted += found
        if beta is not None:
            out = bypassing(interleave.forward_op, call, device, dtype)(x, out, base, beta, call.stride)
        ctx.call, ctx.kinks, ctx.places, ctx.exact = call, kinks, places, exact
        ctx.training, ctx.bases = running_mean is None, len(base)
        saved = x, None if beta is None else part, beta, mixing, gain, offset, seeds, mean, var
        ctx.save_for_backward(*saved, *weights, *z)
        ctx.size = out[0].shape
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)  # those of mean and var would be two launches
        return (*out, mean, var)

    @staticmethod
    def backward(ctx, *grad):
        call, places = ctx.call, ctx.places
        x, part, beta, mixing, gain, offset, seeds, mean, var, *rest = ctx.saved_tensors
        weights, z = rest[: call.weights], rest[call.weights :]
        need_x, need_gain, need_offset, need_beta, *need_rest = ctx.needs_input_grad[7:]
        need_weights = need_rest[len(need_rest) - call.weights :]
        need_weight = any(need_weights) and needs_grad(ctx, call.weights, call.weights)
        grad = own = [(x.new_zeros(ctx.size) if g is None else g).contiguous(memory_format=LAST) for g in grad[:-2]]
        # create_graph=True: a kernel would be a constant to the second differentiation
        again, device, dtype = torch.is_grad_enabled(), x.device.type, x.dtype
        if again:
            run, graph = backward_op.reference, (True,)
            gain = mixing if places is None else _spread(mixing, places, call.channels)
        else:
            run, graph = select(backward_op, call.impl, device, dtype, {"triton": NO_KINKS} if ctx.kinks else {}), ()
        dx = dbeta = None
        if beta is not None:
            split = interleave.backward_op.reference
            split = split if again else bypassing(interleave.backward_op, call, device, dtype)
            part = head(x, call) if again else part
            need_beta = need_beta and needs_grad(ctx, 1 + len(need_rest), 1)
            own, dx, dbeta = split(grad, x, beta, x.shape[1] // call.channels, call.stride, need_x, need_beta)
        dpart, dgain, doffset, dweights = run(
            own, x if beta is None else part, gain, offset, weights, seeds, call.candidates, call.stride, z, mean, var,
            ctx.training, call.eps, call.images, need_x, need_weight, ctx.kinks, ctx.exact, *graph,
        )  # fmt: skip
        if beta is None:
            dx = dpart
        elif need_x:
            head(dx, call).copy_(dpart)
        return (
            *(None,) * 7,
            dx if need_x else None,
            _gathered(dgain, places, mixing) if need_gain else None,
            doffset if need_offset else None,
            dbeta if need_beta else None,
            *grad[: ctx.bases],
            *(dweights if all(need_weights) and need_weight else _wanted(dweights, need_weights)),
        )


def _wanted(gradients: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    pairs = zip(gradients or [None] * len(wanted), wanted, strict=True)
    return [g if want else None for g, want in pairs]


def _spread(mixing: Tensor, places: Tensor, channels: int) -> Tensor:
    """The rows of `gain`: of each the mixing weight at its place, or 1 at the place past the last."""
    return torch.cat([mixing, mixing.new_ones(1)]).index_select(0, places)[:, None].expand(-1, channels)


def _gathered(dgain: Tensor, places: Tensor | None, mixing: Tensor) -> Tensor:
    """The gradient of `mixing` from that of `gain`."""
    if places is None:
        return dgain
    return dgain.new_zeros(len(mixing) + 1).index_add(0, places, dgain.sum(1))[:-1]


def bypassing(op: Op, call: Call, device: str, dtype: torch.dtype) -> Callable:
    """What runs `op` of interleave, which has no kernels in CUDA C++."""
    return select(op, call.impl if call.impl in op.implementations else None, device, dtype)


def head(x: Tensor, call: Call) -> Tensor:
    """The channels that the mixed operation takes."""
    return x[:, : call.channels]


def mixed_op(
    call: Call,
    x: Tensor,
    base: Sequence[Tensor],
    gain: Tensor,
    offset: Tensor | None,
    weights: Sequence[Tensor],
    seeds: Tensor | None,
    running: tuple[Tensor, Tensor] | None,
    bypass: Tensor | None,
    kinks: Sequence[Tensor] = (),
    note: bool = False,
    places: Tensor | None = None,
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor]]:
    """The differentiable op; fastdarts.functional has validated, x and base are channels-last, weights contiguous.

    With `places`, int64 [R], gain are mixing weights [K]: that of a row is at its place among them, K being that of 1.
    Returns out, mean, var and, if asked to note them, the kinks.
    """
    if not (call.passing or torch.is_grad_enabled()):
        call = call.without_gradients()
    noted = [] if note else None
    *out, mean, var = _MixedOp.apply(
        call, tuple(kinks), noted, places, seeds, *(running or (None, None)), x, gain, offset, bypass, *base, *weights
    )  # fmt: skip
    return out, mean, var, noted or []
