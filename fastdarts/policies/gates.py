"""Binary gates and the policy gradient of ProxylessNAS (Cai et al. 2019, "ProxylessNAS: Direct Neural Architecture
Search on Target Task and Hardware", ICLR, sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.nn.relaxation import Mixing, Relaxation
from fastdarts.policies.base import Policy
from fastdarts.policies.expected_cost import ExpectedCost
from fastdarts.policies.hypergradients import Descent, Gradients
from fastdarts.policies.noise import Drawing, Noise
from fastdarts.policies.passes import Batch, Passes, microbatches
from fastdarts.policies.searchers.objective import mnasnet_reward
from fastdarts.ranks import summed, weighed

OTHER, CHOSEN = 1.0, 2.0
"""In a table of what was drawn: a candidate with a gate, and the one that is computed. All others are 0."""
DECAY = 0.99
"""The share of the way that the baseline goes to the mean reward of a step, as in the public code."""


class BinaryGates(Drawing, Relaxation):
    r"""One candidate per edge and step, drawn with the probabilities :math:`p = \mathrm{softmax}(\alpha)` and computed
    alone; the alphas learn through binary gates.

    With b the gradients of the gates of an edge, see :class:`fastdarts.nn.gates.GatedOp`, that of its alphas is
    :math:`\partial L / \partial \alpha_i = \sum_j b_j p_j (\delta_{ij} - p_i)`. All candidates have gates. With
    ``pairs`` only two have, which are drawn without replacement; q, the softmax of their two alphas, takes the place of
    p, also in the expected cost and for the choice of the one that is computed. After the step of the alphas both are
    moved by one number, so that the probabilities of the other candidates stay.

    Where the drawn candidate is one that computes nothing, the alphas of the edge have no gradient in that step, as in
    the public code: neither from the loss nor from the cost.

    Args:
        seed: of the draws, which have a generator of their own: they are the same on all ranks and after a kill.
        nothing: for each kind of cell which candidates compute nothing, a list of K truth values for each edge.
        pairs: whether only two candidates have gates.
    """

    draws = True
    twice_differentiable = False

    def __init__(self, seed: int, nothing: Sequence[Sequence[Sequence[bool]]], *, pairs: bool = False):
        self._nothing, self._pairs = nothing, pairs
        self._noise = Noise(seed, self._drawn)
        self._before: list[Tensor] = []

    def _drawn(self, alpha: Tensor, generator: torch.Generator) -> Tensor:
        """A table of what is drawn."""
        if is_fake(alpha):
            return torch.full_like(alpha, OTHER, device="cpu")
        logits = alpha.detach().cpu()
        offered = logits.isfinite()
        # a chance of 0 would be none: two candidates could not be drawn
        chances = logits.softmax(-1).clamp_min(torch.finfo(logits.dtype).tiny) * offered
        if self._pairs:
            pair = torch.multinomial(chances, 2, generator=generator)
            chosen = pair.gather(1, torch.multinomial(chances.gather(1, pair), 1, generator=generator))
            table = torch.zeros_like(logits).scatter(1, pair, OTHER)
        else:
            chosen = torch.multinomial(chances, 1, generator=generator)
            table = OTHER * offered.to(logits.dtype)
        return table.scatter(1, chosen, CHOSEN)

    def draw(self, alphas: Sequence[Tensor]) -> None:
        """Draw anew; the alphas are remembered for :meth:`after_step`."""
        super().draw(alphas)
        self._before = [alpha.detach().clone() for alpha in alphas]

    def strength(self, alpha: Tensor) -> Tensor:
        """softmax(alpha): the probability with which each candidate is drawn."""
        return F.softmax(alpha, dim=-1)

    def _gated(self, alpha: Tensor, kind: int) -> tuple[Tensor, Tensor, Tensor]:
        """The candidates that are computed [E], the probabilities of those that have gates [E, K], and whether the
        alphas of each edge learn [E, 1]."""
        table = self._noise.of(kind, alpha.device)
        chosen = table.argmax(-1)
        shares = F.softmax(alpha.masked_fill(table == 0, -torch.inf), dim=-1)
        nothing = torch.tensor(self._nothing[kind], device=alpha.device).gather(1, chosen[:, None])
        return chosen, shares, ~nothing

    def mix(self, alpha: Tensor, kind: int) -> Mixing:
        """The one-hot of what was drawn, with the gradient of the probabilities."""
        chosen, shares, learns = self._gated(alpha, kind)
        hot = F.one_hot(chosen, alpha.shape[-1]).to(alpha.dtype)
        return Mixing(torch.where(learns, hot - shares.detach() + shares, hot), chosen)

    def noiseless(self, alpha: Tensor) -> Mixing:
        """The most probable candidate of each edge."""
        likeliest = alpha.argmax(-1)
        return Mixing(F.one_hot(likeliest, alpha.shape[-1]).to(alpha.dtype), likeliest)

    def gates(self, kind: int) -> Sequence[tuple[int, ...]]:
        """Those that were drawn."""
        table = self._noise.table(kind)
        if is_fake(table):  # an estimate of memory, in which the largest candidate is computed
            return [tuple(range(table.shape[1]))] * len(table)
        return [tuple(k for k, value in enumerate(row) if value) for row in table.tolist()]

    def shares(self, alpha: Tensor, kind: int) -> Tensor:
        """p, or q of the pair; without a gradient where the alphas of an edge do not learn."""
        _, shares, learns = self._gated(alpha, kind)
        return torch.where(learns, shares, shares.detach())

    def after_step(self, alphas: Sequence[Tensor]) -> None:
        """Move the alphas of each pair by one number, so that the sum of its exponentials is what it was."""
        if not self._pairs:
            return
        for kind, (alpha, before) in enumerate(zip(alphas, self._before, strict=True)):
            others = self._noise.of(kind, alpha.device) == 0
            sums = (table.masked_fill(others, -torch.inf).logsumexp(-1, keepdim=True) for table in (alpha, before))
            now, then = sums
            alpha.copy_(torch.where(others, alpha, alpha - (now - then)))

    def actions(self, kind: int, like: Tensor) -> Tensor:
        """The one-hot of what was drawn [E, K]."""
        return (self._noise.of(kind, like.device) == CHOSEN).to(like.dtype)


class PolicyGradient(Policy):
    r"""The gradient of the alphas by REINFORCE: of the mean reward of drawn networks, without a backward pass.

    Every step draws networks and passes the same validation batch through each. With R_j the reward of network j and
    o_j the one-hot of its candidates, the gradient is :math:`\frac{1}{M} \sum_j (R_j - b) (p - o_j)`. The reward is the
    accuracy A, and with a cost E of a network :math:`A \, (T / E)^w`. The baseline b begins as the mean reward of the
    first step, and then goes 0.99 of the way to the mean of every step.

    Args:
        gates: what draws.
        networks: how many are drawn in a step.
        exponent: w.

    Attributes:
        cost: what a network costs; None if that does not count. Its own loss is not used.
    """

    why_not_recorded = "every step passes networks that the host draws"

    def __init__(self, gates: BinaryGates, networks: int, exponent: float):
        self._gates, self._networks, self._exponent = gates, networks, exponent
        self.cost: ExpectedCost | None = None
        self.baseline: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """The baseline."""
        return {} if self.baseline is None else {"baseline": self.baseline}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.baseline = state.get("baseline")

    @torch.no_grad()
    def __call__(self, passes: Passes, train: Batch, valid: Batch, descent: Descent) -> tuple[Tensor, Gradients]:
        tables = passes.model.alpha_tables()
        drawn, rewards, total = [], [], 0.0
        for _ in range(self._networks):
            self._gates.draw(tables)
            loss, accuracy = self._passed(passes, valid)
            drawn.append([self._gates.actions(kind, alpha) for kind, alpha in enumerate(tables)])
            rewards.append(self.reward(accuracy, drawn[-1]))
            total = total + loss / self._networks
        gradients = self.gradient(rewards, drawn, tables)
        return total, [*gradients, *[None] * (len(passes.alphas) - len(gradients))]

    def _passed(self, passes: Passes, valid: Batch) -> tuple[Tensor, float]:
        """The mean loss of what was drawn on a batch, and its accuracy; of several ranks on the whole one."""
        model, sums = passes.model, None
        for (x, y), own in microbatches(valid, passes.accumulate):
            logits = model(x)
            right = (logits.argmax(1) == y).float().mean()
            parts = [weighed(model._criterion(logits, y), own), weighed(right, own)]
            sums = parts if sums is None else [a + b for a, b in zip(sums, parts, strict=True)]
        loss, right = summed(sums)
        return loss, right.item()

    def reward(self, accuracy: float, drawn: Sequence[Tensor]) -> float:
        """That of a network with this accuracy, a share, and these candidates, one-hot [E, K] per kind of cell."""
        if self.cost is None:
            return accuracy
        cost = self.cost.expected(drawn).item()
        return mnasnet_reward(accuracy, cost, self.cost.target, -self._exponent, -self._exponent)

    def gradient(
        self, rewards: Sequence[float], drawn: Sequence[Sequence[Tensor]], alphas: Sequence[Tensor]
    ) -> list[Tensor]:
        """The gradient of the alphas, [E, K] per kind of cell, after the baseline has moved."""
        mean = sum(rewards) / len(rewards)
        self.baseline = mean if self.baseline is None else self.baseline + DECAY * (mean - self.baseline)
        found = []
        for kind, alpha in enumerate(alphas):
            p = self._gates.strength(alpha)
            pairs = zip(rewards, drawn, strict=True)
            found.append(
                sum((reward - self.baseline) * (p - actions[kind]) for reward, actions in pairs) / len(rewards)
            )
        return found
