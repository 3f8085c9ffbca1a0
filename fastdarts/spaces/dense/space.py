"""The space of AutoDispNet (Saikia et al. 2019, "AutoDispNet: Improving Disparity Estimation With AutoML", ICCV)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.nn.dense_operations import BUILDERS
from fastdarts.spaces.cells.derive import derive_cell
from fastdarts.spaces.dense.genotype import CELLS, KINDS, DenseGenotype, check_genotype, from_dict, to_dict
from fastdarts.spaces.dense.network import VARIANTS, DenseNetwork
from fastdarts.spaces.dense.plan import check_layers
from fastdarts.spaces.dense.supernet import DenseSupernet
from fastdarts.spaces.space import Cells, Decision, ImageSpace, Table
from fastdarts.spaces.topology import Entry, Topology

CANDIDATES = tuple(BUILDERS)
OF_REDUCTIONS = tuple(name for name in CANDIDATES if not name.startswith("dil_conv"))
"""As published, reduction cells have no dilated convolutions."""


class DenseSpace(ImageSpace):
    """Normal, reduction and upsampling cells of an encoder and decoder.

    A node of a derived cell keeps two edges, and the first node of an upsampling cell all four, each with its strongest
    operation.
    """

    name = "autodispnet"
    task = "disparity"
    kinds = KINDS
    cell = CELLS["normal"]
    nodes, layers = 3, 9
    has = frozenset({"cell weights", "fixing"})
    variants = tuple(VARIANTS)
    example = (1, 384, 6)

    def cell_of(self, kind: str) -> Topology:
        """Two inputs, or the four of an upsampling cell."""
        return CELLS[kind]

    def topology_of(self, kind: str, nodes: int) -> Topology:
        """The same with so many nodes."""
        return CELLS[kind].of(nodes)

    def check(self, nodes: int, layers: int) -> None:
        """Nodes of a cell, and as many cells as an encoder and a decoder have."""
        self.topology(nodes)
        check_layers(layers)

    def primitives(self, nodes: int) -> dict[str, Table]:
        """The candidates of DARTS, of reduction cells without the dilated ones."""
        names = {kind: OF_REDUCTIONS if kind == "reduce" else CANDIDATES for kind in self.kinds}
        return {kind: (row,) * len(self.topology_of(kind, nodes).edges) for kind, row in names.items()}

    def supernet(
        self,
        channels: int,
        classes: int,
        layers: int,
        criterion: nn.Module,
        nodes: int,
        *,
        in_channels: int,
        memory: str,
    ) -> DenseSupernet:
        """See :class:`fastdarts.spaces.dense.supernet.DenseSupernet`; ``classes`` are the numbers said of a pixel.
        Images of an even number of channels are two views, which are compared."""
        sizes = channels, classes, layers, criterion, self.primitives(nodes), nodes, self
        return DenseSupernet(*sizes, in_channels=in_channels, memory=memory)

    def strongest(self, strengths: Sequence[Tensor], nodes: int) -> DenseGenotype:
        """For each node the strongest edges, stronger first; the first node of an upsampling cell keeps all four, in
        the order of its inputs. `none` is no operation, and ties keep the lower index."""
        self.check_strengths(strengths, nodes)
        cells = {}
        for (kind, names), table in zip(self.primitives(nodes).items(), strengths, strict=True):
            cell = self.topology_of(kind, nodes)
            pairs = derive_cell(table, names, cell)
            first = cell.first_kept or 0
            cells[kind] = sorted(pairs[:first], key=lambda pair: pair[1]) + pairs[first:]
        return from_dict(cells)

    def of_entries(self, cells: Mapping[str, Sequence[Entry]], nodes: int) -> DenseGenotype:
        """The genotype of pairs; raises :class:`FastdartsError` for entries that say where they lead."""
        return from_dict(cells)

    def network(
        self,
        variant: str,
        channels: int,
        classes: int,
        layers: int,
        auxiliary: bool,
        genotype: DenseGenotype,
        *,
        in_channels: int,
    ) -> nn.Module:
        """See :class:`fastdarts.spaces.dense.network.DenseNetwork`; ``classes`` are the numbers said of a pixel."""
        if auxiliary:
            raise FastdartsError(f"networks of space {self.name} have no auxiliary head: use --no-auxiliary")
        genotype = check_genotype(genotype)
        return DenseNetwork(channels, classes, layers, genotype, variant, in_channels=in_channels)

    def scaled(
        self, genotype: DenseGenotype, channels: int, layers: int, width: float, depth: float
    ) -> tuple[DenseGenotype, int, int]:
        """The same; the next number of layers that a decoder fits to."""
        genotype, channels, layers = super().scaled(genotype, channels, layers, width, depth)
        return genotype, channels, layers + (layers % 3 == 1)

    def candidate(self, name: str, C: int, stride: int) -> nn.Module:
        """One of :data:`fastdarts.nn.dense_operations.BUILDERS`."""
        return BUILDERS[name](C, stride, True)

    def _choices(self, nodes: int) -> Iterator[tuple[str, int, list[tuple[int, ...]], list[str]]]:
        """Of every node: kind of cell, state, the sets of sources, and the operations."""
        for kind, table in self.primitives(nodes).items():
            cell, names = self.topology_of(kind, nodes), [name for name in table[0] if name != "none"]
            for target in cell.targets:
                yield kind, target, [*itertools.combinations(range(target), cell.keeps(target))], names

    def decisions(self, nodes: int) -> tuple[Decision, ...]:
        """Of each node its distinct sources, as one decision, then the operation on each, sources ascending."""
        found = []
        for kind, target, sources, names in self._choices(nodes):
            of = f"of node {self.cell_of(kind).name(target)}, {self.kinds[kind]}"
            found.append(Decision(f"sources {of}", len(sources)))
            found += [Decision(f"operation {k + 1} {of}", len(names)) for k in range(len(sources[0]))]
        return tuple(found)

    def encode(self, genotype: DenseGenotype) -> list[int]:
        """Of cells whose nodes read distinct states; the order of the edges of a node is lost."""
        genotype, indices = check_genotype(genotype), []
        for kind, target, sources, names in self._choices(genotype.nodes):
            placed = self.cell_of(kind).place(getattr(genotype, kind))
            pairs = sorted((edge.source, edge.op) for edge in placed if edge.target == target)
            kept = tuple(source for source, _ in pairs)
            strange = [op for _, op in pairs if op not in names]
            if kept not in sources or strange:
                found = strange[0] if strange else f"edges from states {', '.join(map(str, kept))}"
                raise FastdartsError(
                    f"node {self.cell_of(kind).name(target)} of the {self.kinds[kind]} has {found}, which space "
                    f"{self.name} does not offer: expected edges from distinct states, with operations among "
                    f"{', '.join(names)}"
                )
            indices += [sources.index(kept), *(names.index(op) for _, op in pairs)]
        return indices

    def decode(self, indices: Sequence[int], nodes: int) -> DenseGenotype:
        """Sources are listed in ascending order."""
        self.check_values(indices, nodes)
        values, pairs = iter(indices), {kind: [] for kind in self.kinds}
        for kind, _, sources, names in self._choices(nodes):
            pairs[kind] += [(names[next(values)], source) for source in sources[next(values)]]
        return from_dict(pairs)

    def fields(self, genotype: DenseGenotype) -> dict[str, Any]:
        """See :func:`fastdarts.spaces.dense.genotype.to_dict`."""
        return to_dict(check_genotype(genotype))

    def genotype(self, fields: dict[str, Any]) -> DenseGenotype:
        """See :func:`fastdarts.spaces.dense.genotype.from_dict`."""
        return from_dict(fields)

    def cells(self, genotype: DenseGenotype) -> Cells:
        """All three cells; all nodes make the output."""
        genotype = check_genotype(genotype)
        cells = {kind: self.topology_of(kind, genotype.nodes) for kind in self.kinds}
        return {kind: (getattr(genotype, kind), [*cell.outputs]) for kind, cell in cells.items()}


AUTODISPNET = DenseSpace()
