"""Segments of a text one after another, and the hidden state that is carried from one to the next."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastdarts.spaces.recurrent.model import Segment
from fastdarts.tasks.language.text import in_order


class Carried:
    """The hidden state [B, width] in which a ``text`` [T, B] was left, from one segment to the next."""

    def __init__(self, text: Tensor, width: int):
        self.width = width
        self._state, self._piece = torch.zeros(text.shape[1], width, device=text.device), None

    @property
    def state(self) -> Tensor:
        """That after the last segment, as the last pass over it left it."""
        if self._piece is not None and self._piece.after is not None:
            self._state, self._piece = self._piece.after, None
        return self._state

    @state.setter
    def state(self, value: Tensor) -> None:
        self._state, self._piece = value, None

    def begin(self) -> None:
        """A text begins anew."""
        self.state = torch.zeros_like(self._state)

    def segment(self, tokens: Tensor) -> Segment:
        """The next segment."""
        self._piece = Segment(tokens, self.state)
        return self._piece


def segments(text: Tensor, width: int, length: int) -> Iterator[tuple[Segment, Tensor]]:
    """All segments of ``length`` rows of a text, each with the tokens that follow, the hidden state carried along."""
    carried = Carried(text, width)
    for tokens, target in in_order(text, length):
        yield carried.segment(tokens), target
