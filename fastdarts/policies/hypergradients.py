"""Hypergradients: how the validation loss moves with the alphas, as strategies that an Architect can exchange.

With L_t and L_v the training and the validation loss, ξ the learning rate of the weights w, m their momentum buffers, μ
the momentum and λ the weight decay:

    FirstOrder   ∇_α L_v(w, α)
    Unrolled     ∇_α L_v(w', α) − ξ ∇²_{αw} L_t(w, α) v    with v = ∇_{w'} L_v(w', α), w' = w − ξ(μ m + ∇_w L_t + λ w)
                 and the product a central difference along v, with kinks of its own or those of w
    Exact        the same with the product by double backward
    Neumann      ∇_α L_v(w, α) − ξ ∇²_{αw} L_t(w, α) Σ_{k<K} (I − ξ(∇²_w L_t + λ))^k ∇_w L_v(w, α)

Under torch.autocast both perturbed passes of Unrolled, the training pass of Exact and of Neumann, and their products
keep the types of the weights. The rounding error of a bfloat16 gradient is larger than the difference of two such
gradients.

Sources: DARTS (Liu et al., ICLR 2019), equations 7 and 8; Optimizing millions of hyperparameters by implicit
differentiation (Lorraine et al., AISTATS 2020), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional import flat_hypergradient
from fastdarts.policies.descent import Descent, look_ahead, moving
from fastdarts.policies.differences import Difference, difference, difference_error, exact_product
from fastdarts.policies.passes import (
    Batch,
    Gradients,
    Passes,
    differentiable,
    filled,
    gradients_of,
    in_one,
    microbatches,
    pull_back,
    without_autocast,
)
from fastdarts.ranks import summed

__all__ = [
    "Batch",
    "Descent",
    "Difference",
    "Exact",
    "FirstOrder",
    "Gradients",
    "Neumann",
    "Passes",
    "Strategy",
    "Unrolled",
    "difference",
    "difference_error",
    "exact_product",
    "filled",
    "gradients_of",
    "in_one",
    "microbatches",
    "pull_back",
    "without_autocast",
]


class Strategy(Protocol):
    """What gives the gradient of the alphas.

    Returns the validation loss that it differentiated, detached, and the gradient for each of ``arch_parameters()``.
    """

    def __call__(self, passes: Passes, train: Batch, valid: Batch, descent: Descent) -> tuple[Tensor, Gradients]: ...


@dataclass(frozen=True)
class FirstOrder:
    """The gradient at the current weights; reads neither the training batch nor the descent."""

    def __call__(self, passes: Passes, train: Batch, valid: Batch, descent: Descent) -> tuple[Tensor, Gradients]:
        loss, gradients, _ = passes.differentiate(valid)
        return loss, gradients


@dataclass(frozen=True)
class Unrolled:
    """The gradient through one step of the weights, its second-order term by a finite difference as published.

    The training batch is passed three times (at w, w + epsilon v, w - epsilon v), the validation batch once.

    With ``keep_kinks`` both perturbed passes reuse the ReLU masks, the places of maxima and the random numbers of the
    pass at w. This alone separates the published difference from the exact product (docs/second-order.md). The pass at
    w then keeps the types of the weights, too.

    Args:
        radius: of the difference, in units of the norm of the vector: epsilon = radius / ||v||.
        keep_kinks: whether the perturbed passes decide as the pass at w does.
    """

    radius: float = 1e-2
    keep_kinks: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.radius < float("inf"):
            raise FastdartsError(f"the radius of the finite difference is {self.radius}: expected a number above 0")

    def __call__(self, passes: Passes, train: Batch, valid: Batch, descent: Descent) -> tuple[Tensor, Gradients]:
        descent.check()
        weights, kinks = passes.weights(), [] if self.keep_kinks else None
        _, _, gradients = passes.differentiate(train, alphas=False, wanted=list(weights.values()), note=kinks)
        weights, gradients = moving(weights, gradients)
        loss, direct, vector, rate = look_ahead(passes, valid, weights, gradients, descent)
        if not weights:
            return loss, direct
        found = difference(passes, vector, train, self.radius, descent.flat(weights), kinks, weights)
        if any(d is None or a is None for d, a in zip(direct, found.above, strict=True)):
            return loss, _less(direct, found.product, rate)
        triples = zip(direct, found.above, found.below, strict=True)
        return loss, [flat_hypergradient(*of, found.norm, self.radius, lr=rate) for of in triples]


@dataclass(frozen=True)
class Exact:
    """The gradient through one step of the weights, its second-order term by double backward.

    The training batch is passed once: the graph that gives w' gives the product as well. This pass goes through the
    reference of the fused ops. It takes several times the memory of an eager network.
    """

    def __call__(self, passes: Passes, train: Batch, valid: Batch, descent: Descent) -> tuple[Tensor, Gradients]:
        descent.check()
        weights, gradients = moving(*differentiable(passes, train))
        loss, direct, vector, rate = look_ahead(passes, valid, weights, summed(gradients), descent)
        return loss, _less(direct, pull_back(gradients, vector, passes.alphas), rate)


@dataclass(frozen=True)
class Neumann:
    """The gradient through weights that have converged, their inverse Hessian as a Neumann series of ``terms`` terms.

    The first term is the second-order term at w, without looking ahead. Each further one is a Hessian-vector product of
    the training loss and its weight decay, without the latter if not ``decays`` (iDARTS). The series converges where
    eta times the Hessian stays below 2.
    """

    terms: int = 3
    decays: bool = True

    def __post_init__(self) -> None:
        if self.terms < 1:
            raise FastdartsError(f"a Neumann series got {self.terms} terms: expected at least 1")

    def __call__(self, passes: Passes, train: Batch, valid: Batch, descent: Descent) -> tuple[Tensor, Gradients]:
        descent.check()
        loss, direct, vector = passes.differentiate(valid, wanted=list(passes.weights().values()))
        trained, slopes = differentiable(passes, train)
        vector = [v for v, g in zip(filled(vector, trained.values()), slopes, strict=True) if g is not None]
        weights, gradients = moving(trained, slopes)
        weights = list(weights.values())
        if not weights:
            return loss, direct
        (vector, _), (_, factor) = descent.clipped(vector), descent.clipped(summed(gradients))
        rate, total = descent.eta * float(factor), vector
        for _ in range(self.terms - 1):
            curved = filled(pull_back(gradients, vector, weights), weights)
            with torch.no_grad():
                if self.decays:
                    torch._foreach_add_(curved, vector, alpha=descent.weight_decay)
                vector = torch._foreach_add(vector, curved, alpha=-rate)
                total = torch._foreach_add(total, vector)
        return loss, _less(direct, pull_back(gradients, total, passes.alphas), rate)


def _less(direct: Gradients, product: Gradients, eta: Tensor | float) -> Gradients:
    """direct - eta * product, where None counts as zero."""
    pairs = zip(direct, product, strict=True)
    return [d if p is None else -eta * p if d is None else d - eta * p for d, p in pairs]
