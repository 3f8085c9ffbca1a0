"""What the supernet loses when each edge is replaced by its chosen operation, with the same weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.nn.random_state import same_random_numbers
from fastdarts.nn.statistics import batch_statistics
from fastdarts.nn.supernet import Supernet
from fastdarts.ranks import total


class DiscretisedNetwork(nn.Module):
    r"""A view of a supernet in which every edge runs only its strongest operation other than ``none``, with weight 1.

    All edges stay, and with partial channels or edge normalisation what bypasses the operation and the weights of the
    edges; the modules, hence the weights, are the supernet's own. An edge whose only candidate is ``none`` contributes
    zero.

    ``forward(input)``: as the supernet's, logits [N, num_classes].
    """

    def __init__(self, supernet: Supernet):
        super().__init__()
        self.supernet = supernet
        self.chosen = strongest(supernet)

    def forward(self, input: Tensor) -> Tensor:
        return self.supernet.discrete(input, self.chosen)


@torch.no_grad()
def strongest(supernet: Supernet) -> dict[str, list[int]]:
    """Of every edge the candidate with the largest mixing weight, `none` aside, by kind of cell."""
    kinds = zip(supernet.primitives.items(), supernet.mixing_weights(), strict=True)
    return {
        kind: [_strongest(row, names) for row, names in zip(weights.cpu(), table, strict=True)]
        for (kind, table), weights in kinds
    }


def _strongest(weights: Tensor, names: tuple[str, ...]) -> int:
    """The first index of the largest weight among the candidates that are not ``none``; 0 if there is no other."""
    return max((k for k, name in enumerate(names) if name != "none"), key=lambda k: weights[k].item(), default=0)


@torch.no_grad()
def discretisation_gap(supernet: Supernet, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    r"""Accuracy of the supernet minus accuracy of its :class:`DiscretisedNetwork` on the same batches, same weights.

    Both are measured with batch statistics: the running statistics belong to the mixture and would count a mere
    change of scale as a loss.

    Args:
        supernet: left as it was, like the random state.
        batches: pairs of images [N, C, H, W] and labels [N]; of several ranks, those of this one.

    Returns ``supernet_error_batch_stats`` and ``discretised_error`` in percent, and ``discretisation_gap``, their
    difference in percentage points (positive: the supernet is better).
    """
    discrete = DiscretisedNetwork(supernet)
    wrong_mixed = wrong_discrete = images = 0
    with batch_statistics(supernet), same_random_numbers(next(supernet.parameters()).device):
        for x, y in batches:
            wrong_mixed += (supernet(x).argmax(1) != y).sum().item()
            wrong_discrete += (discrete(x).argmax(1) != y).sum().item()
            images += len(y)
    wrong_mixed, wrong_discrete, images = total(wrong_mixed, wrong_discrete, images)
    if not images:
        raise FastdartsError("discretisation_gap got no batches: expected at least one to measure both networks on")
    mixed, chosen = 100 * wrong_mixed / images, 100 * wrong_discrete / images
    return {
        "supernet_error_batch_stats": mixed,
        "discretised_error": chosen,
        "discretisation_gap": chosen - mixed,
    }
