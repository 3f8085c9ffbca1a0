"""Relaxations other than the softmax of DARTS: what is drawn, and gates that do not compete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.nn.relaxation import Mixing, Relaxation
from fastdarts.policies.noise import Drawing, Noise


def gumbel(alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel noise of the shape of ``alpha``."""
    while True:
        uniform = torch.rand(alpha.shape, generator=generator, dtype=alpha.dtype, device="cpu")
        noise = -(-uniform.log()).log()  # infinite where the uniform number is 0
        if is_fake(noise) or noise.isfinite().all():
            return noise


class Gumbel(Drawing, Relaxation):
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
        self._noise = Noise(seed, gumbel)
        self.draws_in_place = not hard
        self.tau = tau_start

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Set the temperature of this epoch."""
        start, end = self._ends
        self.tau = start + (end - start) * epoch / max(epochs - 1, 1)

    def strength(self, alpha: Tensor) -> Tensor:
        """softmax(alpha): the probability with which each candidate is drawn."""
        return F.softmax(alpha, dim=-1)

    def mix(self, alpha: Tensor, kind: int) -> Mixing:
        """The drawn weights."""
        soft = ((alpha.log_softmax(-1) + self._noise.of(kind, alpha.device)) / self.tau).softmax(-1)
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


class MaxW(Relaxation):
    r"""Weights of sharpDARTS (Hundt et al. 2019): :math:`w_k = 1 - \max_j p_j + p_k` with
    :math:`p = \mathrm{softmax}(\alpha)`, so that the strongest candidate of an edge has weight 1.

    Passes multiply by w. Genotypes read p, as published: by w all edges would be equally strong.

    Args:
        detached: whether the maximum is a constant of the gradient. The published gradient goes through it: then
            :math:`\partial L / \partial p_m = -\sum_{k \ne m} \partial L / \partial w_k` for the strongest one.
    """

    def __init__(self, *, detached: bool):
        self._detached = detached

    def strength(self, alpha: Tensor) -> Tensor:
        """softmax(alpha)."""
        return F.softmax(alpha, dim=-1)

    def weights(self, alpha: Tensor) -> Tensor:
        """1 - max p + p."""
        p = alpha.softmax(-1)
        strongest = p.gather(-1, p.argmax(-1, keepdim=True))
        return 1 - (strongest.detach() if self._detached else strongest) + p


class _Pathwise(torch.autograd.Function):
    """A sample of Dir(c) with its pathwise gradient in c."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor, sample: Tensor) -> Tensor:
        ctx.save_for_backward(concentration, sample)
        return sample.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        concentration, sample = ctx.saved_tensors
        total = concentration.sum(-1, keepdim=True).expand_as(concentration)
        slope = torch._dirichlet_grad(sample, concentration, total)
        return slope * (gradient - (sample * gradient).sum(-1, keepdim=True)), None


def concentration(alpha: Tensor) -> Tensor:
    """elu(alpha) + 1, above 0: the parameters of the Dirichlet distribution of each edge."""
    return F.elu(alpha) + 1


class Dirichlet(Drawing, Relaxation):
    r"""Weights of DrNAS (Chen et al. 2021), drawn once per step and kind of cell from
    :math:`\mathrm{Dir}(\mathrm{elu}(\alpha) + 1)` for each edge, with their pathwise gradient.

    Strengths are softmax(alpha), as in the public code, whose order on an edge is that of the means. Measurements see
    the mean :math:`c / \sum c`. ``seed`` is as of :class:`Gumbel`.
    """

    draws = draws_in_place = True
    twice_differentiable = False

    def __init__(self, seed: int):
        self._noise = Noise(seed, _sample)

    def strength(self, alpha: Tensor) -> Tensor:
        """softmax(alpha)."""
        return alpha.softmax(-1)

    def mix(self, alpha: Tensor, kind: int) -> Mixing:
        """The drawn weights."""
        return Mixing(_Pathwise.apply(concentration(alpha), self._noise.of(kind, alpha.device)))

    def noiseless(self, alpha: Tensor) -> Mixing:
        """Their mean."""
        c = concentration(alpha)
        return Mixing(c / c.sum(-1, keepdim=True))


def _sample(alpha: Tensor, generator: torch.Generator) -> Tensor:
    if is_fake(alpha):
        return torch.full_like(alpha, 1 / alpha.shape[-1], device="cpu")
    tiny = torch.finfo(alpha.dtype).tiny
    return torch._sample_dirichlet(concentration(alpha.detach().cpu()).clamp_min(tiny), generator).clamp_min(tiny)


class Concrete(Gumbel):
    """The soft weights of SNAS (Xie et al. 2019).

    Alphas begin at N(1, 0.01²). In epoch e of E, counted from 0, the temperature has gone a share (e + 1) / E of the
    way from ``tau_start`` to ``tau_end``, which is that of the last epoch.
    """

    def __init__(self, tau_start: float, tau_end: float, seed: int):
        super().__init__(tau_start, tau_end, seed, hard=False)

    def initial(self, alphas: Sequence[Tensor]) -> None:
        """Draw all alphas anew."""
        for alpha in alphas:
            alpha.normal_(1.0, 0.01)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Set the temperature of this epoch."""
        start, end = self._ends
        self.tau = start + (end - start) * (epoch + 1) / epochs
