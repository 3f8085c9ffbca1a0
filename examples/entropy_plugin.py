"""DARTS with a penalty on the entropy of its mixing weights: docs/own-method.md explains this file line by line.

fastdarts search entropy-darts --plugin examples/entropy_plugin.py --epochs 10 --entropy-weight 0.1
"""

import torch

from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel, Penalty
from fastdarts.registry import register
from fastdarts.runs.kinds import NotNegative
from fastdarts.spaces import Space
from fastdarts.tasks.settings import BilevelConfig


class Entropy(Penalty):
    """The mean entropy of the edges, in nats, times a weight that grows linearly to ``weight``."""

    def __init__(self, weight: float, epochs: int):
        self.weight, self.epochs = weight, epochs

    def loss(self, alphas, epoch):
        entropy = torch.cat([-(a.softmax(-1) * a.log_softmax(-1)).sum(-1) for a in alphas]).mean()
        return self.weight * (epoch + 1) / self.epochs * entropy


@register("entropy-darts", paper="an example")
class EntropyDARTS(BilevelConfig):
    """DARTS whose alphas pay for being undecided."""

    entropy_weight: NotNegative = 0.1
    """Weight of the entropy in the loss of the alphas, in the last epoch."""

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space, penalty=Entropy(self.entropy_weight, self.epochs))
