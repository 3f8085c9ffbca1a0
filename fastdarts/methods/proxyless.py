"""ProxylessNAS (Cai et al., "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", ICLR 2019).

The numbers are those of the public code, with the differences that docs/differences.md lists.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import AlphaOptimizer, Bilevel
from fastdarts.policies.gates import BinaryGates, PolicyGradient
from fastdarts.policies.hypergradients import FirstOrder
from fastdarts.registry import register
from fastdarts.runs.kinds import Epochs, Few, NotNegative, Portion, Positive
from fastdarts.spaces import Space
from fastdarts.spaces.chain.genotype import ZERO
from fastdarts.tasks.schedule import cosine
from fastdarts.tasks.settings import AlphaConfig
from fastdarts.tasks.task import find_task

IN_LOSS = {"cost_loss": "log", "cost_weight": None, "cost_exponent": 0.3}
"""What says how a cost counts in a loss, and what these settings are by default."""
IN_REWARD = {"networks": 10, "reward_exponent": 0.1}
"""The same of a reward."""


@register("proxyless", paper="Cai et al., ICLR 2019")
class ProxylessNAS(AlphaConfig):
    """ProxylessNAS: each step computes one drawn candidate per layer, and the alphas learn through binary gates."""

    space: str = "mbconv"
    """Space to search in, one whose supernets have binary gates, such as mbconv-tiny."""
    epochs: Epochs = 160
    """Passes over the training images, those of the warm-up among them."""
    gates: Literal["full-v2", "two", "reinforce"] = "full-v2"
    """Gradient of the alphas. full-v2: through the gates of all candidates. two: through those of two drawn candidates,
    while the probabilities of the others stay. reinforce: from the reward of drawn networks."""
    warmup_learning_rate: Positive = 0.05
    """SGD learning rate of the weights at the start of the warm-up, in which it falls along a cosine of its own."""
    weight_steps: Few = 5
    """Steps that the weights take for each step of the alphas."""
    weight_decay: NotNegative = 4e-5
    """L2 on the weights."""
    arch_weight_decay: NotNegative = 0.0
    """L2 on the alphas."""
    label_smoothing: Portion | None = None
    """Share of the target of the weights that is spread over all classes (tasks with classes 0.1, others 0)."""
    networks: Few = IN_REWARD["networks"]
    """Networks that are drawn in a step of the alphas (reinforce)."""
    reward_exponent: NotNegative = IN_REWARD["reward_exponent"]
    """Exponent w of the reward with a cost E and a target T: accuracy × (T / E)^w (reinforce)."""

    needs = frozenset({"binary gates"})
    published = {
        "cifar": {
            "batch_size": 256, "learning_rate_min": 0.0, "arch_learning_rate": 1e-3, "train_portion": 0.9, "warmup": 40,
        },
    }  # fmt: skip

    def left_out(self, space: Space) -> dict[str, Any]:
        """Targets are smoothed where there are classes."""
        smoothing = 0.1 if "class logits" in find_task(self.task).has else 0.0
        return {**super().left_out(space), "label_smoothing": smoothing}

    def check(self, space: Space) -> None:
        """The alphas learn in some epoch, and what is set is used."""
        super().check(space)
        if self.warmup + 1 >= self.epochs:
            raise FastdartsError(
                f"--warmup is {self.warmup} and --epochs {self.epochs}, but the alphas begin to learn in the second "
                "epoch after the warm-up: lower it or raise the epochs"
            )
        if self.learning_rate_min > self.warmup_learning_rate:
            raise FastdartsError(
                f"--learning-rate-min is {self.learning_rate_min}, above --warmup-learning-rate "
                f"{self.warmup_learning_rate}: the rate must fall; lower the minimum"
            )
        classes = "class logits" in find_task(self.task).has
        if self.label_smoothing and not classes:
            raise FastdartsError(f"--label-smoothing is {self.label_smoothing}, but --task {self.task} has none: use 0")
        if self.gates == "reinforce" and not classes:
            raise FastdartsError(
                f"--gates reinforce needs an accuracy, but --task {self.task} has no classes: use --gates full-v2"
            )
        rewarded = self.gates == "reinforce"
        unused, reason = (IN_LOSS, "a cost counts in the reward") if rewarded else (IN_REWARD, "nothing is rewarded")
        for name, usual in unused.items():
            if (value := getattr(self, name, usual)) != usual:
                flag = name.replace("_", "-")
                raise FastdartsError(f"--{flag} is {value}, but with --gates {self.gates} {reason}: leave it out")

    def build(self, space: Space) -> Bilevel:
        tables = space.primitives(self.nodes).values()
        nothing = [[[name == ZERO for name in row] for row in table] for table in tables]
        gates = BinaryGates(self.seed, nothing, pairs=self.gates == "two")
        reinforce = PolicyGradient(gates, self.networks, self.reward_exponent)
        return bilevel(
            self,
            space,
            alphas=AlphaOptimizer(self.arch_learning_rate, self.arch_weight_decay, self.arch_grad_clip, (0.0, 0.999)),
            relaxation=gates,
            hypergradient=reinforce if self.gates == "reinforce" else FirstOrder(),
            order="weights first",
            augmented=False,
            nesterov=self.momentum > 0,
            learning_rates=self._rates(),
            weight_steps=self.weight_steps,
            warmup=self.warmup + 1,
        )

    def _rates(self) -> list[float]:
        """The learning rates of the weights: a cosine over the warm-up, and another one over the search."""
        warm = replace(self, learning_rate=self.warmup_learning_rate, epochs=self.warmup, learning_rate_warmup=0)
        main = replace(self, epochs=self.epochs - self.warmup)
        return [cosine(config, epoch) for config in (warm, main) for epoch in range(config.epochs)]
