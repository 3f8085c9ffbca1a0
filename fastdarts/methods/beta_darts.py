"""β-DARTS (Ye et al., "β-DARTS: Beta-Decay Regularization for Differentiable Architecture Search", CVPR 2022)."""

from __future__ import annotations

from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.penalties import BetaDecay
from fastdarts.registry import register
from fastdarts.runs.kinds import NotNegative
from fastdarts.spaces import Space
from fastdarts.tasks.settings import BilevelConfig


@register("beta-darts", paper="Ye et al., CVPR 2022")
class BetaDARTS(BilevelConfig):
    """β-DARTS: DARTS whose alphas are held together by a penalty on their log-sum-exp, which grows with the epochs."""

    beta_growth: NotNegative = 0.5
    """Growth of the penalty's weight per epoch, from 0 in the first one."""

    projected_by = "darts-pt"

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space, penalty=BetaDecay(self.beta_growth))
