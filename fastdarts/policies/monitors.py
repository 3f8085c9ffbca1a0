"""What is measured of a supernet after an epoch, for metrics.jsonl and the report."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import torch
from torch import Tensor

from fastdarts.nn.fusion.kinks import Unkeepable
from fastdarts.nn.operations import SKIP_CONNECTIONS
from fastdarts.nn.supernet import Supernet
from fastdarts.policies.alignment import alignment
from fastdarts.policies.base import Batch, Monitor, Row, Search, Stepping
from fastdarts.policies.curvature import Differences, hessian_eigenvalues
from fastdarts.policies.curvature import Exact as Product
from fastdarts.policies.gap import discretisation_gap
from fastdarts.policies.passes import Passes
from fastdarts.spaces import Space

ALIGNMENT_BATCHES = 10


class Validation(Monitor):
    """Loss and metric of the mixture on the validation data: ``valid_loss``, ``valid_error`` (percent), ..."""

    def measure(self, search: Search) -> Row:
        with search.autocast():
            return search.measured_on(search.interruptible(search.valid.in_order()), "valid")


class Gap(Monitor):
    """The discretisation gap, see :func:`fastdarts.policies.gap.discretisation_gap`."""

    def measure(self, search: Search) -> Row:
        with search.autocast():
            return discretisation_gap(search.model, search.interruptible(search.valid.in_order()))


class Eigenvalue(Monitor):
    """The largest eigenvalue of the Hessian of the loss of a batch in the alphas (Zela et al. 2020, section 4.1).

    The L2 on the alphas is on its diagonal. Where the kernels can keep all kinks, the eigenvalue comes from differences
    that keep them. These agree with exact products to 0.5 % (tests/nn/fusion/test_kinks.py). Elsewhere it comes from
    exact products.

    Args:
        every: epochs between two measurements, which begin after the first epoch; there is one after the last epoch.
        weight_decay: the L2 on the alphas.
        bypassed: whether channels bypass the candidates; their kinks cannot be kept.
    """

    def __init__(self, every: int, weight_decay: float, bypassed: bool = False):
        super().__init__(every)
        self.weight_decay, self.bypassed = weight_decay, bypassed

    def due(self, epoch: int, epochs: int) -> bool:
        return self.every > 0 and (epoch % self.every == 0 or epoch == epochs - 1)

    def measure(self, search: Search) -> Row:
        x, y = search.arch.batch((search.epoch + 1) * len(search.train_stream) - 1)
        batch = x.to(search.device), y.to(search.device)
        return {"eigenvalue": self.largest(search.model, *batch)}

    def largest(self, model: Supernet, x: Tensor, y: Tensor) -> float:
        """That of the loss on a batch, on the device of ``model``."""
        if self._keeps_kinks(x):
            try:
                found = hessian_eigenvalues(model, x, y, radius=1e-2, keep_kinks=True)
                return found.values[0].item() + self.weight_decay
            except Unkeepable as error:
                slower = "the eigenvalue comes from exact products, which take more time and memory"
                warnings.warn(f"{error}; {slower}.", RuntimeWarning, stacklevel=2)
        return hessian_eigenvalues(model, x, y).values[0].item() + self.weight_decay

    def rehearse(self, supernet: Stepping, batch: Batch, arch_batch: Batch) -> None:
        count = sum(alpha.numel() for alpha in supernet.model.arch_parameters())
        passes = Passes(supernet.model, side_effects=False)
        keeps = self._keeps_kinks(arch_batch[0])
        product = Differences(passes, arch_batch, 1e-2) if keeps else Product(passes, arch_batch)
        product(torch.ones(count, dtype=torch.float64))

    def _keeps_kinks(self, x: Tensor) -> bool:
        """Whether the kernels can keep the kinks of the supernet's ops: those of CPUs, but for bypassed channels."""
        return x.device.type == "cpu" and not self.bypassed


class ProductError(Monitor):
    """How far the finite difference of an unrolled step is from the exact product, on the first batches of the
    epoch."""

    def measure(self, search: Search) -> Row:
        first = search.epoch * len(search.train_stream)
        batches = search.train_stream.first(search.epoch), search.arch.batch(first)
        with search.autocast():
            return search.difference_error(*batches)

    def rehearse(self, supernet: Stepping, batch: Batch, arch_batch: Batch) -> None:
        supernet.difference_error(batch, arch_batch)


class LayerAlignment(Monitor):
    """The alignment of the layers, see :func:`fastdarts.policies.alignment.alignment`, on ten batches."""

    def measure(self, search: Search) -> Row:
        with search.autocast():
            few = itertools.islice(search.interruptible(search.valid.in_order()), ALIGNMENT_BATCHES)
            return alignment(search.model, few)


class Facts(Monitor):
    """The strengths of the candidates and what would be derived from them."""

    def measure(self, search: Search) -> Row:
        return supernet_facts(search.model, search.space, search.derive())


def supernet_facts(model: Supernet, space: Space, genotype: Any) -> dict[str, Any]:
    """What a row of metrics.jsonl says of a supernet and of the ``genotype`` that would be derived of it.

    ``weights``: the strengths of the candidates. ``entropy``: their mean entropy per edge in nats. ``edge_weights``:
    those of normalised edges. ``skip``: the skip connections of the genotype, for images; of a chain its empty places.
    Each name ends in the kind of cell.
    """
    facts: dict[str, Any] = {"genotype": space.to_dict(genotype)}
    cells = space.cells(genotype).items()
    with torch.no_grad():
        kinds = zip(cells, model.mixing_weights(), model.edge_weights(), strict=True)
        for (kind, (edges, _)), weights, edge_weights in kinds:
            shares = weights if model.relaxation.normalised else _shares(weights)
            facts[f"entropy_{kind}"] = -torch.xlogy(shares, shares).sum(1).mean().item()
            if not space.cell.made_of:
                facts[f"skip_{kind}"] = sum(edge[0] in SKIP_CONNECTIONS for edge in edges)
            facts[f"weights_{kind}"] = weights.tolist()
            if edge_weights is not None:
                facts[f"edge_weights_{kind}"] = edge_weights.tolist()
    return facts


def _shares(strengths: Tensor) -> Tensor:
    """Strengths that may be of any size and sign as shares of their edge."""
    sizes = strengths.abs()
    return sizes / sizes.sum(1, keepdim=True).clamp_min(torch.finfo(sizes.dtype).tiny)
