"""Passes of a model at its own or at other weights, and gradients of their losses.

Under torch.autocast the gradients of a loss are those of its types. Whatever is subtracted or differentiated twice
keeps the types of the weights (:func:`without_autocast`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.nn.exchange import holding, parameters_of
from fastdarts.nn.finite import Readings
from fastdarts.nn.fusion.chain import one_by_one
from fastdarts.nn.fusion.kinks import Kinks
from fastdarts.nn.fusion.tracking import standing_still
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


def differentiable(passes: Passes, batch: Batch) -> tuple[dict[str, Tensor], Gradients]:
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


def in_one(gradients: Gradients) -> Tensor:
    """All of them in one vector of double precision, without those that are None."""
    return torch.cat([g.detach().double().flatten() for g in gradients if g is not None])
