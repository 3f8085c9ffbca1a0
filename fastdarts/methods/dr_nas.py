"""DrNAS (Chen et al., "DrNAS: Dirichlet Neural Architecture Search", ICLR 2021)."""

from __future__ import annotations

from typing import Literal

from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.penalties import DirichletKL
from fastdarts.policies.relaxations import Dirichlet
from fastdarts.registry import register
from fastdarts.runs.kinds import NotNegative
from fastdarts.spaces import Space
from fastdarts.tasks.settings import BilevelConfig


@register("dr-nas", paper="Chen et al., ICLR 2021")
class DrNAS(BilevelConfig):
    """DrNAS: each step draws its mixing weights from Dirichlet distributions, whose parameters are learned."""

    space: str = "darts-7"
    """Space to search in; the published one has no candidate none."""
    regulariser: Literal["decay", "kl"] = "decay"
    """Term that holds the distributions near the uniform one. decay: the L2 on the alphas. kl: the divergence from it,
    in place of the L2."""
    kl_weight: NotNegative = 1e-3
    """Weight of the divergence in the loss of the alphas."""

    published = {
        "cifar": {
            "channels": 36,
            "layers": 20,
            "partial": 6,
            "warmup": 10,
            "learning_rate": 0.1,
            "learning_rate_min": 0.0,
            "arch_learning_rate": 6e-4,
        },
        "nasbench201": {"channels": 16, "layers": 17, "partial": 1, "warmup": 0} | {
            "learning_rate": 0.025, "learning_rate_min": 0.001, "arch_learning_rate": 3e-4,
        },
    }  # fmt: skip

    def build(self, space: Space) -> Bilevel:
        plain = bilevel(self, space, relaxation=Dirichlet(self.seed))
        if self.regulariser == "decay":
            return plain
        plain.alphas = plain.alphas._replace(weight_decay=0.0)
        plain.penalty = DirichletKL(self.kl_weight)
        return plain
