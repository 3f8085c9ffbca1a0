"""sharpDARTS (Hundt et al., "sharpDARTS: Faster and More Accurate Differentiable Architecture Search",
arXiv:1903.09900, 2019)."""

from __future__ import annotations

from typing import Literal

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.nn.relaxation import SOFTMAX
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.relaxations import MaxW
from fastdarts.policies.schedules import cosine_power
from fastdarts.registry import register
from fastdarts.runs.kinds import Epochs, Positive
from fastdarts.spaces import Space
from fastdarts.tasks.settings import BilevelConfig


@register("sharp-darts", paper="Hundt et al., arXiv 2019")
class SharpDARTS(BilevelConfig):
    """sharpDARTS: the strongest candidate of an edge has weight 1, and the learning rate falls by cosine power."""

    space: str = "sharp"
    """Space to search in; the published one has convolutions of its own."""
    epochs: Epochs = 120
    """Passes over the training half."""
    weighting: Literal["max-w", "max-w-detached", "scalar"] = "max-w"
    """Mixing weights. max-w: 1 less the largest share, plus the candidate's own; the gradient goes through the largest
    share, as published. max-w-detached: without that gradient. scalar: the softmax of DARTS."""
    power: Positive = 2.0
    """Base of the cosine power by which the learning rate falls; 1 is nearly the cosine of DARTS."""

    published = {
        "cifar": {"batch_size": 48, "learning_rate": 0.025, "learning_rate_min": 1e-4, "learning_rate_warmup": 5}
    }

    def check(self, space: Space) -> None:
        """There are epochs after the warm-up, and the rate falls."""
        super().check(space)
        if self.power < 1:
            raise FastdartsError(f"--power is {self.power}: expected at least 1, so that the learning rate falls")
        if self.learning_rate_warmup >= self.epochs:
            raise FastdartsError(
                f"--learning-rate-warmup is {self.learning_rate_warmup} for {self.epochs} epochs: expected fewer than "
                "these"
            )

    def build(self, space: Space) -> Bilevel:
        rates = cosine_power(
            self.learning_rate, self.learning_rate_min, self.epochs, self.power, self.learning_rate_warmup
        )
        relaxation = SOFTMAX if self.weighting == "scalar" else MaxW(detached=self.weighting == "max-w-detached")
        return bilevel(self, space, relaxation=relaxation, learning_rates=rates)
