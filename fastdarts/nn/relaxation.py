r"""How alphas become mixing weights: the seam between a method and the supernet.

What a pass multiplies by and how strong a candidate is are two questions. A pass may draw, or scale; strength never
draws, so that the same alphas always give the same genotype. More relaxations are in
:mod:`fastdarts.policies.relaxations`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Mixing(NamedTuple):
    """What the edges of a kind of cell compute in a pass.

    weights: [E, K]. active: of each edge the only candidate that is computed, [E], or a list of all that are computed
    of each edge; None for all. The weights of those that are not computed must be 0.
    """

    weights: Tensor
    active: Tensor | Sequence[tuple[int, ...]] | None = None


class Relaxation(ABC):
    """How alphas [E, K] become mixing weights [E, K]; a policy, see :class:`fastdarts.policies.base.Policy`.

    Attributes:
        draws: whether passes in training draw, and so differ from :meth:`strength`.
        same_in_eval: whether passes in eval mode compute what those in training do; else they are :meth:`noiseless`.
        normalised: whether the strengths of an edge add up to 1.
        strength_learns: whether the strengths have a gradient in the alphas, so that an expected cost can teach them.
        twice_differentiable: whether the mixing weights have second derivatives in the alphas.
        zeros_learn: whether the weights of candidates that are not computed, which are 0, are added to the output of
            their edge, and so have a gradient; supernets of NAS-Bench-201 do it.
        draws_in_place: whether :meth:`draw` writes into the same tensors every time, and :meth:`mix` launches the same
            work: only then can a pass that :attr:`draws` be recorded as a CUDA graph.
    """

    draws = False
    draws_in_place = False
    same_in_eval = False
    normalised = True
    strength_learns = True
    twice_differentiable = True
    zeros_learn = False

    def state_dict(self) -> dict[str, Any]:
        """What must be known after a kill; by default nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""

    def initial(self, alphas: Sequence[Tensor]) -> None:
        """Change the alphas of a fresh supernet, in place; by default they stay 1e-3 * N(0, 1)."""

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Say which epoch is at work, of how many."""

    def draw(self, alphas: Sequence[Tensor]) -> None:
        """Draw the noise of all passes until the next call."""

    @abstractmethod
    def strength(self, alpha: Tensor) -> Tensor:
        """How strong each candidate is: what genotypes, reports and measurements read."""

    def weights(self, alpha: Tensor) -> Tensor:
        """What a pass multiplies by, if it does not draw; by default the strength."""
        return self.strength(alpha)

    def mix(self, alpha: Tensor, kind: int) -> Mixing:
        """What a pass in training computes, if it :attr:`draws`; ``kind`` is the number of the kind of cell."""
        return Mixing(self.weights(alpha))

    def noiseless(self, alpha: Tensor) -> Mixing:
        """What a pass in eval mode computes, if passes in training draw."""
        return Mixing(self.weights(alpha))

    def gates(self, kind: int) -> Sequence[tuple[int, ...]] | None:
        """Of each edge the candidates whose binary gates have a gradient in training, beside the one that is computed,
        see :class:`fastdarts.nn.gates.GatedOp`; None without such gates."""
        return None

    def shares(self, alpha: Tensor, kind: int) -> Tensor:
        """The chance of each candidate, [E, K], by which the expected cost of a step of the alphas counts it."""
        return self.strength(alpha)

    def after_step(self, alphas: Sequence[Tensor]) -> None:
        """Correct the alphas, in place, after a step of them that followed the last :meth:`draw`."""


class Softmax(Relaxation):
    r"""DARTS (Liu et al. 2019, section 2.2): :math:`w_k = \exp\alpha_k / \sum_j \exp\alpha_j` on every edge."""

    def strength(self, alpha: Tensor) -> Tensor:
        """softmax(alpha) over the candidates."""
        return F.softmax(alpha, dim=-1)


SOFTMAX = Softmax()
