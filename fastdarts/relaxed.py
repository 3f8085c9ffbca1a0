"""What every supernet is: a module whose architecture is a few tensors of alphas beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

Chosen = Mapping[str, Sequence[int | None]]
"""For each kind of cell the candidate that each edge runs, alone and with weight 1; None where the edge is left out."""


class Relaxed(nn.Module):
    """A supernet: alphas [E, K] per kind of cell, plain tensors that are shared by all cells of their kind.

    They are neither in ``parameters()`` nor in ``state_dict()``, yet follow ``.to()`` and ``.cuda()``. A subclass has

    ``primitives``: the names of the candidates of each edge, by kind of cell, in the order of the alphas;
    ``genotype()``: the derived architecture;
    ``forward(input)``: the logits of the mixture; ``discrete(input, chosen)``: those of one candidate per edge, with
    the same weights.

    ``drop_path_prob``: in training, the probability with which the output of an edge is dropped, per sample; an
    attribute to set between epochs.
    """

    drop_path_prob = 0.0
    primitives: dict[str, tuple[tuple[str, ...], ...]]
    _arch_parameters: list[Tensor]
    _criterion: nn.Module

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        held = (value for value in vars(self).values() if isinstance(value, Tensor))
        for alpha in {id(a): a for a in (*held, *self._arch_parameters)}.values():
            # In place, so that optimizers built before keep their hold.
            moved = fn(alpha.data)
            if torch._has_compatible_shallow_copy_type(alpha, moved):
                alpha.data = moved
            else:  # to or from the meta device
                torch.utils.swap_tensors(alpha, moved.requires_grad_(alpha.requires_grad))
        return self

    def arch_parameters(self) -> list[Tensor]:
        """The alphas, one [E, K] per kind of cell, and what is learned along with them; always the same object."""
        return self._arch_parameters

    def mixing_weights(self) -> tuple[Tensor, ...]:
        """softmax(alpha) over the candidates, [E, K] per kind of cell."""
        return tuple(F.softmax(alpha, dim=-1) for alpha in self._arch_parameters)

    def edge_weights(self) -> tuple[Tensor | None, ...]:
        """Weights of the edges [E] per kind of cell, each softmaxed over the edges that enter a node; None where edges
        have none."""
        return (None,) * len(self.primitives)

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        return self._criterion(self(input), target)


def initial_alphas(edges: int, candidates: int | None, device: torch.device) -> Tensor:
    """1e-3 * N(0, 1), [edges, candidates], or [edges] for None; drawn on the CPU like the public code, so that a seed
    means the same alphas on every device."""
    size = (edges,) if candidates is None else (edges, candidates)
    return (1e-3 * torch.randn(size, device="cpu")).to(device).requires_grad_()
