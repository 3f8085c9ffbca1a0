"""A recurrent controller that decides one thing after another, trained by REINFORCE or by PPO.

REINFORCE: Zoph and Le, "Neural Architecture Search with Reinforcement Learning", ICLR 2017. PPO: Zoph et al., "Learning
Transferable Architectures for Scalable Image Recognition", CVPR 2018; Schulman et al. 2017.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastdarts.policies.searchers.base import Choice, Searcher
from fastdarts.policies.searchers.reinforce import MovingBaseline, padded


class Controller(nn.Module):
    """An LSTM with one step and one softmax for each decision; the value that was chosen is embedded for the next step.

    All weights are uniform from -bound to bound, drawn from ``generator``.
    """

    def __init__(self, sizes: Sequence[int], hidden: int, layers: int, bound: float, generator: torch.Generator):
        super().__init__()
        longest = max(sizes)
        with torch.device("meta"):  # as it would draw its weights from the generator of a training that is going on
            lstm = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.lstm = lstm.to_empty(device="cpu")
        self.start = nn.Parameter(torch.empty(hidden))
        self.embedding = nn.Parameter(torch.empty(len(sizes), longest, hidden))
        self.head = nn.Parameter(torch.empty(len(sizes), longest, hidden))
        self.bias = nn.Parameter(torch.empty(len(sizes), longest))
        self.register_buffer("none", padded(sizes))
        with torch.no_grad():
            for weights in self.parameters():
                weights.uniform_(-bound, bound, generator=generator)

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> tuple[Choice, Tensor]:
        """An architecture, and the log-probability of each of its decisions, [D]."""
        step, state, chosen, logs = self.start[None, None], None, [], []
        for decision, none in enumerate(self.none):
            out, state = self.lstm(step, state)
            row = (self.head[decision] @ out[0, 0] + self.bias[decision] + none).log_softmax(0)
            value = int(torch.multinomial(row.exp(), 1, generator=generator))
            chosen.append(value)
            logs.append(row[value])
            step = self.embedding[decision, value][None, None]
        return tuple(chosen), torch.stack(logs)

    def forward(self, choices: Tensor) -> tuple[Tensor, Tensor]:
        """Of these architectures [B, D] the log-probability and the entropy of each decision, [B, D] each."""
        places = torch.arange(choices.shape[1])
        start = self.start.expand(len(choices), 1, -1)
        out, _ = self.lstm(torch.cat([start, self.embedding[places[:-1], choices[:, :-1]]], 1))
        logs = (torch.einsum("bdh,dkh->bdk", out, self.head) + self.bias + self.none).log_softmax(2)
        entropies = -(logs.exp() * logs.masked_fill(self.none.isinf(), 0.0)).sum(2)
        return logs.gather(2, choices[..., None])[..., 0], entropies


class Told(NamedTuple):
    """An architecture whose reward is known, and the log-probability of its decisions when it was drawn."""

    choice: Choice
    drawn: Tensor
    reward: float


class _Controlled(Searcher):
    """A controller that learns from every ``batch`` architectures that it was told of; one that failed has reward 0."""

    def __init__(
        self, sizes: Sequence[int], seed: int, hidden: int, layers: int, bound: float, rate: float, batch: int
    ):
        super().__init__(sizes, seed)
        self.controller = Controller(sizes, hidden, layers, bound, self.generator)
        self.optimizer = torch.optim.Adam(self.controller.parameters(), rate)
        self.baseline, self.batch = MovingBaseline(0.95), batch
        self._drawn: dict[Choice, list[Tensor]] = {}  # until they are told
        self._told: list[Told] = []

    def ask(self) -> Choice:
        choice, logs = self.controller.sample(self.generator)
        self._drawn.setdefault(choice, []).append(logs)
        return choice

    def tell(self, choice: Choice, reward: float | None, cost: float | None = None) -> None:
        drawn, *others = self._drawn.pop(choice)
        if others:
            self._drawn[choice] = others
        self._told.append(Told(choice, drawn, 0.0 if reward is None else self.shaped(reward)))
        if len(self._told) < self.batch:
            return
        for told in self._told:
            baseline = self.baseline.update(told.reward)
        advantages = torch.tensor([told.reward - baseline for told in self._told])
        choices = torch.tensor([told.choice for told in self._told])
        self.learn(choices, torch.stack([told.drawn for told in self._told]), advantages)
        self._told = []

    def shaped(self, reward: float) -> float:
        """What the controller takes for the reward."""
        return reward

    @abstractmethod
    def learn(self, choices: Tensor, drawn: Tensor, advantages: Tensor) -> None:
        """Update the controller by architectures [B, D], the log-probabilities [B, D] when they were drawn, and their
        advantages [B]."""

    def descend(self, loss: Tensor) -> None:
        """One step of Adam."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class NASRL(_Controlled):
    r"""REINFORCE: after every ``batch`` architectures, one step along the mean of their gradients.

    The gradient of one is :math:`\sum_t \nabla \log p(a_t) \, (R - b)`. R is the cube of its reward, and b a moving
    average of R.
    """

    def __init__(self, sizes: Sequence[int], seed: int, rate: float = 6e-4, batch: int = 8):
        super().__init__(sizes, seed, 35, 2, 0.08, rate, batch)

    def shaped(self, reward: float) -> float:
        return reward**3

    def learn(self, choices: Tensor, drawn: Tensor, advantages: Tensor) -> None:
        logs, _ = self.controller(choices)
        self.descend(-(logs.sum(1) * advantages).mean())


def ppo_loss(logs: Tensor, drawn: Tensor, advantages: Tensor, entropies: Tensor, clip: float, weight: float) -> Tensor:
    r"""The clipped loss of PPO, a mean over architectures:
    :math:`-\sum_t \min(r_t A, \mathrm{clip}(r_t, 1 - c, 1 + c) A) - w \sum_t H_t`.

    Args:
        logs, drawn: log-probabilities of the decisions now, and when they were drawn, [B, D] each.
        advantages: reward minus baseline, [B].
        entropies: of each decision, [B, D].
        clip, weight: c and w.

    Example:
        >>> import torch
        >>> zero = torch.zeros(1, 2)
        >>> ppo_loss(zero, zero, torch.tensor([0.5]), zero, 0.2, 1e-5).item()
        -1.0
    """
    ratios, advantages = (logs - drawn).exp(), advantages[:, None]
    clipped = ratios.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(ratios * advantages, clipped * advantages).sum(1)
    return -(gain + weight * entropies.sum(1)).mean()


class PPO(_Controlled):
    """PPO: after every ``batch`` architectures, ``passes`` steps down :func:`ppo_loss`."""

    def __init__(
        self,
        sizes: Sequence[int],
        seed: int,
        rate: float = 3.5e-4,
        batch: int = 20,
        passes: int = 10,
        clip: float = 0.2,
        entropy: float = 1e-5,
    ):
        super().__init__(sizes, seed, 100, 1, 0.1, rate, batch)
        self.passes, self.clip, self.entropy = passes, clip, entropy

    def learn(self, choices: Tensor, drawn: Tensor, advantages: Tensor) -> None:
        for _ in range(self.passes):
            logs, entropies = self.controller(choices)
            self.descend(ppo_loss(logs, drawn, advantages, entropies, self.clip, self.entropy))
