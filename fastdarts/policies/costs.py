"""What candidates cost, and the penalty that SNAS makes of it (Xie et al. 2019, "SNAS: Stochastic Neural Architecture
Search", ICLR, section 2.4)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from fastdarts.nn.candidates import build_candidate
from fastdarts.nn.relaxation import Relaxation
from fastdarts.nn.supernet import Supernet
from fastdarts.policies.bilevel import Penalty
from fastdarts.spaces.cells.parts import places

Cost = tuple[float, float, float]
"""Parameters, multiplications, and numbers that are read or written, for one image."""


def cost(op: nn.Module, channels: int, size: tuple[int, int]) -> Cost:
    """What a candidate costs on a map [1, channels, *size].

    Convolutions count as they are: parameters, a multiplication for each weight and place of the output, and their
    input, output and weights as numbers moved. Pools multiply once for each place of their window. Other modules cost
    nothing but the numbers of the whole candidate's input and output, if it has no convolution. `none` costs nothing.
    """
    total, hooks = [0.0, 0.0, 0.0], []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            weights = module.weight.numel()
            work = weights // module.out_channels * output.numel()
        else:
            weights, work = 0, module.kernel_size**2 * output.numel()
        for place, amount in enumerate((weights, work, inputs[0].numel() + output.numel() + weights)):
            total[place] += amount

    with torch.no_grad():
        for module in op.modules():
            if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
                hooks.append(module.register_forward_hook(count))
        x = torch.empty(1, channels, *size, device="meta")
        moved = op(x).numel() + x.numel()
    if not hooks:
        total[2] = float(moved)
    return tuple(total)


@functools.lru_cache(maxsize=4096)
def _cost_of(name: str, channels: int, stride: int, size: tuple[int, int]) -> Cost:
    if name == "none":
        return 0.0, 0.0, 0.0
    with _disable_current_modes(), torch.device("meta"):
        return cost(build_candidate(name, channels, stride), channels, size)


class ResourceCost(Penalty):
    r"""What the drawn mixture costs: :math:`\lambda (R_{first} + \rho \sum R_{other})` over the kinds of cells.

    R of a kind is the mean over its cells of
    :math:`\sum_e \frac{1}{3} \sum_c \log \max(1, \sum_k z_{ek} c_k)` over the edges e and the three costs c, see
    :func:`cost`, with z the weights that the step has drawn.

    Args:
        relaxation: what draws them.
        weight, ratio: λ and ρ.
    """

    def __init__(self, relaxation: Relaxation, weight: float, ratio: float):
        self._relaxation, self._weight, self._ratio = relaxation, weight, ratio
        self._tables: list[Tensor] = []

    def attach(self, model: Supernet, size: tuple[int, int]) -> None:
        """Look up the costs of all candidates, for images of this size."""
        found: dict[str, list[list[list[Cost]]]] = {kind: [] for kind in model.primitives}
        for kind, edges in places(model, size):
            found[kind].append(
                [
                    [_cost_of(name, edge.channels // edge.k, edge.stride, maps) for name in names]
                    for (edge, maps), names in zip(edges, model.primitives[kind], strict=True)
                ]
            )
        alphas = model.alpha_tables()
        self._tables = [
            torch.tensor(cells, dtype=alpha.dtype).to(alpha.device)
            for cells, alpha in zip(found.values(), alphas, strict=True)
        ]  # [cells, E, K, 3]

    def loss(self, alphas: Sequence[Tensor], epoch: int) -> Tensor:
        """The term, a scalar."""
        total = alphas[0].new_zeros(())
        for kind, (alpha, table) in enumerate(zip(alphas, self._tables, strict=True)):
            if len(table):
                drawn = self._relaxation.mix(alpha, kind).weights
                sums = torch.einsum("ek,nekc->nec", drawn, table).clamp_min(1.0)
                total = total + (1.0 if kind == 0 else self._ratio) * sums.log().sum((1, 2)).mean() / 3
        return self._weight * total
