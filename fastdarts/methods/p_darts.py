"""P-DARTS (Chen et al., "Progressive Differentiable Architecture Search: Bridging the Depth Gap between Search and
Evaluation", ICCV 2019)."""

from __future__ import annotations

from itertools import pairwise

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel, monitors
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.limit_skips import LimitSkips
from fastdarts.policies.stages import Progressive, WholeFacts
from fastdarts.registry import register
from fastdarts.runs.kinds import Epochs, EpochsOrNone, Few, NotNegativeInt, Portion
from fastdarts.spaces import Space
from fastdarts.tasks.settings import AlphaConfig


@register("p-darts", paper="Chen et al., ICCV 2019")
class PDARTS(AlphaConfig):
    """P-DARTS: three supernets of 5, 11 and 17 cells over 8, 5 and 3 candidates an edge, one after another.

    Rates of the dropout are those of the paper for CIFAR-10. The command in its README has 0.1 for the first stage, and
    its script no dropout at all unless told so.
    """

    epochs: Epochs = 75
    """Passes over the training half, an equal share of them in every stage."""
    layers: Few | None = None
    """Cells of the first supernet (5)."""
    warmup: EpochsOrNone | None = None
    """Epochs of every stage in which the weights are trained and alphas and betas are not (10)."""
    added_layers: tuple[NotNegativeInt, ...] = (0, 6, 12)
    """Cells that the supernet of each stage has beyond those of the first."""
    kept_candidates: tuple[Few, ...] = (5, 3)
    """Candidates that every edge keeps for each stage after the first."""
    skip_dropout: tuple[Portion, ...] = (0.0, 0.4, 0.7)
    """Highest rate at which the skip connections of each stage drop elements."""
    most_skips: NotNegativeInt = 2
    """Skip connections that the normal cell may have in the end, where its edges have other candidates left."""

    needs = frozenset({"candidates per edge"})
    published = {
        "cifar": {
            "batch_size": 96,
            "layers": 5,
            "warmup": 10,
            "learning_rate_min": 0.0,
            "arch_learning_rate": 6e-4,
            "arch_grad_clip": 5.0,
        }
    }

    def check(self, space: Space) -> None:
        """Settings must speak of the same stages, and every edge must have candidates to drop."""
        super().check(space)
        stages, kept = len(self.added_layers), self.kept_candidates
        if not stages or len(kept) != stages - 1 or len(self.skip_dropout) != stages:
            raise FastdartsError(
                f"--added-layers names {stages} stages, --kept-candidates {len(kept)} after the first and "
                f"--skip-dropout {len(self.skip_dropout)}: expected the same stages in all three"
            )
        if self.epochs % stages or max(self.warmup, self.learning_rate_warmup) >= self.epochs // stages:
            raise FastdartsError(
                f"--epochs is {self.epochs}, --warmup {self.warmup} and --learning-rate-warmup "
                f"{self.learning_rate_warmup} for {stages} stages: expected a multiple of "
                f"{stages}, and fewer epochs of warm-up than a stage has"
            )
        fewest = min(len(table[0]) for table in space.primitives(self.nodes).values())
        if min(kept, default=2) < 2 or any(after > before for before, after in pairwise((fewest, *kept))):
            raise FastdartsError(
                f"--kept-candidates is {', '.join(map(str, kept))} but edges of space {space.name} offer {fewest}: "
                f"expected numbers from {fewest} to 2 that do not rise"
            )

    def build(self, space: Space) -> Bilevel:
        stages = Progressive(
            space,
            self.nodes,
            epochs=self.epochs // len(self.added_layers),
            warmup=self.warmup,
            layers=[self.layers + more for more in self.added_layers],
            candidates=self.kept_candidates,
            dropout=self.skip_dropout,
        )
        *measured, _ = monitors(self)
        selection = LimitSkips(self.most_skips)
        return bilevel(self, space, stages=stages, monitors=(*measured, WholeFacts(stages)), selection=selection)
