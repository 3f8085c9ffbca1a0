"""The coming step of the weights, and what follows from it before it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional import flat_rates, flat_unroll
from fastdarts.nn.optim import SGD, Flat
from fastdarts.policies.passes import Batch, Gradients, Passes, filled


class Descent(NamedTuple):
    """The coming step of the weights: SGD with ``eta`` and the momentum buffers of ``optimizer``.

    With a ``grad_clip``, the largest norm of a gradient, the strategies clip the training gradient before they look
    ahead and count its clipping factor among the constants; the validation gradient at w' is clipped too, as published
    for recurrent cells.

    ``rates`` are eta, momentum and weight_decay as flat updates take them, by default made of the numbers: a step that
    is replayed finds there what counts at that time.
    """

    eta: float | None
    optimizer: torch.optim.Optimizer | None
    momentum: float
    weight_decay: float
    grad_clip: float | None = None
    rates: Tensor | None = None

    def on(self, device: torch.device) -> Tensor:
        """The rates, on ``device``."""
        return flat_rates(self.eta, self.momentum, self.weight_decay, device) if self.rates is None else self.rates

    def clipped(self, gradients: Sequence[Tensor]) -> tuple[list[Tensor], Tensor | float]:
        """These gradients, detached, times what brings their norm to ``grad_clip``, and that factor, at most 1."""
        gradients = [g.detach() for g in gradients]
        if self.grad_clip is None or not gradients:
            return gradients, 1.0
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).double()
        factor = (self.grad_clip / (norm + 1e-6)).clamp(max=1.0)
        return [g * factor for g in gradients], factor

    def check(self) -> None:
        """Raise :class:`FastdartsError` if there is no learning rate or no optimizer."""
        if self.eta is None or self.optimizer is None:
            raise FastdartsError(
                "an unrolled step got no eta or no network_optimizer: expected the learning rate and the SGD "
                "optimizer of the weights"
            )

    def flat(self, weights: dict[str, Tensor]) -> Flat | None:
        """Where the optimizer has these weights in one buffer, to be moved in single passes; None if it has not."""
        return self.optimizer.flat(list(weights.values())) if isinstance(self.optimizer, SGD) else None

    def ahead(self, weights: dict[str, Tensor], gradients: Sequence[Tensor]) -> dict[str, Tensor]:
        """w' = w - eta * (momentum * buffer + gradient + weight_decay * w), one SGD step; the gradients are not clipped
        here.

        The momentum counts as zero while any buffer is missing.
        """
        if not weights:
            return {}
        parameters, flat = list(weights.values()), self.flat(weights)
        gradients = [g.detach() for g in gradients]
        if flat is not None:
            rates = self.on(flat.weights.device)
            with torch.no_grad():
                ahead = flat.views(flat_unroll(flat.weights, flat.collect(gradients), flat.momentum, rates=rates))
            return {name: w.requires_grad_() for name, w in zip(weights, ahead, strict=True)}
        buffers = [self.optimizer.state.get(p, {}).get("momentum_buffer") for p in parameters]
        with torch.no_grad():
            step = torch._foreach_add(gradients, parameters, alpha=self.weight_decay)
            if all(b is not None for b in buffers):
                torch._foreach_add_(step, buffers, alpha=self.momentum)
            ahead = torch._foreach_add(parameters, step, alpha=-self.eta)
        return {name: w.requires_grad_() for name, w in zip(weights, ahead, strict=True)}


def moving(weights: dict[str, Tensor], gradients: Gradients) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The weights that have a gradient, and these gradients: SGD leaves the others where they are."""
    pairs = [(name, w, g) for (name, w), g in zip(weights.items(), gradients, strict=True) if g is not None]
    return {name: w for name, w, _ in pairs}, [g for *_, g in pairs]


def look_ahead(
    passes: Passes, valid: Batch, weights: dict[str, Tensor], gradients: Sequence[Tensor], descent: Descent
) -> tuple[Tensor, Gradients, list[Tensor], Tensor]:
    """The validation loss at w', detached, its gradients in the alphas and in w', and what w' moves by the training
    gradient: eta, less where that is clipped."""
    gradients, factor = descent.clipped(gradients)
    ahead = descent.ahead(weights, gradients)
    # The statistics of the live network do not see the pass at w'.
    loss, direct, vector = passes.differentiate(valid, ahead, live=False, wanted=list(ahead.values()))
    return loss, direct, descent.clipped(filled(vector, weights.values()))[0], descent.on(loss.device)[0] * factor
