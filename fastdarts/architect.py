"""The architect: how the alphas follow the validation loss, first order or unrolled (DARTS, sections 2.3 and 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn as nn
from torch import Tensor
from torch.func import functional_call

from fastdarts.errors import FastdartsError


class ArchitectArgs(Protocol):
    """What :class:`Architect` reads from its ``args``: an argparse namespace of the public scripts has them all."""

    momentum: float
    weight_decay: float
    arch_learning_rate: float
    arch_weight_decay: float


class _Loss(nn.Module):
    """``model._loss`` as a module's forward, so that functional_call can evaluate it at other weights."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.model._loss(input, target)


class Architect:
    r"""Adam on the alphas, with the gradient of the validation loss.

    First order: :math:`\nabla_\alpha L_{val}(w, \alpha)`. Unrolled (eq. 7-8):

    .. math:: \nabla_\alpha L_{val}(w', \alpha) - \xi\,
              \frac{\nabla_\alpha L_{train}(w^+, \alpha) - \nabla_\alpha L_{train}(w^-, \alpha)}{2\epsilon}

    with :math:`w' = w - \xi(\mu m + \nabla_w L_{train} + \lambda w)`, :math:`w^\pm = w \pm \epsilon v`,
    :math:`v = \nabla_{w'} L_{val}` and :math:`\epsilon = 0.01 / \|v\|_2`; m is the momentum buffer of the network
    optimizer (zero while any is missing).

    The numbers are those of the public code, with these differences, all on the side of the caller: the weights are
    never written, so they are the same bit for bit after a step, also if the loss raises; no second network is built,
    so a step draws nothing from the random number generator; only the gradients that are used are computed, so the
    ``grad`` of the weights is left alone. BatchNorm running statistics move as published: once on the validation batch
    (first order) or three times on the training batch (unrolled), never by the pass at w'.

    Args:
        model: has ``_loss(input, target)`` and ``arch_parameters()``. If its alphas are Parameters, they are not
            counted among the weights.
        args: ``momentum``, ``weight_decay`` (of the network optimizer), ``arch_learning_rate``, ``arch_weight_decay``.
    """

    def __init__(self, model: nn.Module, args: ArchitectArgs):
        self.network_momentum = args.momentum
        self.network_weight_decay = args.weight_decay
        self.model = model
        self.optimizer = torch.optim.Adam(
            model.arch_parameters(),
            lr=args.arch_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=args.arch_weight_decay,
        )

    def step(
        self,
        input_train: Tensor | None,
        target_train: Tensor | None,
        input_valid: Tensor,
        target_valid: Tensor,
        eta: float | None,
        network_optimizer: torch.optim.Optimizer | None,
        unrolled: bool,
    ) -> Tensor:
        """Update the alphas once and return the validation loss (at w, or at w' if unrolled), detached.

        ``eta`` is the learning rate of the weights and ``network_optimizer`` holds their momentum; both, and the
        training batch, are read only if ``unrolled``.
        """
        self.optimizer.zero_grad()
        if unrolled:
            loss = self._backward_step_unrolled(
                input_train, target_train, input_valid, target_valid, eta, network_optimizer
            )
        else:
            loss = self._backward_step(input_valid, target_valid)
        self.optimizer.step()
        return loss

    def _backward_step(self, input_valid: Tensor, target_valid: Tensor) -> Tensor:
        loss = self.model._loss(input_valid, target_valid)
        self._write_gradients(self._alpha_gradients(loss))
        return loss.detach()

    def _backward_step_unrolled(
        self,
        input_train: Tensor,
        target_train: Tensor,
        input_valid: Tensor,
        target_valid: Tensor,
        eta: float,
        network_optimizer: torch.optim.Optimizer,
    ) -> Tensor:
        if eta is None or network_optimizer is None:
            raise FastdartsError(
                "an unrolled step got no eta or no network_optimizer: expected the learning rate and the SGD "
                "optimizer of the weights"
            )
        weights = self._weights()
        ahead = self._unrolled_weights(weights, input_train, target_train, eta, network_optimizer)
        # Copies, so that the statistics of the live network do not see the pass at w'.
        buffers = {f"model.{name}": b.clone() for name, b in self.model.named_buffers()}
        loss = self._loss_at(ahead, input_valid, target_valid, buffers)
        direct, vector = self._alpha_gradients(loss, list(ahead.values()))
        implicit = self._hessian_vector_product(vector, input_train, target_train)
        self._write_gradients([None if d is None else d - eta * h for d, h in zip(direct, implicit, strict=True)])
        return loss.detach()

    def _unrolled_weights(
        self, weights: dict[str, Tensor], input: Tensor, target: Tensor, eta: float, optimizer: torch.optim.Optimizer
    ) -> dict[str, Tensor]:
        """w' = w - eta * (momentum * buffer + gradient + weight_decay * w), one SGD step without gradient clipping."""
        parameters = list(weights.values())
        gradients = torch.autograd.grad(self.model._loss(input, target), parameters)
        buffers = [optimizer.state.get(p, {}).get("momentum_buffer") for p in parameters]
        with torch.no_grad():
            step = torch._foreach_add(gradients, parameters, alpha=self.network_weight_decay)
            if all(b is not None for b in buffers):
                torch._foreach_add_(step, buffers, alpha=self.network_momentum)
            ahead = torch._foreach_add(parameters, step, alpha=-eta)
        return {name: w.requires_grad_() for name, w in zip(weights, ahead, strict=True)}

    def _hessian_vector_product(
        self, vector: Sequence[Tensor], input: Tensor, target: Tensor, r: float = 1e-2
    ) -> list[Tensor | None]:
        r"""Central difference of :math:`\nabla_\alpha L_{train}` along ``vector`` with radius r / ||vector||_2 (eq.
        8)."""
        weights = self._weights()
        with torch.no_grad():
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(vector)))
            if not norm > 0 or not torch.isfinite(norm):
                raise FastdartsError(
                    f"the gradient of the validation loss at the unrolled weights has norm {norm.item()}: expected a "
                    "positive finite number; lower the learning rate or check the data for NaN"
                )
            epsilon = (r / norm).item()
            plus = dict(zip(weights, torch._foreach_add(list(weights.values()), vector, alpha=epsilon), strict=True))
            minus = dict(zip(weights, torch._foreach_add(list(weights.values()), vector, alpha=-epsilon), strict=True))
        # The perturbed weights ask for no gradient, so autograd skips every weight gradient here.
        above = self._alpha_gradients(self._loss_at(plus, input, target))
        below = self._alpha_gradients(self._loss_at(minus, input, target))
        return [None if p is None else (p - n) / (2 * epsilon) for p, n in zip(above, below, strict=True)]

    def _alpha_gradients(self, loss: Tensor, weights: Sequence[Tensor] | None = None):
        """Gradients of the alphas, or the pair (of the alphas, of ``weights``); None for alphas that no cell uses.

        A network of one or two cells has reduction cells only, so that its normal alphas are idle.
        """
        alphas = self.model.arch_parameters()
        gradients = torch.autograd.grad(loss, [*alphas, *(weights or ())], allow_unused=True)
        if all(g is None for g in gradients[: len(alphas)]):
            raise FastdartsError(
                "the loss depends on none of the tensors in arch_parameters(): expected the alphas the network uses; "
                "if you replaced model.alphas_normal, put the new tensor into model.arch_parameters() too"
            )
        return gradients if weights is None else (gradients[: len(alphas)], gradients[len(alphas) :])

    def _weights(self) -> dict[str, Tensor]:
        alphas = {id(a) for a in self.model.arch_parameters()}
        return {name: p for name, p in self.model.named_parameters() if id(p) not in alphas}

    def _loss_at(
        self, weights: dict[str, Tensor], input: Tensor, target: Tensor, buffers: dict[str, Tensor] | None = None
    ) -> Tensor:
        values = {f"model.{name}": w for name, w in weights.items()} | (buffers or {})
        return functional_call(_Loss(self.model), values, (input, target))

    def _write_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        for alpha, gradient in zip(self.model.arch_parameters(), gradients, strict=True):
            alpha.grad = gradient
