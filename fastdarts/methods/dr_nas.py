"""DrNAS (Chen et al., "DrNAS: Dirichlet Neural Architecture Search", ICLR 2021)."""

from __future__ import annotations

from typing import Any, Literal

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel, monitors, refuse_idle
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.penalties import DirichletKL
from fastdarts.policies.relaxations import Dirichlet
from fastdarts.policies.stages import WholeFacts
from fastdarts.policies.widening import Widening
from fastdarts.registry import register
from fastdarts.runs.kinds import Few, NotNegative, Width
from fastdarts.spaces import Space
from fastdarts.tasks.schedule import cosine
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
    progressive: bool | None = None
    """Two stages of as many epochs: in the second one edges have fewer candidates and each takes more channels. Left
    out, there are two where the space can have them, but for nasbench201."""
    next_candidates: Few | None = None
    """Candidates that every edge keeps for the second stage (4, or all where there are fewer)."""
    next_partial: Width | None = None
    """Number of channels of which only one enters the candidates in the second stage (4)."""
    published_rates: bool = False
    """Learning rates of the second stage as in the public code, which begins it at the highest rate again."""

    published = {
        "cifar": {
            "channels": 36,
            "layers": 20,
            "partial": 6,
            "warmup": 10,
            "learning_rate": 0.1,
            "learning_rate_min": 0.0,
            "arch_learning_rate": 6e-4,
            "next_partial": 4,
        },
        "imagenet": {
            "channels": 48,
            "layers": 14,
            "batch_size": 512,
            "partial": 6,
            "next_partial": 3,
            "warmup": 10,
            "learning_rate": 0.5,
            "learning_rate_min": 0.0,
            "learning_rate_warmup": 5,
            "arch_learning_rate": 6e-3,
            "arch_grad_clip": 5.0,
            "train_portion": 0.8,  # published: 10 % and 2.5 % of each class
        },
        "nasbench201": {
            "channels": 16,
            "layers": 17,
            "partial": 1,
            "progressive": False,
            "warmup": 0,
            "learning_rate": 0.025,
            "learning_rate_min": 0.001,
            "arch_learning_rate": 3e-4,
        },
    }

    @classmethod
    def refuses(cls, name: str) -> bool:
        """What is drawn cannot be differentiated twice, so that no eigenvalue can end a search."""
        return name == "eigenvalue_stop"

    def check(self, space: Space) -> None:
        """The second stage has fewer candidates and more channels than the first."""
        super().check(space)
        if self.regulariser != "kl":
            refuse_idle(self, ["kl_weight"], "--regulariser kl")
        if not self._has_stages(space):
            refuse_idle(self, ["next_candidates", "published_rates"], "two stages")
            return
        if lacking := sorted({"partial", "candidates per edge"} - space.has):
            raise FastdartsError(
                f"--progressive needs {' and '.join(lacking)}, which space {space.name} does not have: use "
                "--progressive False"
            )
        if self.epochs % 2 or max(self.warmup, self.learning_rate_warmup) >= self.epochs // 2:
            raise FastdartsError(
                f"--epochs is {self.epochs}, --warmup {self.warmup} and --learning-rate-warmup "
                f"{self.learning_rate_warmup}: expected two stages of equally many epochs, more than those of the "
                "warm-up; or use --progressive False"
            )
        if self.next_partial > self.partial or self.channels % self.next_partial:
            raise FastdartsError(
                f"--next-partial is {self.next_partial} with --partial {self.partial} and --channels {self.channels}: "
                "expected a divisor of the channels that is at most --partial"
            )
        fewest = self._fewest(space)
        if self.next_candidates is not None and not 2 <= self.next_candidates <= fewest:
            raise FastdartsError(
                f"--next-candidates is {self.next_candidates} but edges of space {space.name} offer {fewest}: expected "
                f"a number from 2 to {fewest}"
            )

    def _fewest(self, space: Space) -> int:
        return min(len(row) for table in space.primitives(self.nodes).values() for row in table)

    def _has_stages(self, space: Space) -> bool:
        return {"partial", "candidates per edge"} <= space.has if self.progressive is None else self.progressive

    def build(self, space: Space) -> Bilevel:
        policies: dict[str, Any] = {"relaxation": Dirichlet(self.seed)}
        if self._has_stages(space):
            half = self.epochs // 2
            partial = self.partial, self.next_partial
            stages = Widening(
                space, self.nodes, half, partial, [self.next_candidates or min(4, self._fewest(space))], self.seed
            )
            rates = [cosine(self, epoch) for epoch in range(self.epochs)]
            again = self.learning_rate / rates[half] if self.published_rates else 1.0
            *measured, _ = monitors(self)
            policies |= {"stages": stages, "monitors": (*measured, WholeFacts(stages))}
            policies["learning_rates"] = [*rates[:half], *(again * rate for rate in rates[half:])]
        plain = bilevel(self, space, **policies)
        if self.regulariser == "kl":
            plain.alphas = plain.alphas._replace(weight_decay=0.0)
            plain.penalty = DirichletKL(self.kl_weight)
        return plain
