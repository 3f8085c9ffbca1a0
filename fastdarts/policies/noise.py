"""Noise that a method draws: the same on every device and on all ranks, and the same again after a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

FIRST = 2**31
"""Seeds of noise begin here, so that they are not those of the fresh weights."""


class Noise:
    """Tables that are drawn anew for every step, one for each kind of cell, by a generator of their own on the CPU.

    ``seed`` is that of the search; ``draw_one(alpha, generator)`` gives the table for an alpha [E, K], on the CPU.
    """

    def __init__(self, seed: int, draw_one: Callable[[Tensor, torch.Generator], Tensor]):
        self._generator = torch.Generator().manual_seed(FIRST + seed)
        self._draw_one = draw_one
        self._tables: list[Tensor] = []
        self._placed: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """The noise of the step at work, which measurements after it may read, and the state of the generator."""
        return {"noise": self._tables, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._tables, self._placed = list(state["noise"]), []
        self._generator.set_state(state["generator"])

    def draw(self, alphas: Sequence[Tensor]) -> None:
        """New tables, in the same tensors as before, where a recorded pass finds them."""
        self._tables = [self._draw_one(alpha, self._generator) for alpha in alphas]
        if [*map(_place, self._placed)] != [*map(_place, alphas)]:
            self._placed = [torch.empty_like(alpha, requires_grad=False) for alpha in alphas]
        for place, table in zip(self._placed, self._tables, strict=True):
            place.copy_(table)

    def table(self, kind: int) -> Tensor:
        """The table of the kind of cell of this number, on the CPU."""
        return self._tables[kind]

    def of(self, kind: int, device: torch.device) -> Tensor:
        """The same on ``device``."""
        return self._placed[kind] if self._placed else self._tables[kind].to(device)


class Drawing:
    """The part of a policy that draws :class:`Noise` for every step: its state is that of the noise."""

    _noise: Noise

    def state_dict(self) -> dict[str, Any]:
        """That of the noise."""
        return self._noise.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._noise.load_state_dict(state)

    def draw(self, alphas: Sequence[Tensor]) -> None:
        """New noise."""
        self._noise.draw(alphas)


def _place(tensor: Tensor) -> tuple[torch.device, torch.Size]:
    return tensor.device, tensor.shape
