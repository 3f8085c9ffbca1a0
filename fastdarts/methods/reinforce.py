"""REINFORCE with a policy of its own for each decision (Dong et al., "NATS-Bench: Benchmarking NAS Algorithms for
Architecture Topology and Size", TPAMI 2021)."""

from __future__ import annotations

from fastdarts.engine.blackbox import BlackBoxConfig
from fastdarts.policies.searchers.reinforce import Reinforce
from fastdarts.registry import register
from fastdarts.runs.kinds import Portion, Positive


@register("reinforce", paper="Dong et al., TPAMI 2021")
class ReinforcePerDecision(BlackBoxConfig):
    """REINFORCE: each decision has probabilities of its own, which follow the reward of every architecture."""

    policy_learning_rate: Positive = 0.01
    """Adam learning rate of the logits."""
    baseline_momentum: Portion = 0.9
    """Momentum of the moving average of rewards that a reward is compared with."""

    def searcher(self, sizes: tuple[int, ...]) -> Reinforce:
        return Reinforce(sizes, self.seed, self.policy_learning_rate, self.baseline_momentum)
