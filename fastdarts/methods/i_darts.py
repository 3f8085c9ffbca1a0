"""iDARTS (Zhang et al., "iDARTS: Differentiable Architecture Search with Stochastic Implicit Gradients", ICML 2021)."""

from __future__ import annotations

from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.hypergradients import Neumann
from fastdarts.registry import register
from fastdarts.runs.kinds import Few
from fastdarts.spaces import Space
from fastdarts.tasks.settings import AlphaConfig, ArchSideEffects


@register("i-darts", paper="Zhang et al., ICML 2021")
class IDARTS(ArchSideEffects, AlphaConfig):
    """iDARTS: after some steps of the weights, alphas learn by the implicit gradient, a Neumann series of a batch."""

    weight_steps: Few = 5
    """Steps that the weights take for each step of the alphas."""
    series_terms: Few = 3
    """Terms of the series, by exact products with the Hessian of the training loss; 1 is the one at the weights."""

    published = {"cifar": {"batch_size": 96}, "nasbench201": {"batch_size": 64}}

    def why_whole(self) -> str:
        """The series needs the graph of the whole batch."""
        return f"method {self.method} differentiates the graph of a whole batch"

    def build(self, space: Space) -> Bilevel:
        return bilevel(
            self,
            space,
            hypergradient=Neumann(self.series_terms, decays=False),
            order="weights first",
            weight_steps=self.weight_steps,
        )
