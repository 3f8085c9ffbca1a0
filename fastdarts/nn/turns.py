"""Networks whose parts are trained one after another."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class Turn(NamedTuple):
    """The part that is trained, and the epochs that it has: from ``first`` up to ``end``, without that one."""

    part: int
    first: int
    end: int


def turn_of(epoch: int, epochs: int, parts: int) -> Turn:
    """The turn of an epoch. ``epochs`` are divided into ``parts`` as equally as may be.

    >>> [turn_of(epoch, 5, 2).part for epoch in range(5)]
    [0, 0, 0, 1, 1]
    """
    starts = [-(-part * epochs // parts) for part in range(parts + 1)]
    part = max(part for part in range(parts) if starts[part] <= epoch)
    return Turn(part, starts[part], starts[part + 1])


def parts_of(network: nn.Module) -> int:
    """How many parts of a network are trained in turn; 1 for any that does not say."""
    return getattr(network, "parts_in_turn", 1)
