"""The second-order product along a vector: by a central difference as published, and exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.functional import flat_norm, flat_perturb
from fastdarts.nn.fusion.kinks import Kinks
from fastdarts.nn.optim import Flat
from fastdarts.policies.descent import Descent, look_ahead, moving
from fastdarts.policies.passes import (
    Batch,
    Gradients,
    Passes,
    differentiable,
    filled,
    in_one,
    pull_back,
    without_autocast,
)
from fastdarts.ranks import summed


class Difference(NamedTuple):
    """The gradients of the alphas at w + epsilon v and w - epsilon v; epsilon = radius / norm, norm = ||v||_2."""

    above: Gradients
    below: Gradients
    norm: Tensor
    radius: float

    @property
    def product(self) -> Gradients:
        """The central difference."""
        width = 2 * (self.radius / self.norm)
        return [None if a is None else (a - b) / width for a, b in zip(self.above, self.below, strict=True)]


def difference(
    passes: Passes,
    vector: Sequence[Tensor],
    batch: Batch,
    radius: float = 1e-2,
    flat: Flat | None = None,
    kinks: Sequence[Kinks] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> Difference:
    r"""Two passes for the central difference of :math:`\nabla_\alpha L(w, \alpha)` along ``vector`` (DARTS, eq. 8).

    ``flat`` holds the weights, if they lie in one buffer; ``kinks`` are those to keep, of every part of the batch.
    ``vector`` is of ``weights``, by default all that are trained.
    """
    weights = passes.weights() if weights is None else weights
    if len(weights) != len(vector):
        raise FastdartsError(
            f"got a vector of {len(vector)} tensors: expected one for each of the {len(weights)} parameters that "
            "require a gradient, but for alphas"
        )
    if flat is None:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(vector)))
        norm = norm if norm.dtype is torch.float64 else norm.float()  # as of the flat updates
    else:
        vector = flat.collect(whole := vector)
        norm = flat_norm(vector)

    def check(value: float) -> None:
        if not 0 < value < float("inf"):
            raise _no_direction(weights, vector if flat is None else whole, value)

    passes.readings.add(norm, check)

    def moved(radius: float) -> dict[str, Tensor]:
        with torch.no_grad():
            if flat is None:
                values = torch._foreach_add(list(weights.values()), list(vector), alpha=(radius / norm).item())
            else:
                values = flat.views(flat_perturb(flat.weights, vector, norm, radius))
        return dict(zip(weights, values, strict=True))

    # The perturbed weights ask for no gradient, so autograd skips every weight gradient here.
    with without_autocast(batch[0]):
        above, below = (passes.differentiate(batch, moved(r), keep=kinks)[1] for r in (radius, -radius))
    return Difference(above, below, norm, radius)


def exact_product(passes: Passes, vector: Sequence[Tensor], batch: Batch) -> Gradients:
    r""":math:`\nabla_\alpha \langle \nabla_w L(w, \alpha), v\rangle` by double backward."""
    return pull_back(differentiable(passes, batch)[1], vector, passes.alphas)


def difference_error(
    passes: Passes, train: Batch, valid: Batch, descent: Descent, radius: float = 1e-2, keep_kinks: bool = False
) -> dict[str, float]:
    """How far the finite-difference product of an unrolled step is from the exact one.

    Returns ``product_cosine``, the cosine of the two over all alphas, and ``product_error``, ||difference - exact|| /
    ||exact||. Nothing is changed.
    """
    descent.check()
    passes = Passes(passes.model, side_effects=False)
    weights, gradients = moving(*differentiable(passes, train))
    if not weights:
        raise FastdartsError(
            "no weight is trained: expected some that require a gradient, as the product is along them"
        )
    _, _, vector, _ = look_ahead(passes, valid, weights, summed(gradients), descent)
    exact = in_one(filled(pull_back(gradients, vector, passes.alphas), passes.alphas))
    kinks = [Kinks()] if keep_kinks else None
    if kinks:
        with kinks[0].note():
            passes.loss(train)
    along = difference(passes, vector, train, radius, descent.flat(weights), kinks, weights)
    found = in_one(filled(along.product, passes.alphas))
    cosine = torch.nn.functional.cosine_similarity(found, exact, dim=0)
    size = exact.norm()
    if not size and not found.norm():  # as where all alphas are decided
        return {"product_cosine": 1.0, "product_error": 0.0}
    return {"product_cosine": cosine.item(), "product_error": ((found - exact).norm() / size).item()}


def _no_direction(weights: dict[str, Tensor], vector: Sequence[Tensor], norm: float) -> FastdartsError:
    """Why a vector of this norm cannot be followed."""
    if norm == 0:
        return FastdartsError(
            "the gradient of the validation loss at the unrolled weights has norm 0: expected a direction for the "
            "finite difference; check that the loss depends on the weights"
        )
    strange = (name for name, v in zip(weights, vector, strict=True) if not v.isfinite().all())
    return NotFinite(f"gradient of {next(strange, 'all weights')} at the unrolled weights", norm, "validation")
