"""Spaces of the DARTS kind: normal and reduction cells of two inputs, a few candidates on every edge."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.nn.supernet import Supernet
from fastdarts.spaces.cells.candidates import edge_primitives
from fastdarts.spaces.cells.derive import Primitives, derive_genotype, sample_genotype
from fastdarts.spaces.cells.genotype import Genotype, check_genotype, cleaned, from_dict, to_dict
from fastdarts.spaces.cells.network import NETWORKS
from fastdarts.spaces.cells.parts import cell_parts
from fastdarts.spaces.cells.supernet import Network
from fastdarts.spaces.space import SETTINGS, Cells, Decision, ImageSpace, Parts, Table


@dataclass(frozen=True)
class CellSpace(ImageSpace):
    """Cells as in DARTS (Liu et al. 2019, section 2.1) with candidates of one's own.

    primitives, primitives_reduce: names in ``OPS`` for every edge, in the order of alpha's columns, or one list per
    edge, node after node, sources ascending; the latter fixes the number of nodes. Reduction cells have those of
    normal cells if left out. Raises :class:`FastdartsError` for tables that belong to no cell, or to different ones.
    """

    name: str
    normal: Sequence[str] | Primitives
    reduce: Sequence[str] | Primitives | None = None
    layers: int = 8

    kinds = {"normal": "normal cell", "reduce": "reduction cell"}  # noqa: RUF012 - of the class
    has = SETTINGS | {
        "cell weights",
        "fixing",
        "candidates per edge",
        "auxiliary candidates",
        "priced candidates",
        "two operations per node",
        "free edges",
    }
    distinct_sources = True
    """Whether the two operations of a node read different states."""
    variants = tuple(NETWORKS)

    def __post_init__(self) -> None:
        for kind, table in self._tables.items():
            try:
                edge_primitives(table, self.nodes)
            except FastdartsError as error:
                raise FastdartsError(f"space {self.name}, {self.kinds[kind]}: {error}") from None

    @property
    def _tables(self) -> dict[str, Sequence[str] | Primitives]:
        return {"normal": self.normal, "reduce": self.normal if self.reduce is None else self.reduce}

    @property
    def _per_edge(self) -> Primitives | None:
        """The first table with a list for each edge, which gives the number of nodes."""
        return next((table for table in self._tables.values() if table and not isinstance(table[0], str)), None)

    @property
    def nodes(self) -> int:
        """Intermediate nodes of the published cell."""
        return self.cell.holding(len(self._per_edge)).nodes if self._per_edge else self.cell.nodes

    def check(self, nodes: int, layers: int) -> None:
        """Raise :class:`FastdartsError` if the candidates are given for cells of another number of nodes."""
        if self._per_edge and nodes != self.nodes:
            raise FastdartsError(
                f"--nodes is {nodes} but space {self.name} says what each edge of a cell of {self.nodes} nodes offers: "
                "leave --nodes out"
            )

    def primitives(self, nodes: int) -> dict[str, Table]:
        """The candidates of every edge of both cells."""
        return {kind: edge_primitives(table, nodes) for kind, table in self._tables.items()}

    def parts(self, model: Supernet, channels: int, shape: tuple[int, int, int], classes: int) -> Parts:
        """See :func:`fastdarts.spaces.cells.parts.cell_parts`; what cells have beside candidates is measured whole."""
        return Parts(cell_parts(self, model, shape[1:]), None)

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
        **options: Any,
    ) -> Network:
        """The search network of DARTS with these candidates; the output of a cell is the concatenation of its nodes."""
        normal, reduce = self.primitives(nodes).values()
        return Network(
            channels,
            classes,
            layers,
            criterion,
            nodes,
            nodes,
            in_channels=in_channels,
            primitives=normal,
            primitives_reduce=reduce,
            memory=memory,
            **options,
        )

    def strongest(self, strengths: Sequence[Tensor], nodes: int) -> Genotype:
        """See :func:`fastdarts.spaces.cells.derive.derive_genotype`."""
        self.check_strengths(strengths, nodes)
        return derive_genotype(*strengths, *self.primitives(nodes).values(), nodes, nodes)

    def network(
        self,
        variant: str,
        channels: int,
        classes: int,
        layers: int,
        auxiliary: bool,
        genotype: Genotype,
        *,
        in_channels: int,
    ) -> nn.Module:
        """The evaluation network of DARTS."""
        return NETWORKS[variant](channels, classes, layers, auxiliary, genotype, in_channels=in_channels)

    def sample(self, generator: torch.Generator, nodes: int, *, none: bool = False) -> Genotype:
        """Per node two distinct sources, per edge one of its primitives, all uniform."""
        return sample_genotype(generator, *self.primitives(nodes).values(), nodes, nodes, none=none)

    def _choices(self, nodes: int) -> Iterator[tuple[str, int, list[tuple[int, ...]], list[list[str]]]]:
        """Of every node: kind of cell, state, the sets of sources, and by source the operations other than `none`.

        Raises :class:`FastdartsError` if the edges into a node offer different numbers of operations: then the number
        of values of a decision would hang on another decision.
        """
        cell = self.topology(nodes)
        for kind, table in self.primitives(nodes).items():
            for target in cell.targets:
                names = [[name for name in table[row] if name != "none"] for row in cell.into(target)]
                if len({len(offered) for offered in names}) != 1 or not names[0]:
                    raise FastdartsError(
                        f"the edges into node {cell.name(target)} of a {self.kinds[kind]} of space {self.name} offer "
                        f"{[len(offered) for offered in names]} operations other than none: expected the same number, "
                        "at least one, on each, so that decisions do not hang on each other"
                    )
                yield kind, target, [*itertools.combinations(range(target), cell.kept)], names

    def decisions(self, nodes: int) -> tuple[Decision, ...]:
        """Of each node, the normal cell first: its two distinct sources, as one decision, then the operation on each,
        sources ascending; `none` is no operation."""
        found, cell = [], self.topology(nodes)
        for kind, target, sources, names in self._choices(nodes):
            of = f"of node {cell.name(target)}, {self.kinds[kind]}"
            found.append(Decision(f"sources {of}", len(sources)))
            found += [Decision(f"operation {k + 1} {of}", len(names[0])) for k in range(cell.kept)]
        return tuple(found)

    def encode(self, genotype: Genotype) -> list[int]:
        """Of cells whose nodes keep two edges from distinct states and all make the output; the order of the two edges
        of a node is lost."""
        genotype = check_genotype(genotype)
        cells = {"normal": genotype[:2], "reduce": genotype[2:]}
        nodes = len(genotype.normal) // 2
        cell = self.topology(nodes)
        for kind, (entries, concat) in cells.items():
            if len(entries[0]) != 2 or len(entries) != 2 * nodes or [*concat] != [*cell.outputs]:
                raise FastdartsError(
                    f"the {self.kinds[kind]} is not one of space {self.name}: expected two [operation, source] pairs "
                    f"per node, as many nodes in both cells, and {kind}_concat to name all nodes"
                )
        indices = []
        for kind, target, sources, names in self._choices(nodes):
            pairs = [(op, s) for op, s, into in cell.place(cells[kind][0]) if into == target]
            kept = tuple(sorted(source for _, source in pairs))
            strange = [f"{op} from {cell.name(source)}" for op, source in pairs if op not in names[source]]
            if kept not in sources or strange:
                found = strange[0] if strange else f"two edges from {cell.name(kept[0])}"
                raise FastdartsError(
                    f"node {cell.name(target)} of the {self.kinds[kind]} has {found}, which space {self.name} does not "
                    "offer: expected two edges from distinct states, with operations of the space other than none"
                )
            indices.append(sources.index(kept))
            indices += [names[source].index(op) for op, source in sorted(pairs, key=itemgetter(1))]
        return indices

    def decode(self, indices: Sequence[int], nodes: int) -> Genotype:
        """Sources are listed in ascending order."""
        self.check_values(indices, nodes)
        values = iter(indices)
        pairs: dict[str, list[tuple[str, int]]] = {kind: [] for kind in self.kinds}
        for kind, _, sources, names in self._choices(nodes):
            pairs[kind] += [(names[source][next(values)], source) for source in sources[next(values)]]
        return self.assembled(pairs)

    def assembled(self, pairs: Mapping[str, Sequence[tuple[str, int]]]) -> Genotype:
        """The genotype of two [operation, source] pairs for each node, by kind of cell; all nodes make the output."""
        outputs = self.topology(len(pairs["normal"]) // 2).outputs
        return Genotype(pairs["normal"], outputs, pairs["reduce"], outputs)

    def keeping(self, chosen: Mapping[str, Mapping[int, str]], nodes: int) -> Genotype:
        """The genotype that keeps these rows of alpha, each with this operation, by kind of cell; sources ascending."""
        cell = self.topology(nodes)
        kept = {kind: [(rows[row], cell.edges[row].source) for row in sorted(rows)] for kind, rows in chosen.items()}
        return Genotype(kept["normal"], cell.outputs, kept["reduce"], cell.outputs)

    def fields(self, genotype: Genotype) -> dict[str, Any]:
        """See :func:`fastdarts.spaces.cells.genotype.to_dict`."""
        return to_dict(check_genotype(genotype))

    def genotype(self, fields: dict[str, Any]) -> Genotype:
        """See :func:`fastdarts.spaces.cells.genotype.from_dict`."""
        return from_dict(fields)

    def cells(self, genotype: Genotype) -> Cells:
        """Both cells, of the nodes that exist."""
        normal, normal_concat, reduce, reduce_concat = cleaned(check_genotype(genotype))
        return {"normal": (normal, normal_concat), "reduce": (reduce, reduce_concat)}
