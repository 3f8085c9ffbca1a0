"""A loss or gradient that is not finite ends the work, with its name."""

from __future__ import annotations

import math

import torch.nn as nn
from torch import Tensor

from fastdarts.errors import NotFinite
from fastdarts.nn.optim import SGD


def finite(loss: Tensor, batch: str, epoch: int, step: int) -> float:
    """The value of ``loss`` on the ``batch`` named; raises :class:`NotFinite` if it is NaN or infinite."""
    value = loss.item()
    if not math.isfinite(value):
        raise NotFinite(f"{batch} loss", value, batch, f"epoch {epoch}, step {step}")
    return value


def check_gradients(model: nn.Module, optimizer: SGD, epoch: int, step: int) -> None:
    """Raise :class:`NotFinite` with the name of the first gradient that holds NaN or an infinity, before any update."""
    if not math.isfinite(optimizer.norm().item()):
        gradients = {id(w): g for w, g in optimizer.gathered()}
        for name, w in model.named_parameters():
            gradient = gradients[id(w)]
            if not gradient.isfinite().all():
                value = gradient[~gradient.isfinite()][0].item()
                raise NotFinite(f"gradient of {name}", value, "training", f"epoch {epoch}, step {step}")
