"""A recurrent controller that learns by reinforcement: as in NAS with RL (Zoph and Le, ICLR 2017), and as in NASNet
(Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018)."""

from __future__ import annotations

from fastdarts.engine.blackbox import BlackBoxConfig
from fastdarts.policies.searchers.controller import NASRL, PPO
from fastdarts.registry import register
from fastdarts.runs.kinds import Count, Few, NotNegative, Portion, Positive


@register("nas-rl", paper="Zoph and Le, ICLR 2017")
class NASWithRL(BlackBoxConfig):
    """NAS with RL: an LSTM makes one decision after another, and learns by REINFORCE from the cube of the accuracy."""

    policy_learning_rate: Positive = 6e-4
    """Adam learning rate of the controller."""
    policy_batch: Count = 8
    """Architectures from which the controller learns at a time."""

    def searcher(self, sizes: tuple[int, ...]) -> NASRL:
        return NASRL(sizes, self.seed, self.policy_learning_rate, self.policy_batch)


@register("ppo", paper="Zoph et al., CVPR 2018")
class ProximalPolicy(BlackBoxConfig):
    """PPO: an LSTM makes one decision after another, and learns by proximal policy optimisation, as for NASNet."""

    policy_learning_rate: Positive = 3.5e-4
    """Adam learning rate of the controller."""
    policy_batch: Count = 20
    """Architectures from which the controller learns at a time."""
    policy_passes: Few = 10
    """Steps that the controller makes by each of these batches; the paper does not say how many."""
    policy_clip: Portion = 0.2
    """Share by which probabilities may change before the gain of a batch counts no more."""
    entropy_weight: NotNegative = 1e-5
    """Weight of the entropy of the decisions."""

    def searcher(self, sizes: tuple[int, ...]) -> PPO:
        steps = self.policy_passes, self.policy_clip, self.entropy_weight
        return PPO(sizes, self.seed, self.policy_learning_rate, self.policy_batch, *steps)
