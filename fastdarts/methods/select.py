"""R-DARTS (Zela et al., "Understanding and Robustifying Differentiable Architecture Search", ICLR 2020): the choice
between the genotypes of several searches."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from fastdarts.engine.blackbox import BlackBox, BlackBoxConfig
from fastdarts.errors import FastdartsError
from fastdarts.policies.searchers.base import Drawn
from fastdarts.registry import register
from fastdarts.runs.kinds import Count
from fastdarts.spaces import Space, parse_architecture
from fastdarts.tasks.settings import SearchConfig


@register("select", paper="Zela et al., ICLR 2020")
class Select(BlackBoxConfig):
    """R-DARTS: the genotypes of several searches are trained for a while, and the best is kept (section 5.3)."""

    genotypes: tuple[str, ...] = ()
    """Genotypes to compare, two or more of one space: folders of searches, or whatever evaluate takes."""
    queries: Count | None = None
    """Number of genotypes, which follows from --genotypes."""

    needs = frozenset({"training from scratch"})

    def check(self, space: Space) -> None:
        """Two genotypes or more, of one space."""
        super().check(space)
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
        return dataclasses.replace(super().prepared(), genotypes=texts, space=names[0])

    def left_out(self, space: Space) -> dict[str, Any]:
        return super().left_out(space) | {"queries": len(self.genotypes) or None}

    def build(self, space: Space) -> BlackBox:
        given = Drawn(parse_architecture(text).genotype for text in self.genotypes)
        return BlackBox(self, space, given, given.decode)
