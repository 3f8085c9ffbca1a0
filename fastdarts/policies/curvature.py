"""The curvature of the loss in the alphas: the largest eigenvalues of its Hessian, without building it.

RobustDARTS (Zela et al., ICLR 2020) watches the largest eigenvalue of ∇²_α L_val(w, α), which it gets from the full
Hessian, one backward pass per entry of α. Here Lanczos, with full reorthogonalisation, multiplies with it about a dozen
times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.nn.fusion.chain import one_by_one
from fastdarts.nn.fusion.kinks import Kinks
from fastdarts.policies.passes import Batch, Passes, filled, pull_back, without_autocast
from fastdarts.ranks import share, summed, weighed


@dataclass(frozen=True)
class Spectrum:
    """The largest eigenvalues of a Hessian in the alphas.

    Attributes:
        values: [k] in double precision, largest first (by value, not by magnitude).
        vectors: [k, n] of norm 1, over the entries of ``arch_parameters()`` in their order.
        errors: [k] how far off each value may be, by its residual and its distance to the next.
        products: Hessian-vector products that it took.
        gradients: differentiations of the loss or of its gradient that it took.
    """

    values: Tensor
    vectors: Tensor
    errors: Tensor
    products: int
    gradients: int


def hessian_eigenvalues(
    model: nn.Module,
    input: Tensor,
    target: Tensor,
    k: int = 1,
    *,
    radius: float | None = None,
    keep_kinks: bool = False,
    tolerance: float = 1e-2,
    products: int | None = None,
    seed: int = 0,
) -> Spectrum:
    r"""The k largest eigenvalues of :math:`\nabla^2_\alpha L(w, \alpha)` on a batch, by the Lanczos method.

    Products with the Hessian come from double backward, exact, through the reference of the fused ops and with several
    times the memory of an eager network; or, with ``radius``, from central differences of alpha gradients,

    .. math:: (\nabla_\alpha L(w, \alpha + r u) - \nabla_\alpha L(w, \alpha - r u)) / 2r, \qquad \|u\|_2 = 1

    on the fused path without weight gradients and with its memory. Exact products see no kinks of ReLU and max pooling;
    nor do differences with ``keep_kinks``, which take those of the loss at alpha and agree with them up to O(r²).
    Without, they are right only in float64 and with a radius that crosses hardly any, such as 1e-8
    (docs/second-order.md).

    The model stays as it is: weights, alphas, gradients, running statistics, random state. Nothing of this is computed
    in the types of torch.autocast. BatchNorm normalises as the mode of the model says. A weight decay of the alphas
    would add itself to all values. Alphas that are frozen or idle have rows and columns of zeros.

    Args:
        model: has ``_loss(input, target)`` and ``arch_parameters()``.
        input: images [N, C, H, W].
        target: labels [N].
        k: how many eigenvalues, 1 to n, the number of entries of the alphas.
        radius: None for exact products, or r.
        keep_kinks: with ``radius``, decide where ReLUs pass and where maxima lie as the loss at alpha does.
        tolerance: stop when every value is off by at most this share of its size (:attr:`Spectrum.errors`).
        products: stop after so many products at the latest; n by default.
        seed: of the start vector.

    Raises :class:`FastdartsError` if a number makes no sense or the loss does not depend on the alphas, and
    :class:`NotFinite` if a product is not finite.
    """
    passes = Passes(model, side_effects=False)
    n = sum(a.numel() for a in passes.alphas)
    for name, value, most in (("k", k, n), ("products", n if products is None else products, n)):
        if not 1 <= value <= most:
            raise FastdartsError(f"{name} is {value}: expected 1 to {most}, the number of entries of the alphas")
    if not tolerance > 0 or not (radius is None or 0 < radius < float("inf")):
        raise FastdartsError(f"got tolerance={tolerance} and radius={radius}: expected numbers above 0")
    if keep_kinks and radius is None:
        raise FastdartsError("keep_kinks goes with a radius: exact products have no kinks, leave it out")
    batch = input, target
    multiply = Exact(passes, batch) if radius is None else Differences(passes, batch, radius, keep_kinks)
    values, vectors, errors, count = lanczos(multiply, n, k, tolerance, products or n, seed)
    return Spectrum(values, vectors, errors, count, multiply.gradients)


def lanczos(
    multiply: Callable[[Tensor], Tensor], n: int, k: int, tolerance: float, products: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Values [k], vectors [k, n], errors [k] of the largest eigenvalues of a symmetric n×n matrix, and the products.

    ``multiply`` takes and gives [n] in double precision on the CPU. An error is the residual's norm ρ or, where
    smaller, ρ² over the distance to the next value (Parlett, The Symmetric Eigenvalue Problem, theorem 11.7.1).
    """
    generator = torch.Generator().manual_seed(seed)
    basis, images = torch.empty(0, n, dtype=torch.float64), torch.empty(0, n, dtype=torch.float64)
    candidate = torch.randn(n, dtype=torch.float64, generator=generator)
    while True:
        q = _orthogonal(candidate, basis)
        if q is None:  # the products stay in the span: a fresh direction finds what it has missed
            q = _orthogonal(torch.randn(n, dtype=torch.float64, generator=generator), basis)
        basis, images = torch.cat([basis, q[None]]), torch.cat([images, multiply(q)[None]])
        candidate, m = images[-1], len(basis)
        # The projected matrix as a whole, not its three diagonals: it holds where products carry noise, too.
        projected = basis @ images.T
        theta, s = torch.linalg.eigh((projected + projected.T) / 2)
        theta, s = theta.flip(0), s.flip(1)
        if m < min(k + 1, n):
            continue
        vectors = s.T[:k] @ basis
        residuals = (s.T[:k] @ images - theta[:k, None] * vectors).norm(dim=1)
        gaps = torch.stack([(theta - theta[i]).abs()[torch.arange(m) != i].min() for i in range(k)]) if m > 1 else theta
        errors = torch.minimum(residuals, residuals**2 / gaps.clamp_min(torch.finfo(torch.float64).tiny))
        if m >= products or (errors <= tolerance * theta[:k].abs()).all():
            return theta[:k], vectors, errors, m


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor | None:
    """What of ``vector`` is orthogonal to the basis, with norm 1; None if nothing is."""
    rest = vector
    for _ in range(2):  # twice is enough (Parlett, section 6.9)
        rest = rest - basis.T @ (basis @ rest)
    norm = rest.norm()
    return rest / norm if norm > 1e-10 * vector.norm() else None


class Exact:
    """Products by double backward; the graph of the gradient is built once."""

    def __init__(self, passes: Passes, batch: Batch):
        self.alphas = passes.alphas
        self.slopes = _gradient(passes, batch, create_graph=True)
        self.gradients = 1

    def __call__(self, u: Tensor) -> Tensor:
        rows = pull_back(self.slopes, _split(u, self.alphas), self.alphas)
        self.gradients += 1
        return _joined(filled(rows, self.alphas))


class Differences:
    """Products by central differences of alpha gradients, with kinks of their own or those of the loss at alpha."""

    def __init__(self, passes: Passes, batch: Batch, radius: float, keep_kinks: bool = False):
        self.passes, self.batch, self.radius = passes, batch, radius
        self.gradients, self.kinks = 0, Kinks() if keep_kinks else None
        if self.kinks:
            with self.kinks.note():
                passes.loss(batch)

    def __call__(self, u: Tensor) -> Tensor:
        above, below = (self._at(sign * self.radius * u) for sign in (1, -1))
        return (above - below) / (2 * self.radius)

    def _at(self, shift: Tensor) -> Tensor:
        """The gradient at alpha + shift; alphas are no parameters of the model, so they are moved and put back."""
        alphas = [a for a in self.passes.alphas if a.requires_grad]
        moves = [
            part
            for part, a in zip(_split(shift, self.passes.alphas), self.passes.alphas, strict=True)
            if a.requires_grad
        ]
        kept = [a.detach().clone() for a in alphas]
        self.gradients += 1
        try:
            with torch.no_grad():
                torch._foreach_add_(alphas, moves)
            return _joined(summed(_gradient(self.passes, self.batch, kinks=self.kinks)))
        finally:
            with torch.no_grad():
                torch._foreach_copy_(alphas, kept)


def _gradient(passes: Passes, batch: Batch, create_graph: bool = False, kinks: Kinks | None = None) -> list[Tensor]:
    """That of the alphas, zero for idle and frozen ones; of several ranks, what adds up to it."""
    with without_autocast(batch[0]):
        with kinks.keep() if kinks else one_by_one() if create_graph else nullcontext():
            loss = passes.loss(batch)
        loss = weighed(loss, share(len(batch[0])))
        gradients = passes.gradients(loss, create_graph=create_graph)[0]
    return filled(gradients, passes.alphas)


def _split(u: Tensor, alphas: list[Tensor]) -> list[Tensor]:
    """The entries of [n] in the shapes, types and places of the alphas."""
    return [part.to(a).view_as(a) for part, a in zip(u.split([a.numel() for a in alphas]), alphas, strict=True)]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    u = torch.cat([t.detach().flatten() for t in tensors]).double().cpu()
    if not u.isfinite().all():
        raise NotFinite("curvature in the alphas", u[~u.isfinite()][0].item(), "given")
    return u
