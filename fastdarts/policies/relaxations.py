"""Relaxations other than the softmax of DARTS: what is drawn, and gates that do not compete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.nn.relaxation import Mixing, Relaxation


class Gumbel(Relaxation):
    r"""Weights that are drawn with Gumbel noise G (Maddison et al. 2017 and Jang et al. 2017), once per step and kind
    of cell: :math:`s = \mathrm{softmax}((\log \mathrm{softmax}(\alpha) + G) / \tau)`.

    Hard weights (GDAS, Dong and Yang 2019) are the one-hot of the largest s, which alone is
    computed; their gradient is that of s. Soft ones (SNAS, Xie et al. 2019) are s itself.

    Args:
        tau_start, tau_end: the temperature of the first and of the last epoch; between them it changes by equal steps.
        seed: of the noise, which has a generator of its own: it is the same on all ranks and after a kill.
        hard: whether the weights are hard.
        zeros_learn: see :class:`fastdarts.nn.relaxation.Relaxation`.
    """

    draws = True

    def __init__(self, tau_start: float, tau_end: float, seed: int, *, hard: bool, zeros_learn: bool = False):
        self._ends = tau_start, tau_end
        self._hard = hard
        self.zeros_learn = zeros_learn
        self._generator = torch.Generator().manual_seed(2**31 + seed)  # not the numbers of the fresh weights
        self._noise: list[Tensor] = []
        self._placed: list[Tensor] = []
        self.draws_in_place = not hard
        self.tau = tau_start

    def state_dict(self) -> dict[str, Any]:
        """The noise of the step at work, which measurements after it may read, and the state of its generator."""
        return {"noise": self._noise, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._noise, self._placed = list(state["noise"]), []
        self._generator.set_state(state["generator"])

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Set the temperature of this epoch."""
        start, end = self._ends
        self.tau = start + (end - start) * epoch / max(epochs - 1, 1)

    def draw(self, alphas: Sequence[Tensor]) -> None:
        """New noise, on the CPU so that a seed means the same on every device."""
        self._noise = [self._gumbel(alpha) for alpha in alphas]
        if [place.device for place in self._placed] != [alpha.device for alpha in alphas]:
            self._placed = [torch.empty_like(alpha, requires_grad=False) for alpha in alphas]
        for place, noise in zip(self._placed, self._noise, strict=True):
            place.copy_(noise)  # where a recorded pass finds it

    def _gumbel(self, alpha: Tensor) -> Tensor:
        while True:
            uniform = torch.rand(alpha.shape, generator=self._generator, dtype=alpha.dtype, device="cpu")
            noise = -(-uniform.log()).log()  # infinite where the uniform number is 0
            if is_fake(noise) or noise.isfinite().all():
                return noise

    def strength(self, alpha: Tensor) -> Tensor:
        """softmax(alpha): the probability with which each candidate is drawn."""
        return F.softmax(alpha, dim=-1)

    def mix(self, alpha: Tensor, kind: int) -> Mixing:
        """The drawn weights."""
        noise = self._placed[kind] if self._placed else self._noise[kind].to(alpha.device)
        soft = ((alpha.log_softmax(-1) + noise) / self.tau).softmax(-1)
        if not self._hard:
            return Mixing(soft)
        drawn = soft.argmax(-1)
        return Mixing(_one_hot(drawn, alpha) - soft.detach() + soft, drawn)

    def noiseless(self, alpha: Tensor) -> Mixing:
        """Hard: the most probable candidate of each edge; soft: the probabilities."""
        if not self._hard:
            return Mixing(self.strength(alpha))
        likeliest = alpha.argmax(-1)
        return Mixing(_one_hot(likeliest, alpha), likeliest)


def _one_hot(places: Tensor, like: Tensor) -> Tensor:
    return F.one_hot(places, like.shape[-1]).to(like.dtype)


class Sigmoid(Relaxation):
    r"""Gates of FairDARTS (Chu et al. 2020): :math:`w_k = 1 / (1 + e^{-\alpha_k})`, so that no candidate
    grows at the expense of another; alphas begin at 0, all gates at 1/2."""

    normalised = False

    def initial(self, alphas: Sequence[Tensor]) -> None:
        """Set all alphas to 0."""
        for alpha in alphas:
            alpha.zero_()

    def strength(self, alpha: Tensor) -> Tensor:
        """sigmoid(alpha)."""
        return alpha.sigmoid()
