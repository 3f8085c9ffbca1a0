"""Loss and error of a network on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastdarts.nn.random_state import same_random_numbers
from fastdarts.ranks import share, total


@dataclass
class Meter:
    """Mean loss and error rate over the images seen."""

    loss: float = 0.0
    wrong: int = 0
    count: int = 0

    @property
    def mean(self) -> float:
        """The mean loss so far."""
        return self.loss / self.count

    def update(self, loss: float, logits: Tensor, target: Tensor) -> None:
        """Count a batch: its mean loss, logits [N, classes] and labels [N]; of several ranks, the loss of all and the
        logits of this one."""
        self.add(loss, wrong(logits, target).tolist(), len(target))

    def add(self, loss: float, counted: Sequence[float], images: int) -> None:
        """The same for a batch of so many images, given what :func:`wrong` has counted."""
        mistakes, count = map(int, total(*counted, images))
        self.loss += loss * count
        self.wrong += mistakes
        self.count += count

    def summary(self, prefix: str, at: str = "") -> dict[str, float]:
        """``{prefix}_loss`` and ``{prefix}_error`` (percent)."""
        return {f"{prefix}_loss": self.loss / self.count, f"{prefix}_error": 100 * self.wrong / self.count}


def wrong(logits: Tensor, target: Tensor) -> Tensor:
    """How many images are taken for another class, [1]; where ``target`` has shares [N, classes], than the largest."""
    target = target.argmax(1) if target.is_floating_point() else target
    return (logits.argmax(1) != target).sum().reshape(1)


@torch.no_grad()
def measure(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    prefix: str,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    meter: Any = None,
    judge: Callable[[Tensor, Tensor], Sequence[float]] | None = None,
) -> dict[str, float]:
    """Cross-entropy and error (percent) of ``model`` in evaluation mode, over the batches of all ranks, or what
    another ``criterion`` and ``meter`` say; the model is left in training mode, and the random state as it was.

    ``judge`` passes a batch through the model in its own way, and gives the mean loss and what :func:`wrong` counts.
    """
    meter = Meter() if meter is None else meter
    model.eval()
    with same_random_numbers(device):
        for x, y in batches:
            if judge is not None:
                loss, *mistakes = judge(x, y)
                meter.add(*total(share(len(y)) * loss), mistakes, len(y))
                continue
            x, y = x.to(device), y.to(device)
            logits = model(x)
            logits = logits[0] if isinstance(logits, tuple) else logits
            (loss,) = total(share(len(y)) * criterion(logits, y).item())
            meter.update(loss, logits, y)
    model.train()
    return meter.summary(prefix)
