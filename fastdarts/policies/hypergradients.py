"""Hypergradients: how the validation loss moves with the alphas, as strategies that an Architect can exchange.

With L_t and L_v the training and the validation loss, ξ the learning rate of the weights w, m their momentum buffers, μ
the momentum and λ the weight decay:

    FirstOrder   ∇_α L_v(w, α)
    Unrolled     ∇_α L_v(w', α) − ξ ∇²_{αw} L_t(w, α) v    with v = ∇_{w'} L_v(w', α), w' = w − ξ(μ m + ∇_w L_t + λ w)
                 and the product a central difference along v, with kinks of its own or those of w
    Exact        the same with the product by double backward
    Neumann      ∇_α L_v(w, α) − ξ ∇²_{αw} L_t(w, α) Σ_{k<K} (I − ξ(∇²_w L_t + λ))^k ∇_w L_v(w, α)

Under torch.autocast the gradients of a loss are those of its types. Whatever is subtracted or differentiated twice
keeps the types of the weights (:func:`without_autocast`). These are both perturbed passes of Unrolled, the training
pass of Exact and of Neumann, and their products. The rounding error of a bfloat16 gradient is larger than the
difference of two such gradients.

Sources: DARTS (Liu et al., ICLR 2019), equations 7 and 8; Optimizing millions of hyperparameters by implicit
differentiation (Lorraine et al., AISTATS 2020), section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.functional import flat_hypergradient, flat_norm, flat_perturb, flat_rates, flat_unroll
from fastdarts.nn.exchange import holding, parameters_of
from fastdarts.nn.finite import Readings
from fastdarts.nn.fusion.chain import one_by_one
from fastdarts.nn.fusion.kinks import Kinks
from fastdarts.nn.fusion.tracking import standing_still
from fastdarts.nn.optim import SGD, Flat
from fastdarts.nn.random_state import same_random_numbers
from fastdarts.ranks import counts, share, summed, weighed

Batch = tuple[Tensor, Tensor]
Gradients = list[Tensor | None]  # one per tensor of arch_parameters(), None for alphas that no cell uses


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Around passes and products, forward and backward, that have to keep the types of the weights; ``tensor`` says on
    which device."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if device in ("cpu", "cuda") else nullcontext()


class Passes:
    """The losses of a model at its own or at other weights, and their gradients.

    Of several ranks (:mod:`fastdarts.ranks`) each passes its part of a batch.

    Args:
        model: has ``_loss(input, target)`` and ``arch_parameters()``. If its alphas are Parameters, they are not
            counted among the weights.
        side_effects: whether a pass moves BatchNorm running statistics and draws from the random state. Otherwise both
            stay as they are, and every pass draws the same numbers.
        accumulate: how many parts a batch is passed in by :meth:`differentiate`.
        readings: where numbers that must be finite are noted; by default they are looked at where they are found.
    """

    def __init__(
        self, model: nn.Module, side_effects: bool = True, accumulate: int = 1, readings: Readings | None = None
    ):
        self.model, self.side_effects, self.accumulate = model, side_effects, accumulate
        self.readings = Readings(at_once=True) if readings is None else readings

    @property
    def alphas(self) -> list[Tensor]:
        return list(self.model.arch_parameters())

    def weights(self) -> dict[str, Tensor]:
        """What is trained, by name: the parameters that require a gradient, but for alphas."""
        alphas = {id(a) for a in self.alphas}
        named = parameters_of(self.model)
        return {name: p for name, p in named.items() if p.requires_grad and id(p) not in alphas}

    def loss(self, batch: Batch, weights: dict[str, Tensor] | None = None, live: bool = True) -> Tensor:
        """The loss on a batch (of this rank's part), at ``weights`` if given; running statistics stay unless
        ``live``."""
        moving = nullcontext({}) if live and self.side_effects else standing_still(self.model)
        with self._random_state(batch[0].device), moving as copies, holding(self.model, {**(weights or {}), **copies}):
            return self.model._loss(*batch)

    def _random_state(self, device: torch.device) -> AbstractContextManager[None]:
        return nullcontext() if self.side_effects else same_random_numbers(device)

    def differentiate(
        self,
        batch: Batch,
        weights: dict[str, Tensor] | None = None,
        live: bool = True,
        alphas: bool = True,
        wanted: Sequence[Tensor] = (),
        note: list[Kinks] | None = None,
        keep: Sequence[Kinks] | None = None,
    ) -> tuple[Tensor, Gradients, Gradients]:
        """The loss as :meth:`loss` gives it, detached, and its gradients: of the alphas, if asked for, and of
        ``wanted``; all of them of the whole batch, on every rank. Those that the loss does not depend on are None. The
        kinks of each part are added to ``note``, or kept as noted in ``keep``.

        With ``accumulate`` the sums over parts of the batch, weighted by their sizes. Without BatchNorm they are those
        of the whole batch; BatchNorm normalises each part by itself, and running statistics move once for each.
        """
        total, found = None, None
        for place, (part, own) in enumerate(microbatches(batch, self.accumulate)):
            deciding = nullcontext()
            if note is not None:
                note.append(Kinks())
                deciding = note[-1].note()
            elif keep is not None:
                deciding = keep[place].keep()
            with deciding:
                loss = self.loss(part, weights, live)
            loss = weighed(loss, own)
            if alphas:
                of_alphas, of_weights = self.gradients(loss, wanted)
            else:
                of_alphas, of_weights = [], gradients_of(loss, wanted)
            gradients, loss = [*of_alphas, *of_weights], loss.detach()
            if found is None:
                total, found = loss, gradients
            else:
                total = total + loss
                found = [b if a is None else a if b is None else a + b for a, b in zip(found, gradients, strict=True)]
        count = len(found) - len(wanted)
        total, *found = summed([total, *found])
        return total, found[:count], found[count:]

    def gradients(
        self, loss: Tensor, weights: Iterable[Tensor] = (), create_graph: bool = False
    ) -> tuple[Gradients, Gradients]:
        """Gradients of the alphas, and of ``weights``, as this rank has them; ``create_graph`` lets them be
        differentiated again."""
        alphas = self.alphas
        gradients = gradients_of(loss, [*alphas, *weights], create_graph=create_graph)
        of_alphas, of_weights = gradients[: len(alphas)], gradients[len(alphas) :]
        if any(g is None for g in of_alphas):
            self._check_alphas(of_alphas)
        return of_alphas, of_weights

    def _check_alphas(self, gradients: Gradients) -> None:
        """Raise :class:`FastdartsError` if the loss depends on no alpha, or on a tensor that took the place of one."""
        if all(g is None for g in gradients):
            raise FastdartsError(
                "the loss depends on none of the tensors in arch_parameters(): expected the alphas the network uses; "
                "if you replaced model.alphas_normal, put the new tensor into model.arch_parameters() too"
            )
        known = {id(a) for a in self.alphas}
        held = {**vars(self.model), **self.model._parameters}
        others = {
            name: t
            for name, t in held.items()
            if "alpha" in name and isinstance(t, Tensor) and t.requires_grad and id(t) not in known
        }
        for place, (alpha, gradient) in enumerate(zip(self.alphas, gradients, strict=True)):
            named = next((name for name, t in others.items() if t.shape == alpha.shape), None)
            if gradient is None and alpha.requires_grad and named is not None:
                raise FastdartsError(
                    f"the loss does not depend on arch_parameters()[{place}], and model.{named} of the same shape is "
                    f"not among them: set arch_parameters()[{place}] = model.{named}"
                )


def gradients_of(
    output: Tensor | Sequence[Tensor],
    inputs: Sequence[Tensor],
    vectors: Sequence[Tensor] | None = None,
    **options: bool,
) -> Gradients:
    """What torch.autograd.grad gives, with None for inputs that are frozen or that no output depends on."""
    outputs = [output] if isinstance(output, Tensor) else output
    some, found = [t for t in inputs if t.requires_grad], iter(())
    if some and outputs and outputs[0].requires_grad:
        found = iter(torch.autograd.grad(outputs, some, vectors, allow_unused=True, **options))
    return [next(found, None) if t.requires_grad else None for t in inputs]


def microbatches(batch: Batch, count: int) -> Iterator[tuple[Batch, float]]:
    """``batch`` in ``count`` parts, or fewer if they had less than two images, and the share of each in it; of several
    ranks as many parts on each, and shares in the batch of all."""
    if count == 1:
        yield batch, share(len(batch[0]))
        return
    images = counts(len(batch[0]))
    cut = (t.tensor_split(max(1, min(count, min(images) // 2))) for t in batch)
    for x, y in zip(*cut, strict=True):
        yield (x, y), len(x) / sum(images)


def _moving(weights: dict[str, Tensor], gradients: Gradients) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The weights that have a gradient, and these gradients: SGD leaves the others where they are."""
    pairs = [(name, w, g) for (name, w), g in zip(weights.items(), gradients, strict=True) if g is not None]
    return {name: w for name, w, _ in pairs}, [g for *_, g in pairs]


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
        weights, gradients = _moving(weights, gradients)
        loss, direct, vector, rate = _look_ahead(passes, valid, weights, gradients, descent)
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
        weights, gradients = _moving(*_differentiable(passes, train))
        loss, direct, vector, rate = _look_ahead(passes, valid, weights, summed(gradients), descent)
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
        trained, slopes = _differentiable(passes, train)
        vector = [v for v, g in zip(filled(vector, trained.values()), slopes, strict=True) if g is not None]
        weights, gradients = _moving(trained, slopes)
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
    return pull_back(_differentiable(passes, batch)[1], vector, passes.alphas)


def difference_error(
    passes: Passes, train: Batch, valid: Batch, descent: Descent, radius: float = 1e-2, keep_kinks: bool = False
) -> dict[str, float]:
    """How far the finite-difference product of an unrolled step is from the exact one.

    Returns ``product_cosine``, the cosine of the two over all alphas, and ``product_error``, ||difference - exact|| /
    ||exact||. Nothing is changed.
    """
    descent.check()
    passes = Passes(passes.model, side_effects=False)
    weights, gradients = _moving(*_differentiable(passes, train))
    if not weights:
        raise FastdartsError(
            "no weight is trained: expected some that require a gradient, as the product is along them"
        )
    _, _, vector, _ = _look_ahead(passes, valid, weights, summed(gradients), descent)
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


def in_one(gradients: Gradients) -> Tensor:
    """All of them in one vector of double precision, without those that are None."""
    return torch.cat([g.detach().double().flatten() for g in gradients if g is not None])


def _look_ahead(
    passes: Passes, valid: Batch, weights: dict[str, Tensor], gradients: Sequence[Tensor], descent: Descent
) -> tuple[Tensor, Gradients, list[Tensor], Tensor]:
    """The validation loss at w', detached, its gradients in the alphas and in w', and what w' moves by the training
    gradient: eta, less where that is clipped."""
    gradients, factor = descent.clipped(gradients)
    ahead = descent.ahead(weights, gradients)
    # The statistics of the live network do not see the pass at w'.
    loss, direct, vector = passes.differentiate(valid, ahead, live=False, wanted=list(ahead.values()))
    return loss, direct, descent.clipped(filled(vector, weights.values()))[0], descent.on(loss.device)[0] * factor


def _no_direction(weights: dict[str, Tensor], vector: Sequence[Tensor], norm: float) -> FastdartsError:
    """Why a vector of this norm cannot be followed."""
    if norm == 0:
        return FastdartsError(
            "the gradient of the validation loss at the unrolled weights has norm 0: expected a direction for the "
            "finite difference; check that the loss depends on the weights"
        )
    strange = (name for name, v in zip(weights, vector, strict=True) if not v.isfinite().all())
    return NotFinite(f"gradient of {next(strange, 'all weights')} at the unrolled weights", norm, "validation")


def _differentiable(passes: Passes, batch: Batch) -> tuple[dict[str, Tensor], Gradients]:
    """The weights and their gradients, ready to be differentiated again; of several ranks, what adds up to them."""
    weights, ((part, own),) = passes.weights(), microbatches(batch, 1)
    with without_autocast(batch[0]):
        with one_by_one():
            loss = weighed(passes.loss(part), own)
        return weights, gradients_of(loss, list(weights.values()), create_graph=True)


def filled(gradients: Gradients, like: Iterable[Tensor]) -> list[Tensor]:
    """``gradients``, with zeros for None."""
    return [torch.zeros_like(t) if g is None else g for g, t in zip(gradients, like, strict=True)]


def pull_back(gradients: Gradients, vector: Sequence[Tensor], inputs: Sequence[Tensor]) -> Gradients:
    """The gradient of <gradients, vector> in ``inputs``; the graph stays.

    Of several ranks the sum of what each finds: it is linear in the gradients, and ``vector`` the same for all.
    """
    pairs = [(g, v) for g, v in zip(gradients, vector, strict=True) if g is not None and g.requires_grad]
    with without_autocast(inputs[0]):
        return summed(gradients_of([g for g, _ in pairs], inputs, [v for _, v in pairs], retain_graph=True))


def _less(direct: Gradients, product: Gradients, eta: Tensor | float) -> Gradients:
    """direct - eta * product, where None counts as zero."""
    pairs = zip(direct, product, strict=True)
    return [d if p is None else -eta * p if d is None else d - eta * p for d, p in pairs]
