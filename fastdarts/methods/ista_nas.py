"""ISTA-NAS (Yang et al., "ISTA-NAS: Efficient and Consistent Neural Architecture Search by Sparse Coding", NeurIPS
2020), its search in two stages."""

from __future__ import annotations

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel, refuse_none
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.selection import WeakerFirst
from fastdarts.policies.sparse import Sparse
from fastdarts.registry import register
from fastdarts.spaces import Space
from fastdarts.tasks.settings import AlphaConfig, ArchSideEffects


@register("ista-nas", paper="Yang et al., NeurIPS 2020")
class ISTANAS(ArchSideEffects, AlphaConfig):
    """ISTA-NAS: a sparse code decides before each epoch which two candidates of every node are computed and learn."""

    space: str = "darts-7"
    """Space to search in, one without the candidate none."""

    needs = frozenset({"fixing"})
    published = {"cifar": {"batch_size": 256, "learning_rate": 0.1, "arch_learning_rate": 6e-4}}

    def check(self, space: Space) -> None:
        """A node keeps some of its candidates, and weights have no meaning but in sums."""
        super().check(space)
        refuse_none(self, space, "leaves an edge out by its code")
        if self.partial > 1 or self.edge_normalisation:
            raise FastdartsError(
                f"--partial is {self.partial} and --edge-normalisation {self.edge_normalisation}, but an edge that "
                f"method {self.method} leaves out must carry nothing: leave both out"
            )

    def build(self, space: Space) -> Bilevel:
        relaxation = Sparse(space.topology(self.nodes), self.seed)
        return bilevel(self, space, relaxation=relaxation, selection=WeakerFirst())
