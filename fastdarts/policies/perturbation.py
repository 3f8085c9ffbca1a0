"""Perturbations of SDARTS (Chen and Hsieh 2020, "Stabilizing Differentiable Architecture Search via Perturbation-based
Regularization", ICML): the weights learn with mixing weights that are moved by at most ε."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from fastdarts.policies.bilevel import Perturbation, TableLoss
from fastdarts.policies.noise import Drawing, Noise


def onto_shares(table: Tensor) -> Tensor:
    """``table`` [E, K] with rows of shares: each number brought to 0 to 1, then each row divided by its sum. A row that
    this makes all 0 becomes the one-hot of its largest number; ties keep the lower index."""
    clipped = table.clamp(0, 1)
    empty = clipped.sum(1, keepdim=True) == 0
    largest = torch.zeros_like(table).scatter_(1, table.argmax(1, keepdim=True), 1.0)
    clipped = torch.where(empty, largest, clipped)
    return clipped / clipped.sum(1, keepdim=True)


def uniform(alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers from -1 to 1 in the shape of ``alpha``."""
    return 2 * torch.rand(alpha.shape, generator=generator, dtype=alpha.dtype, device="cpu") - 1


class Growing(Drawing, Perturbation):
    """What both perturbations share: noise, and an ε that grows by equal steps, from ``start`` in the first epoch
    towards ``end``, which would be that of the epoch after the last."""

    def __init__(self, start: float, end: float, seed: int):
        self._ends, self.epsilon = (start, end), start
        self._noise = Noise(seed, uniform)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Set the ε of this epoch."""
        start, end = self._ends
        self.epsilon = start + (end - start) * epoch / epochs

    def perturbed(self, strengths: Sequence[Tensor], loss: TableLoss) -> list[Tensor]:
        """See :class:`fastdarts.policies.bilevel.Perturbation`."""
        noise = [self.epsilon * self._noise.of(kind, table.device) for kind, table in enumerate(strengths)]
        moved = [onto_shares(table + own) for table, own in zip(strengths, noise, strict=True)]
        return self.improved(strengths, moved, loss)

    @abstractmethod
    def improved(self, strengths: Sequence[Tensor], moved: list[Tensor], loss: TableLoss) -> list[Tensor]:
        """The tables to learn with, from those that were moved at random."""


class RandomSmoothing(Growing):
    """SDARTS-RS: each mixing weight is moved by a number drawn from -ε to ε, and rows become shares again."""

    def improved(self, strengths: Sequence[Tensor], moved: list[Tensor], loss: TableLoss) -> list[Tensor]:
        """Those."""
        return moved


class Adversarial(Growing):
    """SDARTS-ADV: ``steps`` steps of sign gradient ascent on the training loss of the batch, of size 2 ε / ``steps``,
    from a random start. After each, numbers are brought to within ε of where they began, and rows become shares again.
    Where that does not raise the loss, nothing is moved.

    Its passes are in eval mode and take no gradient of any weight.
    """

    def __init__(self, start: float, end: float, seed: int, steps: int):
        super().__init__(start, end, seed)
        self.steps = steps

    def improved(self, strengths: Sequence[Tensor], moved: list[Tensor], loss: TableLoss) -> list[Tensor]:
        """The tables after the last step."""
        before, _ = loss(strengths)
        size = 2 * self.epsilon / self.steps
        for _ in range(self.steps):
            _, gradients = loss(moved)
            moved = [
                onto_shares((table + size * g.sign()).clamp(own - self.epsilon, own + self.epsilon))
                for table, g, own in zip(moved, gradients, strengths, strict=True)
            ]
        after, _ = loss(moved)
        return [torch.where(before > after, own, table) for own, table in zip(strengths, moved, strict=True)]
