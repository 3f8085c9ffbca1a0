"""ENAS (Pham et al., "Efficient Neural Architecture Search via Parameter Sharing", ICML 2018), its micro space.

The constants are those of the public code, script cifar10_micro_search.sh. docs/differences.md says what differs.
"""

from __future__ import annotations

from fastdarts.methods.common import refuse_mixture, single_path
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.controlled import ControlledPath, ControllerSteps, operations_of
from fastdarts.policies.evaluators import BestOfMany, PathError
from fastdarts.policies.schedules import restarts
from fastdarts.registry import register
from fastdarts.runs.kinds import Batch, Count, Epochs, NotNegative, Portion, Positive
from fastdarts.spaces import Space
from fastdarts.tasks.settings import SupernetConfig


@register("enas", paper="Pham et al., ICML 2018")
class ENAS(SupernetConfig):
    """ENAS: each step of the shared weights trains a cell that a controller draws; it learns between epochs."""

    space: str = "enas"
    """Space to search in; the published one has a supernet of its own."""
    epochs: Epochs = 150
    """Passes over the training part."""
    weight_decay: NotNegative = 2e-4
    """L2 on the weights."""
    grad_clip: Positive = 1e9
    """Largest norm of the weights' gradient; the released code clips nothing."""
    first_period: Epochs = 10
    """Epochs of the first cosine of the learning rate; each next cosine is twice as long."""
    candidates: Batch = 10
    """Cells that the controller draws at the end; the best of them is the result."""
    policy_learning_rate: Positive = 3.5e-3
    """Adam learning rate of the controller."""
    policy_steps: Count = 30
    """Steps of the controller after every epoch."""
    policy_batch: Count = 10
    """Cells from which the controller learns at a time, each judged on a validation batch of its own."""
    entropy_weight: NotNegative = 1e-4
    """Weight of the entropy of the decisions, which is part of the reward."""
    baseline_decay: Portion = 0.99
    """Share of itself that the baseline keeps with every reward."""
    tanh_constant: Positive = 1.1
    """Bound of the logits of the sources."""
    op_tanh_reduce: Positive = 2.5
    """Divisor of that bound for the logits of the operations."""
    logit_temperature: Positive = 1.0
    """Temperature that divides logits before they are bounded; 1 is published."""

    needs = frozenset({"class logits", "two operations per node"})
    published = {
        "cifar": {
            "batch_size": 160, "learning_rate": 0.05, "learning_rate_min": 5e-4, "train_portion": 0.9,
        },
        "enas": {"layers": 6, "channels": 20},
    }  # fmt: skip

    def check(self, space: Space) -> None:
        """All edges offer the same operations, and there is no mixture."""
        refuse_mixture(self, space)
        operations_of(space, self.nodes)

    def build(self, space: Space) -> Bilevel:
        path = ControlledPath(
            space.single,
            self.nodes,
            self.seed,
            tanh_constant=self.tanh_constant,
            op_reduce=self.op_tanh_reduce,
            temperature=self.logit_temperature,
            rate=self.policy_learning_rate,
            weight=self.entropy_weight,
            decay=self.baseline_decay,
        )
        # The controller is last: what a signal ends before it is measured again, and it has not learned yet.
        monitors = PathError(path), ControllerSteps(path, self.policy_steps, self.policy_batch)
        rates = restarts(
            self.learning_rate, self.learning_rate_min, self.epochs, self.first_period, self.learning_rate_warmup
        )
        selection = BestOfMany(self.candidates, path, keeps_edges=False)  # a drawn node may read one state twice
        return single_path(self, path, selection, *monitors, learning_rates=rates, nesterov=self.momentum > 0)
