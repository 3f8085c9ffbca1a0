"""The auxiliary skip connection of DARTS− (Chu et al. 2021, "DARTS−: Robustly Stepping out of Performance Collapse
Without Indicators", ICLR)."""

from __future__ import annotations

import math

from fastdarts.nn.supernet import Supernet
from fastdarts.policies.bilevel import Single
from fastdarts.spaces import Space


def decayed(start: float, decay: str, epoch: int, epochs: int) -> float:
    r"""The weight β of the auxiliary skip connection in ``epoch``, counted from 0.

    With E ``epochs`` and :math:`\beta_0` = ``start``: linear is :math:`\beta_0 (E - e) / E`, cosine
    :math:`\beta_0 (1 + \cos(\pi e / E)) / 2`, slow-cosine :math:`\beta_0 \cos(\pi e / 2E)`; constant stays.
    """
    done = epoch / epochs
    shares = {
        "linear": (epochs - epoch) / epochs,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "slow-cosine": math.cos(math.pi * done / 2),
        "constant": 1.0,
    }
    return start * shares[decay]


class AuxiliarySkip(Single):
    """One supernet whose edges all have one more skip connection, which has no alpha and is never derived.

    It takes part in every pass of the mixture, of weights and alphas, in training and in eval mode. At stride 2 it is a
    factorised reduction with weights of its own.

    Args:
        epochs, space: of the search.
        start, decay: its weight, see :func:`decayed`.
    """

    def __init__(self, epochs: int, space: Space, start: float, decay: str):
        super().__init__(epochs, space)
        self.epochs, self.start, self.decay = epochs, start, decay

    def build(self, model: Supernet) -> None:
        """Give the edges of a fresh supernet their skip connections."""
        model.extend("skip_connect", self.start)

    def start_epoch(self, model: Supernet, epoch: int) -> None:
        """Set their weight."""
        model.auxiliary_weight = decayed(self.start, self.decay, epoch, self.epochs)
