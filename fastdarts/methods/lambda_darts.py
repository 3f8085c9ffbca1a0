"""Λ-DARTS (Movahedi et al., "Λ-DARTS: Mitigating Performance Collapse by Harmonizing Operation Selection among Cells",
ICLR 2023)."""

from __future__ import annotations

from typing import Literal

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.policies.alignment import Alignment
from fastdarts.policies.bilevel import Bilevel
from fastdarts.registry import register
from fastdarts.runs.kinds import NotNegative, Positive
from fastdarts.spaces import Space
from fastdarts.spaces.chain.space import ChainSpace
from fastdarts.tasks.settings import BilevelConfig


@register("lambda-darts", paper="Movahedi et al., ICLR 2023")
class LambdaDARTS(BilevelConfig):
    """Λ-DARTS: DARTS whose weights learn to make all cells ask for the same change of the mixing weights."""

    lambda_strength: NotNegative = 0.125
    """Weight of the layer alignment in the loss of the weights in the last epoch; it rises from 0."""
    lambda_radius: Positive = 1e-4
    """Radius of the finite difference of the alignment's gradient, over the norm of the direction in the mixing
    weights."""
    lambda_correlation: Literal["cosine", "signed"] = "cosine"
    """Kind of alignment; signed divides the product of two gradients by that of their absolute values."""

    needs = frozenset({"cell weights"})
    has_own_difference = True
    projected_by = "darts-pt"

    def check(self, space: Space) -> None:
        """There are cells to compare."""
        super().check(space)
        if isinstance(space, ChainSpace):
            raise FastdartsError(
                f"--method {self.method} compares cells, but a chain of space {space.name} is one cell: choose a space "
                "of cells, such as darts"
            )

    def why_whole(self) -> str:
        """The alignment of a part is another one."""
        return super().why_whole() or "layer alignment is that of a whole batch"

    def build(self, space: Space) -> Bilevel:
        signed = self.lambda_correlation == "signed"
        alignment = Alignment(self.lambda_strength, self.lambda_radius, signed, self.keep_kinks)
        return bilevel(self, space, alignment=alignment)
