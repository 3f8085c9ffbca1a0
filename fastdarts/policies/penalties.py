"""Penalties: terms of the loss of the alphas that depend on the alphas alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdarts.policies.bilevel import Penalty
from fastdarts.policies.relaxations import concentration


class ZeroOne(Penalty):
    r"""Zero-one loss of FairDARTS (Chu et al. 2020): :math:`-\lambda\,\mathrm{mean}\,d(\sigma(\alpha) - 1/2)` over all
    gates, with d the square, or the absolute value.

    Args:
        weight: λ.
        squared: whether d is the square.
    """

    def __init__(self, weight: float, squared: bool):
        self._weight, self._squared = weight, squared

    def loss(self, alphas: Sequence[Tensor], epoch: int) -> Tensor:
        """The term, a scalar."""
        distance = torch.cat([alpha.sigmoid().flatten() for alpha in alphas]) - 0.5
        return -self._weight * (distance.square() if self._squared else distance.abs()).mean()


class BetaDecay(Penalty):
    r"""Beta-decay of β-DARTS (Ye et al. 2022): :math:`\lambda_e \, \mathrm{mean} \log \sum_k \exp \alpha_k` over the
    edges of all kinds of cells, with :math:`\lambda_e` = ``growth`` times the epoch.

    Its gradient is :math:`\lambda_e \, \mathrm{softmax}(\alpha)` over the number of edges: it lowers the strongest
    most.
    """

    def __init__(self, growth: float):
        self._growth = growth

    def loss(self, alphas: Sequence[Tensor], epoch: int) -> Tensor:
        """The term, a scalar."""
        return self._growth * epoch * torch.cat([alpha.logsumexp(-1) for alpha in alphas]).mean()


class DirichletKL(Penalty):
    r"""Distance to the uniform Dirichlet distribution of DrNAS (Chen et al. 2021):
    :math:`\lambda \sum \mathrm{KL}(\mathrm{Dir}(\mathrm{elu}(\alpha) + 1) \,\|\, \mathrm{Dir}(1))` over all edges.

    ``weight`` is λ.
    """

    def __init__(self, weight: float):
        self._weight = weight

    def loss(self, alphas: Sequence[Tensor], epoch: int) -> Tensor:
        """The term, a scalar."""
        return self._weight * torch.cat([_kl(concentration(alpha)) for alpha in alphas]).sum()


def _kl(c: Tensor) -> Tensor:
    """KL(Dir(c) || Dir(1)) for each row of c [E, K]."""
    total, count = c.sum(-1), torch.full_like(c[..., 0], c.shape[-1])
    inner = ((c - 1) * (c.digamma() - total.digamma()[..., None])).sum(-1)
    return total.lgamma() - c.lgamma().sum(-1) - count.lgamma() + inner
