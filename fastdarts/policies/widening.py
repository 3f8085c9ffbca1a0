"""The second stage of DrNAS (Chen et al. 2021, "DrNAS: Dirichlet Neural Architecture Search", ICLR, section 3.3): fewer
candidates, more channels through each, and all that was learned goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.nn.operations import FactorizedReduce
from fastdarts.nn.supernet import Supernet
from fastdarts.policies.base import Search
from fastdarts.policies.noise import FIRST
from fastdarts.policies.stages import Kept, Pruning
from fastdarts.spaces import CellSpace


class Channels:
    """Where the channels of a wider operation come from: those that were there, then copies of random ones of them.

    Every width of the operation has one such map, so that what one layer gives is what the next one takes. The halves
    that a factorised reduction concatenates have the same.
    """

    def __init__(self, op: nn.Module, generator: torch.Generator):
        self._halves = isinstance(op, FactorizedReduce)
        self._generator, self._maps = generator, {}

    def _map(self, before: int, after: int) -> Tensor:
        if (before, after) not in self._maps:
            if self._halves and (before // 2, after // 2) in self._maps:
                half = self._maps[before // 2, after // 2]
                found = torch.cat([half, before // 2 + half])
            else:
                more = torch.randint(before, (after - before,), generator=self._generator, device="cpu")
                found = torch.cat([torch.arange(before, device="cpu"), more])
            self._maps[before, after] = found
        return self._maps[before, after]

    def widened(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """``tensor`` of a layer, in the ``shape`` of the wider one."""
        for dim, (before, after) in enumerate(zip(tensor.shape, shape, strict=True)):
            if before != after:
                tensor = tensor.index_select(dim, self._map(before, after).to(tensor.device))
        return tensor


class Widening(Pruning):
    """Supernets over ever fewer candidates, through which more and more channels go (``partial`` of each stage falls).

    Weights, running statistics, alphas and both optimizers' moments go on: what is not on an edge stays, candidates
    that are dropped go with all that is theirs, and those that stay become wider by :class:`Channels`. As in the public
    code nothing is rescaled, so what the network computes is another function at first.

    Args:
        space, nodes: the whole space, and the nodes of its cells.
        epochs: of every stage.
        partial: of each stage.
        candidates: how many an edge keeps for each stage after the first.
        seed: of the channels that are copied.
    """

    def __init__(
        self,
        space: CellSpace,
        nodes: int,
        epochs: int,
        partial: Sequence[int],
        candidates: Sequence[int],
        seed: int,
    ):
        super().__init__(space, nodes, epochs, candidates, [{"partial": count} for count in partial])
        self._seed = seed
        self._before: tuple[Any, ...] = ()

    def end(self, search: Search, number: int) -> None:
        """Choose the candidates, and keep the supernet for the next stage."""
        before = {kind: self.columns(kind) for kind in self.tables}
        super().end(search, number)
        places = {
            kind: [[had.index(k) for k in has] for had, has in zip(before[kind], self.columns(kind), strict=True)]
            for kind in self.tables
        }
        self._before = search.model, search.optimizer, search.arch_optimizer, places

    def begin(self, search: Search, number: int) -> None:
        """Take over what was learned."""
        model, optimizer, arch_optimizer, places = self._before
        self._before = ()
        generator = torch.Generator().manual_seed(FIRST + self._seed + number)
        with torch.no_grad():
            self._take_weights(search, model, optimizer, places, generator)
            self._take_alphas(search, model, arch_optimizer, places)

    def _take_weights(
        self,
        search: Search,
        before: Supernet,
        optimizer: torch.optim.Optimizer,
        places: dict[str, Kept],
        generator: torch.Generator,
    ) -> None:
        def take(mine: Tensors, theirs: Tensors, channels: Channels) -> None:
            for name, tensor in mine.items():
                tensor.copy_(channels.widened(theirs[name], tensor.shape))
                momentum = optimizer.state.get(theirs[name], {}).get("momentum_buffer")
                if momentum is not None:
                    search.optimizer.state[tensor]["momentum_buffer"] = channels.widened(momentum, tensor.shape).clone()

        mine, theirs = _tensors(search.model), _tensors(before)
        for kind, cells in search.model.mixed_ops().items():
            for edges, old_edges in zip(cells, before.mixed_ops()[kind], strict=True):
                for edge, old, columns in zip(edges, old_edges, places[kind], strict=True):
                    for op, k in zip(edge._ops, columns, strict=True):
                        take(_tensors(op), _tensors(old._ops[k]), Channels(op, generator))
        on_edges = {id(t) for own in _edges(search.model) for t in _tensors(own).values()}
        rest = {name: tensor for name, tensor in mine.items() if id(tensor) not in on_edges}
        take(rest, theirs, Channels(before, generator))

    def _take_alphas(
        self, search: Search, before: Supernet, optimizer: torch.optim.Optimizer, places: dict[str, Kept]
    ) -> None:
        index = [torch.tensor(columns) for columns in places.values()]
        pairs = zip(search.model.arch_parameters(), before.arch_parameters(), strict=True)
        for number, (mine, theirs) in enumerate(pairs):

            def kept(table: Tensor, number: int = number) -> Tensor:
                if number >= len(index):  # edge weights
                    return table.clone()
                return table.gather(1, index[number].to(table.device))

            mine.copy_(kept(theirs.detach()))
            if theirs in optimizer.state:
                search.arch_optimizer.state[mine] = {
                    name: value.clone() if name == "step" else kept(value)
                    for name, value in optimizer.state[theirs].items()
                }


Tensors = dict[str, Tensor]


def _tensors(module: nn.Module) -> Tensors:
    """Its parameters and buffers by name."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _edges(model: Supernet) -> Iterator[nn.Module]:
    return (edge for cells in model.mixed_ops().values() for edges in cells for edge in edges)
