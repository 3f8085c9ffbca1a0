r"""Layer alignment: do all cells ask for the same change of the weights that they share? And the regulariser that makes
them (Movahedi et al. 2023, "Λ-DARTS: Mitigating Performance Collapse by Harmonizing Operation Selection among Cells",
ICLR).

With :math:`g_l` the gradient of a loss in the mixing weights of cell l, as if they were its own, and N cells,

.. math:: \Lambda = \frac{2}{N(N-1)} \sum_{i<j} \frac{g_i \cdot g_j}{\|g_i\|\,\|g_j\|}

is 1 where all agree. The signed variant divides by :math:`|g_i| \cdot |g_j|`, absolute values entry by entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.nn.fusion.kinks import Kinks
from fastdarts.nn.random_state import same_random_numbers
from fastdarts.nn.statistics import batch_statistics
from fastdarts.nn.supernet import Supernet
from fastdarts.policies.passes import Batch, Gradients, Passes, filled, gradients_of, without_autocast
from fastdarts.ranks import share as share_of
from fastdarts.ranks import summed, weighed


def correlation(gradients: Sequence[Tensor], signed: bool = False) -> Tensor:
    """Λ of the gradients of at least two cells, all of one shape, as a scalar; a gradient of zero agrees with none."""
    rows = torch.stack([g.flatten() for g in gradients])
    if signed:
        scale = rows.abs() @ rows.abs().T
    else:
        norms = torch.linalg.vector_norm(rows, dim=1)
        scale = norms[:, None] * norms
    tiny = torch.finfo(rows.dtype).tiny
    pairs = len(rows) * (len(rows) - 1) / 2
    return (rows @ rows.T / scale.clamp_min(tiny)).triu(1).sum() / pairs


def directions(gradients: Sequence[Tensor], signed: bool = False) -> list[Tensor]:
    """The gradient of :func:`correlation` in each of ``gradients``."""
    with torch.enable_grad():
        leaves = [g.detach().requires_grad_() for g in gradients]
        return list(torch.autograd.grad(correlation(leaves, signed), leaves))


def aligned_cells(model: Supernet) -> list[int]:
    """The places of the cells that are compared: those of the first kind, the normal ones where there are two kinds.

    Raises :class:`FastdartsError` if there are fewer than two.
    """
    kind = next(iter(model.primitives))
    places = [place for place, own in enumerate(model.cell_kinds()) if own == kind]
    if len(places) < 2:
        raise FastdartsError(
            f"layer alignment compares {kind} cells, but the supernet has {len(places)}: expected two or more; raise "
            "--layers"
        )
    return places


@dataclass(frozen=True)
class Alignment:
    r"""Adds the gradient of :math:`-\lambda\Lambda` to that of the training loss.

    With :math:`u_l = \partial\Lambda/\partial g_l` and p the mixing weights,
    :math:`-\nabla_w\Lambda = (\nabla_w L(p - \epsilon u) - \nabla_w L(p + \epsilon u)) / (2\epsilon)`, up to
    O(ε²), with :math:`\epsilon` = ``radius`` / ||u||, all u_l together. The alphas do not move.

    The two passes draw the random numbers of the first one again, and leave running statistics alone. They keep the
    types of the weights, whatever torch.autocast says.

    A ReLU that is on different sides in the two passes adds an error that does not fall with ε. At the published
    radius this error is larger than the true gradient (docs/second-order.md). With ``keep_kinks`` both passes keep the
    kinks of the first pass (:class:`fastdarts.nn.fusion.kinks.Kinks`), and there is no such error. The first pass is
    then in the types of the weights, too.

    Args:
        strength: λ.
        radius: of the finite difference.
        signed: whether the signed variant is regularised.
        keep_kinks: whether both passes decide at ReLUs and max pools as the first one did; published: no.
    """

    strength: float = 0.125
    radius: float = 1e-4
    signed: bool = False
    keep_kinks: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.radius < float("inf"):
            raise FastdartsError(f"the radius of the finite difference is {self.radius}: expected a number above 0")

    def backward(
        self, model: Supernet, batch: Batch, weights: Sequence[Tensor], share: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Set ``grad`` of ``weights`` to the gradient of the regularised loss; ``share`` of the strength counts.

        Returns loss and logits, detached. Where no direction changes Λ, in particular where it is 1, nothing is added.
        Of several ranks, each sets what adds up to the gradient; the loss is that of all, the logits are its own.
        """
        x, y = batch
        mine = share_of(len(x))
        places = aligned_cells(model)
        cells = [w.detach() for w in model.cell_weights()]
        own = [cells[place].clone().requires_grad_() for place in places]
        kinks = Kinks() if self.keep_kinks else None
        with (
            model.with_cell_weights(_put(cells, places, own)),
            kinks.note() if kinks else same_random_numbers(x.device),
        ):
            logits = model(x)
            loss = weighed(model._criterion(logits, y), mine)
            gradients = gradients_of(loss, [*weights, *own])
        for w, g in zip(weights, gradients, strict=False):
            w.grad = g
        loss, *of_cells = summed([loss.detach(), *filled(gradients[len(weights) :], own)])
        u = directions([g.double() for g in of_cells], self.signed)
        norm = torch.linalg.vector_norm(torch.stack(u)).item()
        epsilon = self.radius / norm if 0 < norm < float("inf") else 0.0

        def beside(sign: int) -> Gradients:
            shifted = [(p.detach().double() + sign * epsilon * v).to(p.dtype) for p, v in zip(own, u, strict=True)]
            kept = kinks.keep() if kinks else nullcontext()
            with without_autocast(x), model.with_cell_weights(_put(cells, places, shifted)), kept:
                loss = weighed(Passes(model).loss(batch, live=False), mine)
                return gradients_of(loss, weights)

        with same_random_numbers(x.device):
            below = beside(-1) if epsilon else ()
        # Without a direction it only draws the random numbers that are due; a pass with kept kinks draws none.
        above = beside(1) if epsilon or not kinks else ()
        for w, f, b in zip(weights, below, above, strict=False):
            if f is not None and b is not None:
                w.grad.add_(f - b, alpha=self.strength * share / (2 * epsilon))
        return loss, logits.detach()


def alignment(model: Supernet, batches: Iterable[Batch]) -> dict[str, float]:
    """``alignment`` and ``alignment_signed``, both means over the batches (pairs of images and labels); BatchNorms use
    the statistics of the batch, and nothing is changed."""
    places, sums, count = aligned_cells(model), [0.0, 0.0], 0
    with batch_statistics(model):
        for x, y in batches:
            cells = [w.detach() for w in model.cell_weights()]
            own = [cells[place].clone().requires_grad_() for place in places]
            with model.with_cell_weights(_put(cells, places, own)), same_random_numbers(x.device):
                gradients = summed(torch.autograd.grad(weighed(model._loss(x, y), share_of(len(x))), own))
            sums = [
                total + correlation([g.double() for g in gradients], signed).item()
                for total, signed in zip(sums, (False, True), strict=True)
            ]
            count += 1
    return {"alignment": sums[0] / count, "alignment_signed": sums[1] / count}


def _put(cells: Sequence[Tensor], places: Sequence[int], own: Sequence[Tensor]) -> list[Tensor]:
    cells = list(cells)
    for place, tensor in zip(places, own, strict=True):
        cells[place] = tensor
    return cells
