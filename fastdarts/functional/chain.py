"""Calls of mixed_op on the states of a cell, one after another, as one node of the graph of autograd."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdarts.functional.arguments import in_format
from fastdarts.functional.autocast import autocast_dtype, cast
from fastdarts.functional.mixed_op import MixedOpPlan
from fastdarts.kernels.mixed_op.chain import Chain, Given, Link, Pool, chained


class ChainPlan:
    """Planned calls that read and make the states of a cell, validated once.

    calls: in their order, each a :class:`Pool` or (the plan, the state that it reads, those that it makes or adds to,
    the factors of its last edges); concat: the states that are concatenated. The first ``inputs`` states are given.
    Calls that mix follow those that do not, whose gains are then constants.
    """

    def __init__(
        self,
        calls: Sequence[tuple[MixedOpPlan, int, Sequence[int], Sequence[int]] | Pool],
        mixes: Sequence[bool],
        inputs: int,
        concat: Sequence[int],
    ):
        steps, rows, edges = [], 0, 0
        for step, mixing in zip(calls, mixes, strict=True):
            if isinstance(step, Pool):
                steps.append(step)
                continue
            plan, source, targets, drops = step
            past, counts = mixing and plan.inputs > plan.call.channels, mixing or not any(mixes)
            places = rows if counts else None, edges if past else None
            steps.append(Link(plan.call, source, tuple(targets), *places, tuple(drops)))
            rows += plan.rows * counts
            edges += plan.call.edges * mixing
        states = 1 + max(t for step in steps for t in step.targets)
        self._plans = [step[0] for step in calls if not isinstance(step, Pool)]
        self._shapes = [shape for plan in self._plans for shape in plan.shapes]
        self._chain = Chain(steps, inputs, states, concat)
        passing = [s if isinstance(s, Pool) else s._replace(call=s.call.without_gradients()) for s in steps]
        self._passing = Chain(passing, inputs, states, concat)  # where nothing is kept for backward

    def fitting(
        self, inputs: Sequence[Tensor], weights: Sequence[Tensor], known: bool = False
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]] | None:
        """These feature maps and weights as the calls take them, or None for those that do not fit. With ``known`` the
        weights fitted before, to feature maps on this device."""
        dtype = autocast_dtype(inputs[0])
        if dtype is not None:
            inputs = [t if t.dtype is dtype else t.to(dtype, memory_format=torch.channels_last) for t in inputs]
            weights = cast(weights, dtype)
        if not self._fit(inputs):
            return None
        if not (known and weights[0].dtype is inputs[0].dtype and weights[0].is_contiguous()):
            if not self._fit_weights(weights, inputs[0]):
                return None
            weights = [w.contiguous() for w in weights]
        return [in_format(t, torch.channels_last) for t in inputs], weights

    def __call__(
        self,
        inputs: Sequence[Tensor],
        weights: Sequence[Tensor],
        given: Sequence[Given],
        gains: Tensor,
        offsets: Tensor | None = None,
        bypass: Tensor | None = None,
        factors: Tensor | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The output, and mean and var of every call, for what :meth:`fitting` gave.

        gains: of calls that mix [R], the mixing weights of all their rows, 1 in the middle of a separable convolution;
        where no call mixes [R, C'], and offsets too. bypass: the weights of what bypasses the candidates, of all edges
        in the order of the calls. factors: of each sample [D, N, 1, 1, 1], for what is dropped.
        """
        chain = self._chain if torch.is_grad_enabled() else self._passing
        return chained(chain, given, gains, offsets, bypass, inputs, weights, factors)

    def _fit(self, inputs: Sequence[Tensor]) -> bool:
        """Whether every state has the channels that its readers want, and one size whoever makes it."""
        sizes: list[tuple[int, int, int, int] | None] = [tuple(t.shape) for t in inputs]
        sizes += [None] * (self._chain.states - len(sizes))
        plans = iter(self._plans)
        for step in self._chain.steps:
            plan = None if isinstance(step, Pool) else next(plans)
            (n, channels, height, width), stride = sizes[step.source], step.stride if plan is None else plan.call.stride
            past = plan is not None and step.edge is not None
            if past and stride == 2 and (height % 2 or width % 2):
                return False
            outputs = channels if past or plan is None else plan.call.channels
            made = n, outputs, (height - 1) // stride + 1, (width - 1) // stride + 1
            if plan is not None and (channels != plan.inputs or made[0] * made[2] * made[3] == 1):
                return False
            for t in step.targets:
                if sizes[t] not in (None, made):
                    return False
                sizes[t] = made
        return all(t.dtype is inputs[0].dtype and t.device == inputs[0].device for t in inputs)

    def _fit_weights(self, weights: Sequence[Tensor], x: Tensor) -> bool:
        count = len(weights)
        return (
            [*map(_shape, weights)] == self._shapes
            and [*map(_dtype, weights)] == [x.dtype] * count
            and [*map(Tensor.get_device, weights)] == [x.get_device()] * count
        )


_dtype, _shape = Tensor.dtype.__get__, Tensor.shape.__get__
