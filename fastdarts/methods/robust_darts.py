"""RobustDARTS (Zela et al., "Understanding and Robustifying Differentiable Architecture Search", ICLR 2020): what stops
or regularises a search whose curvature rises, and the choice between several searches."""

from __future__ import annotations

import dataclasses
import json

from fastdarts.engine.random_search import RandomSearch
from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.rollback import Rollback
from fastdarts.registry import register
from fastdarts.runs.kinds import Count, NotNegativeInt, Positive
from fastdarts.spaces import Space, parse_architecture
from fastdarts.tasks.settings import BilevelConfig, SearchConfig

PAPER = "Zela et al., ICLR 2020"


@dataclasses.dataclass(frozen=True)
class RollbackConfig(BilevelConfig):
    """Settings of both methods that watch the largest eigenvalue."""

    es_window: Count = 5
    """Measurements in a moving average of the eigenvalue."""
    es_lag: Count = 4
    """Measurements between the two averages that are compared."""
    es_factor: Positive = 1.3
    """How many times the older average the newer one must be; the paper's wording is 0.75 (older / newer) and lag 5."""
    es_start: NotNegativeInt = 10
    """First epoch to return to."""

    projected_by = "darts-pt"
    published = {"cifar": {"eigenvalue_every": 2}}

    def check(self, space: Space) -> None:
        """The eigenvalue must be measured, and must be able to rise."""
        super().check(space)
        if self.eigenvalue_every == 0:
            raise FastdartsError(
                f"--eigenvalue-every is 0 but method {self.method} decides by the eigenvalue: leave it out"
            )
        if self.es_factor == 1:
            raise FastdartsError("--es-factor is 1: expected more (newer / older) or less (older / newer)")

    def rollback(self, adapt: tuple[float, float] | None = None) -> Rollback:
        """What happens when it rises fast."""
        rule = self.es_window, self.es_lag, self.es_factor, self.es_start
        return Rollback(self.eigenvalue_every, *rule, adapt)


@register("darts-es", paper=PAPER)
class DARTSES(RollbackConfig):
    """DARTS-ES: DARTS, back to before the largest eigenvalue of the alphas' Hessian rose fast, and ended there."""

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space, stopper=self.rollback())


@register("darts-ada", paper=PAPER)
class DARTSADA(RollbackConfig):
    """DARTS-ADA: DARTS, back to before the largest eigenvalue rose fast, and on from there with more L2."""

    ada_factor: Positive = 10.0
    """Factor of the L2 on the weights at every return."""
    ada_max_weight_decay: Positive = 0.03
    """Largest L2 that it may reach."""

    def check(self, space: Space) -> None:
        """The L2 must grow, and must have room to."""
        super().check(space)
        stronger = self.weight_decay * self.ada_factor
        if not stronger > self.weight_decay:
            raise FastdartsError(
                f"--weight-decay is {self.weight_decay} and --ada-factor {self.ada_factor}: method darts-ada ends "
                "because the L2 grows; choose a weight decay above 0 and a factor above 1"
            )
        if self.resume is None and stronger > self.ada_max_weight_decay * (1 + 1e-9):
            raise FastdartsError(
                f"--weight-decay is {self.weight_decay} and --ada-factor {self.ada_factor}, whose product is above "
                f"--ada-max-weight-decay {self.ada_max_weight_decay}: method darts-ada would never go back; lower one "
                "of the first two or raise the third"
            )

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space, stopper=self.rollback((self.ada_factor, self.ada_max_weight_decay)))


@register("select", paper=PAPER)
class Select(SearchConfig):
    """R-DARTS: the genotypes of several searches are trained for a while, and the best is kept (section 5.3)."""

    genotypes: tuple[str, ...] = ()
    """What is compared, two or more of one space: folders of searches, or whatever evaluate takes."""

    def check(self, space: Space) -> None:
        """Two genotypes or more, of one space."""
        if len(self.genotypes) < 2:
            raise FastdartsError(
                f"--genotypes names {len(self.genotypes)} with method {self.method}: expected two or more"
            )
        spaces = sorted({parse_architecture(text).space.name for text in self.genotypes})
        if self.resume is None and self.space not in (SearchConfig.space, *spaces):
            raise FastdartsError(
                f"--space is {self.space} but method select takes that of its --genotypes, {', '.join(spaces)}: "
                "leave it out"
            )

    def prepared(self) -> Select:
        """The genotypes as JSON, and their space: the run must not depend on folders that may change.

        Raises :class:`FastdartsError` if one cannot be read or they are of several spaces.
        """
        read = [parse_architecture(text) for text in self.genotypes]
        names = sorted({architecture.space.name for architecture in read})
        if len(names) > 1:
            raise FastdartsError(f"--genotypes are of the spaces {', '.join(names)}: compare those of one space")
        texts = tuple(json.dumps(architecture.to_dict()) for architecture in read)
        return dataclasses.replace(self, genotypes=texts, space=names[0])

    def build(self, space: Space) -> RandomSearch:
        return RandomSearch([parse_architecture(text) for text in self.genotypes])
