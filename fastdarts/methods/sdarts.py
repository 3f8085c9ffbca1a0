"""SDARTS (Chen and Hsieh, "Stabilizing Differentiable Architecture Search via Perturbation-based Regularization", ICML
2020)."""

from __future__ import annotations

import dataclasses

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.perturbation import Adversarial, RandomSmoothing
from fastdarts.registry import register
from fastdarts.runs.kinds import Few, NotNegative
from fastdarts.spaces import Space
from fastdarts.tasks.settings import BilevelConfig

PAPER = "Chen and Hsieh, ICML 2020"


@dataclasses.dataclass(frozen=True)
class PerturbedConfig(BilevelConfig):
    """Settings of the methods that perturb mixing weights."""

    epsilon_start: NotNegative = 0.03
    """Radius of the perturbation in the first epoch."""
    epsilon_end: NotNegative = 0.3
    """Radius that an epoch after the last would have; between the two it changes by equal steps."""

    needs = frozenset({"cell weights"})
    projected_by = "darts-pt"

    def check(self, space: Space) -> None:
        """The radius is one of mixing weights."""
        super().check(space)
        if max(self.epsilon_start, self.epsilon_end) > 1:
            raise FastdartsError(
                f"--epsilon-start is {self.epsilon_start} and --epsilon-end {self.epsilon_end}: expected at most 1, as "
                "mixing weights are from 0 to 1"
            )


@register("sdarts-rs", paper=PAPER)
class SDARTSRS(PerturbedConfig):
    """SDARTS-RS: DARTS whose weights learn with mixing weights that are perturbed at random."""

    def build(self, space: Space) -> Bilevel:
        perturbation = RandomSmoothing(self.epsilon_start, self.epsilon_end, self.seed)
        return bilevel(self, space, perturbation=perturbation)


@register("sdarts-adv", paper=PAPER)
class SDARTSADV(PerturbedConfig):
    """SDARTS-ADV: DARTS whose weights learn with mixing weights that are perturbed to raise their loss."""

    attack_steps: Few = 7
    """Steps of gradient ascent that find the perturbation of a step."""

    def build(self, space: Space) -> Bilevel:
        perturbation = Adversarial(self.epsilon_start, self.epsilon_end, self.seed, self.attack_steps)
        return bilevel(self, space, perturbation=perturbation)
