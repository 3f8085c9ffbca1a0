"""REINFORCE (Williams 1992) with a policy of its own for each decision (Dong et al., "NATS-Bench", TPAMI 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdarts.policies.searchers.base import Choice, Searcher

_SPREAD = 1e-3
"""Standard deviation of the first logits, as published."""


class MovingBaseline:
    """What rewards are compared with: a moving average of them.

    corrected: divide by what the weights of all rewards add up to, as Adam does; otherwise begin with the first reward.
    """

    def __init__(self, momentum: float, corrected: bool = False):
        self.momentum, self.corrected = momentum, corrected
        self._sum, self._weight = 0.0, 0.0

    def update(self, reward: float) -> float:
        """The average with this reward in it."""
        first = not self._weight and not self.corrected
        share = 1.0 if first else 1 - self.momentum
        self._sum = (1 - share) * self._sum + share * reward
        self._weight = (1 - share) * self._weight + share
        return self._sum / self._weight


def padded(sizes: Sequence[int]) -> Tensor:
    """0 for a value that the decision has, minus infinity for one that only longer rows have, [D, K]."""
    table = torch.full((len(sizes), max(sizes)), -torch.inf)
    for row, size in zip(table, sizes, strict=True):
        row[:size] = 0.0
    return table


class Reinforce(Searcher):
    r"""A softmax for each decision, whose logits follow the gradient of
    :math:`\sum_d \log p(a_d) \, (R - b)` after every architecture.

    The reward R is in percent, and the baseline b is a moving average with this reward in it. Adam takes the steps.

    Args:
        rate: learning rate.
        momentum: of the baseline.
    """

    def __init__(self, sizes: Sequence[int], seed: int, rate: float = 0.01, momentum: float = 0.9):
        super().__init__(sizes, seed)
        self.none = padded(sizes)
        self.logits = (_SPREAD * torch.randn(self.none.shape, generator=self.generator)).requires_grad_()
        self.optimizer = torch.optim.Adam([self.logits], rate)
        self.baseline = MovingBaseline(momentum, corrected=True)

    def ask(self) -> Choice:
        with torch.no_grad():
            drawn = torch.multinomial((self.logits + self.none).softmax(1), 1, generator=self.generator)
        return tuple(drawn[:, 0].tolist())

    def tell(self, choice: Choice, reward: float | None, cost: float | None = None) -> None:
        percent = 100 * (reward or 0.0)
        advantage = percent - self.baseline.update(percent)
        chosen = torch.tensor(choice)[:, None]
        loss = -(self.logits + self.none).log_softmax(1).gather(1, chosen).sum() * advantage
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
