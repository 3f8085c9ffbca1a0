"""The architect: how the alphas follow the validation loss, first order or unrolled (DARTS, sections 2.3 and 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.nn.finite import Readings
from fastdarts.nn.optim import Adam
from fastdarts.policies.hypergradients import (
    Batch,
    Descent,
    FirstOrder,
    Gradients,
    Passes,
    Strategy,
    Unrolled,
    difference,
    difference_error,
)


class ArchitectArgs(Protocol):
    """What :class:`Architect` reads from its ``args``: an argparse namespace of the public scripts has them all."""

    momentum: float
    weight_decay: float
    arch_learning_rate: float
    arch_weight_decay: float


class Architect:
    """Adam on the alphas, with the gradient of the validation loss.

    First order is ``∇_α L_val(w, α)``. Unrolled is
    ``∇_α L_val(w', α) − ξ (∇_α L_train(w⁺, α) − ∇_α L_train(w⁻, α)) / (2ε)``, with

    - ``w' = w − ξ (μ m + ∇_w L_train + λ w)``, the weights after one step;
    - ``w± = w ± ε v``, with ``v = ∇_{w'} L_val`` and ``ε = 0.01 / ‖v‖₂``.

    ξ is the learning rate, μ the momentum and λ the weight decay of the weights. m is the momentum buffer of their
    optimizer, zero while any is missing. :mod:`fastdarts.policies.hypergradients` has other strategies.

    The numbers are those of the public code. Three things differ for the caller:

    - The weights are never written. So they are the same bit for bit after a step, also if the loss raises.
    - No second network is built, so a step draws nothing from the random number generator.
    - Only the gradients that are used are computed, so the ``grad`` of the weights is left alone.

    BatchNorm running statistics move as published: once on the validation batch (first order) or three times on the
    training batch (unrolled). The pass at w' never moves them.

    Args:
        model: Has ``_loss(input, target)`` and ``arch_parameters()``. Alphas that are Parameters do not count as
            weights. Nor do parameters that are frozen, or that a loss does not depend on. Alphas may be replaced, as by
            ``model.alphas_normal = ...``: the next step follows them.
        args: ``momentum``, ``weight_decay`` (of the network optimizer), ``arch_learning_rate``, ``arch_weight_decay``.
        strategy: How the gradient is found. By default ``unrolled`` of every step chooses a published one.
        side_effects: False leaves running statistics and the random state as they are in all passes of a step.
        betas: Those of Adam.
        grad_clip: As of :class:`fastdarts.policies.hypergradients.Descent`; by default the look ahead clips nothing.
        accumulate: Parts that a batch is passed in, see :meth:`fastdarts.policies.hypergradients.Passes.differentiate`.
        penalty: Gives a term of the loss of the alphas that depends on them alone.
        cost: Makes the loss of the alphas of this loss, a scalar, and of what their network is expected to cost.
        alpha_clip: The largest norm of the gradient of the alphas, 0 for any.

    Source: Liu et al. 2019 (DARTS), equations 7 and 8 and the public code.

    Examples:
        >>> from argparse import Namespace
        >>> import torch
        >>> from fastdarts import Architect, Network
        >>> model = Network(4, 10, 3, torch.nn.CrossEntropyLoss())
        >>> weights = torch.optim.SGD(model.parameters(), 0.025, 0.9, weight_decay=3e-4)
        >>> args = Namespace(momentum=0.9, weight_decay=3e-4, arch_learning_rate=3e-4, arch_weight_decay=1e-3)
        >>> architect, before = Architect(model, args), model.alphas_normal.clone()
        >>> train, valid = [(torch.randn(2, 3, 16, 16), torch.tensor([3, 7])) for _ in range(2)]
        >>> _ = architect.step(*train, *valid, 0.025, weights, unrolled=True)
        >>> bool((model.alphas_normal != before).any())
        True
    """

    def __init__(
        self,
        model: nn.Module,
        args: ArchitectArgs,
        strategy: Strategy | None = None,
        side_effects: bool = True,
        betas: tuple[float, float] = (0.5, 0.999),
        grad_clip: float | None = None,
        accumulate: int = 1,
        penalty: Callable[[], Tensor] | None = None,
        cost: Callable[[Tensor], Tensor] | None = None,
        alpha_clip: float = 0.0,
    ):
        self.network_momentum = args.momentum
        self.network_weight_decay = args.weight_decay
        self.model = model
        self.strategy = strategy
        self.side_effects = side_effects
        self.grad_clip = grad_clip
        self.accumulate = accumulate
        self.penalty = penalty
        self.cost = cost
        self.alpha_clip = alpha_clip
        self._alphas = list(model.arch_parameters())
        self.optimizer = Adam(
            model.arch_parameters(),
            lr=args.arch_learning_rate,
            betas=betas,
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
        training batch, are read by every strategy but the first order. ``unrolled`` counts if no strategy was given.
        Raises :class:`NotFinite`, before the alphas move, if their gradient is not finite.
        """
        self._follow()
        train, valid = (input_train, target_train), (input_valid, target_valid)
        self.optimizer.zero_grad()
        if self.strategy is not None:
            loss = self._backward(self.strategy, train, valid, eta, network_optimizer)
        elif unrolled:
            loss = self._backward_step_unrolled(*train, *valid, eta, network_optimizer)
        else:
            loss = self._backward_step(*valid)
        loss = self._checked(loss, Readings(at_once=True))
        self._clip()
        self.optimizer.step()
        return loss

    def prepare(self) -> None:
        """What the host does before :meth:`differentiate` and :meth:`update`, which wait for no device and so can be
        recorded; ``optimizer.count()`` comes after them."""
        self._follow()
        self.optimizer.prepare()

    def differentiate(
        self,
        train: Batch,
        valid: Batch,
        eta: float,
        network_optimizer: torch.optim.Optimizer,
        rates: Tensor,
        readings: Readings,
    ) -> Tensor:
        """Set the gradients of the alphas, by the strategy that was given, and return the validation loss, detached.

        ``rates`` are those of a :class:`fastdarts.policies.hypergradients.Descent`. What must be finite is noted in
        ``readings``.
        """
        self.optimizer.zero_grad()
        return self._checked(
            self._backward(self.strategy, train, valid, eta, network_optimizer, rates, readings), readings
        )

    def update(self, sound: Tensor) -> None:
        """Update the alphas by their gradients where ``sound``, a truth value on the device, is true."""
        self._clip()
        self.optimizer.step(sound=sound)

    def _checked(self, loss: Tensor, readings: Readings) -> Tensor:
        loss = self._weigh(loss + self._penalise())
        gradients = [a.grad for a in self.model.arch_parameters() if a.grad is not None]
        readings.add(torch.stack([g.sum() for g in gradients]).sum(), self._check_gradients)
        return loss

    def _clip(self) -> None:
        if self.alpha_clip:
            nn.utils.clip_grad_norm_(self.model.arch_parameters(), self.alpha_clip)

    def follow_along(self, loss: Tensor, summed: Callable[[list[Tensor]], list[Tensor]], sound: Tensor) -> Tensor:
        """Update the alphas, where ``sound``, by the gradients that they have from ``loss``, which is that of the
        weights too. ``summed`` adds these up over the ranks. Penalty and cost are added; return what they add to the
        loss, on the device."""
        alphas = [alpha for alpha in self.model.arch_parameters() if alpha.grad is not None]
        for alpha, gradient in zip(alphas, summed([alpha.grad for alpha in alphas]), strict=True):
            alpha.grad = gradient
        penalty = self._penalise()
        if self.cost is not None:
            penalty = self._weigh(loss + penalty) - loss
        self.update(sound)
        return penalty if isinstance(penalty, Tensor) else sound.new_zeros((), dtype=torch.float64)

    def _weigh(self, loss: Tensor) -> Tensor:
        """Turn the gradients of the alphas, which are those of ``loss``, into those of the loss with the cost; return
        this loss."""
        if self.cost is None:
            return loss
        alphas = [alpha for alpha in self.model.arch_parameters() if alpha.requires_grad]
        leaf = loss.detach().clone().requires_grad_()
        with torch.enable_grad():
            total = self.cost(leaf)
        factor, *gradients = torch.autograd.grad(total, [leaf, *alphas], allow_unused=True)
        for alpha, gradient in zip(alphas, gradients, strict=True):
            if alpha.grad is not None:
                alpha.grad = alpha.grad * factor
            if gradient is not None:
                alpha.grad = gradient if alpha.grad is None else alpha.grad + gradient
        return total.detach()

    def _penalise(self) -> Tensor | float:
        """Add the gradient of the penalty to that of the alphas; return the penalty."""
        if self.penalty is None:
            return 0.0
        alphas = [alpha for alpha in self.model.arch_parameters() if alpha.requires_grad]
        with torch.enable_grad():
            penalty = self.penalty()
        for alpha, gradient in zip(alphas, torch.autograd.grad(penalty, alphas, allow_unused=True), strict=True):
            if gradient is not None:
                alpha.grad = gradient if alpha.grad is None else alpha.grad + gradient
        return penalty.detach()

    def _follow(self) -> None:
        """Let the optimizer hold the alphas that took the place of others since; what it knew of those is dropped."""
        alphas = self.model.arch_parameters()
        if len(alphas) != len(self._alphas):
            raise FastdartsError(
                f"arch_parameters() has {len(alphas)} tensors: expected the {len(self._alphas)} that the Architect was "
                "built with; build it again"
            )
        for place, (before, alpha) in enumerate(zip(self._alphas, alphas, strict=True)):
            if alpha is before:
                continue
            if not alpha.is_leaf or (before.requires_grad and not alpha.requires_grad):
                raise FastdartsError(
                    f"arch_parameters()[{place}] was replaced by one that cannot be optimised: expected a leaf that "
                    "requires a gradient, as by .detach().clone().requires_grad_()"
                )
            for group in self.optimizer.param_groups:
                group["params"] = [alpha if p is before else p for p in group["params"]]
            self.optimizer.state.pop(before, None)
            self._alphas[place] = alpha

    def difference_error(
        self, train: Batch, valid: Batch, eta: float, network_optimizer: torch.optim.Optimizer
    ) -> dict[str, float]:
        """:func:`fastdarts.policies.hypergradients.difference_error` of the step that these batches would make."""
        unrolled = self.strategy if isinstance(self.strategy, Unrolled) else Unrolled()
        descent = self._descent(eta, network_optimizer)
        return difference_error(self._passes(), train, valid, descent, unrolled.radius, unrolled.keep_kinks)

    def _backward_step(self, input_valid: Tensor, target_valid: Tensor) -> Tensor:
        return self._backward(FirstOrder(), (None, None), (input_valid, target_valid), None, None)

    def _backward_step_unrolled(
        self,
        input_train: Tensor,
        target_train: Tensor,
        input_valid: Tensor,
        target_valid: Tensor,
        eta: float,
        network_optimizer: torch.optim.Optimizer,
    ) -> Tensor:
        train, valid = (input_train, target_train), (input_valid, target_valid)
        return self._backward(Unrolled(), train, valid, eta, network_optimizer)

    def _backward(
        self,
        strategy: Strategy,
        train: Batch,
        valid: Batch,
        eta: float | None,
        network_optimizer: torch.optim.Optimizer | None,
        rates: Tensor | None = None,
        readings: Readings | None = None,
    ) -> Tensor:
        passes = Passes(self.model, self.side_effects, self.accumulate, readings)
        loss, gradients = strategy(passes, train, valid, self._descent(eta, network_optimizer, rates))
        for alpha, gradient in zip(self.model.arch_parameters(), gradients, strict=True):
            alpha.grad = gradient
        return loss

    def _check_gradients(self, total: float) -> None:
        """Raise :class:`NotFinite` with the name of the first alphas whose gradient is not finite, given the sum of
        all."""
        if math.isfinite(total):
            return
        names = {id(value): name for name, value in [*vars(self.model).items(), *self.model.named_parameters()]}
        for alpha in (a for a in self.model.arch_parameters() if a.grad is not None):
            strange = alpha.grad[~alpha.grad.isfinite()]
            if strange.numel():
                name = names.get(id(alpha), "an architecture parameter")
                raise NotFinite(f"gradient of {name}", strange[0].item(), "validation")

    def _hessian_vector_product(
        self, vector: Sequence[Tensor], input: Tensor, target: Tensor, r: float = 1e-2
    ) -> Gradients:
        r"""Central difference of :math:`\nabla_\alpha L_{train}` along ``vector`` with radius r / ||vector||_2 (eq.
        8)."""
        return difference(self._passes(), vector, (input, target), r).product

    def _passes(self) -> Passes:
        return Passes(self.model, self.side_effects, self.accumulate)

    def _descent(
        self, eta: float | None, optimizer: torch.optim.Optimizer | None, rates: Tensor | None = None
    ) -> Descent:
        return Descent(eta, optimizer, self.network_momentum, self.network_weight_decay, self.grad_clip, rates)
