"""A loss or gradient that is not finite ends the work, with its name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import NotFinite
from fastdarts.nn.optim import SGD


class Readings:
    """Numbers of a pass that must be finite. They stay on the device, and whoever called the pass reads all of them at
    once; with ``at_once`` each is looked at where it is found, as a pass without a reader wants it."""

    def __init__(self, at_once: bool = False):
        self.at_once = at_once
        self._found: list[Tensor] = []

    def add(self, number: Tensor, check: Callable[[float], None]) -> None:
        """Note a number; ``check`` raises what is to be said about a wrong one."""
        if self.at_once:
            check(number.item())
        else:
            self._found.append(number)

    def numbers(self) -> Tensor:
        """All of them, in float64."""
        return torch.stack([number.detach().double() for number in self._found])


def finite(loss: float, batch: str, epoch: int, step: int) -> float:
    """``loss`` on the ``batch`` named; raises :class:`NotFinite` if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise NotFinite(f"{batch} loss", loss, batch, f"epoch {epoch}, step {step}")
    return loss


def check_step(loss: float, norm: float, model: nn.Module, optimizer: SGD, epoch: int, step: int) -> None:
    """Raise :class:`NotFinite` for a step of the weights whose loss, or norm of all gradients, is not finite, with the
    name of the first gradient that holds NaN or an infinity."""
    finite(loss, "training", epoch, step)
    if math.isfinite(norm):
        return
    at = f"epoch {epoch}, step {step}"
    gradients = {id(w): g for w, g in optimizer.gathered()}
    for name, w in model.named_parameters():
        gradient = gradients[id(w)]
        if not gradient.isfinite().all():
            raise NotFinite(f"gradient of {name}", gradient[~gradient.isfinite()][0].item(), "training", at)
    raise NotFinite("norm of all gradients", norm, "training", at)
