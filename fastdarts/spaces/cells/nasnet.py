"""The spaces of NASNet, AmoebaNet and ENAS, and their published cells.

A node adds two operations. Their sources are any two earlier states, also the same one twice. What a search decodes
concatenates the nodes that no other reads. Published cells come with a list of their own, which is kept: with the rule
their networks have other sizes than published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn as nn

from fastdarts.errors import FastdartsError
from fastdarts.nn.nasnet_operations import BUILDERS
from fastdarts.nn.supernet import Supernet
from fastdarts.spaces.cells.genotype import Genotype, check_genotype, cleaned, from_dict, to_dict
from fastdarts.spaces.cells.nasnet_network import STACKS, NASNetwork
from fastdarts.spaces.cells.single import SingleCells, loose_ends
from fastdarts.spaces.cells.space import CellSpace
from fastdarts.spaces.space import Cells, Decision
from fastdarts.spaces.topology import Topology


@dataclass(frozen=True)
class NASNetSpace(CellSpace):
    """Cells as in NASNet (Zoph et al. 2018, section 3); a supernet is that of DARTS with these candidates.

    State 0 is the output of the cell before the last, state 1 that of the last cell. The public code has them the
    other way round.

    alone: Whether the supernet runs single cells only, as that of ENAS does. The two operations of a node then have
        weights of their own, so that both may read the same state.
    """

    alone: bool = False

    cell = Topology(5)
    # The maps of their networks are not those of the supernet, and a node has two inputs.
    has = CellSpace.has - {"priced candidates", "free edges"}
    distinct_sources = False
    variants = tuple(STACKS)
    published = {  # noqa: RUF012 - of the class
        "cifar": {"channels": 32, "layers": 18, "batch_size": 32, "weight_decay": 5e-4, "drop_path_prob": 0.4},
        "imagenet": {"channels": 44, "layers": 12},
        "imagenet-large": {"channels": 168, "layers": 18},
    }

    @property
    def single(self) -> NASNetSpace:
        """With the supernet of ENAS."""
        return replace(self, alone=True)

    @property
    def copies(self) -> int:
        """One for each operation of a node, or one that mixes."""
        return self.cell.kept if self.alone else 1

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
    ) -> Supernet:
        """That of DARTS, or of single cells that of :class:`fastdarts.spaces.cells.single.SingleCells`."""
        if not self.alone:
            sizes = channels, classes, layers, criterion, nodes
            return super().supernet(*sizes, in_channels=in_channels, memory=memory, **options)
        for name, value in options.items():
            raise FastdartsError(
                f"--{name.replace('_', '-')} is {value}, but the supernet of single cells of space {self.name} has no "
                "such setting: leave it out"
            )
        table = self.primitives(nodes)
        return SingleCells(channels, classes, layers, criterion, table, in_channels=in_channels)

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
        """See :class:`fastdarts.spaces.cells.nasnet_network.NASNetwork`."""
        genotype = cleaned(self._checked(genotype))
        return NASNetwork(
            channels,
            classes,
            layers,
            auxiliary,
            genotype,
            STACKS[variant],
            in_channels=in_channels,
            enas=isinstance(self, ENASSpace),
        )

    def candidate(self, name: str, C: int, stride: int) -> nn.Module:
        """One of :data:`fastdarts.nn.nasnet_operations.BUILDERS`."""
        return BUILDERS[name](C, C, stride, True)

    def recipe(self, variant: str, genotype: Genotype) -> Mapping[str, Any]:
        """The published sizes, and the settings that differ from those of DARTS."""
        return self.published.get(variant, {})

    def sample(self, generator: torch.Generator, nodes: int, *, none: bool = False) -> Genotype:
        """Per node two sources and two operations, all uniform."""
        return super(CellSpace, self).sample(generator, nodes, none=none)

    def decisions(self, nodes: int) -> tuple[Decision, ...]:
        """Of each node, the normal cell first: its two sources, then the operation on each."""
        found, cell = [], self.topology(nodes)
        for kind, table in self.primitives(nodes).items():
            for target in cell.targets:
                of = f"of node {cell.name(target)}, {self.kinds[kind]}"
                found += [Decision(f"source {k} {of}", target) for k in (1, 2)]
                found += [Decision(f"operation {k} {of}", len(table[0])) for k in (1, 2)]
        return tuple(found)

    def encode(self, genotype: Genotype) -> list[int]:
        """Of cells whose output is made of all nodes that no other reads."""
        genotype = self._checked(genotype)
        cells, indices = {"normal": genotype[:2], "reduce": genotype[2:]}, []
        tables = self.primitives(len(genotype.normal) // 2)
        for kind, (entries, concat) in cells.items():
            names = tables[kind][0]
            fits = len(entries[0]) == 2 and len(entries) == len(genotype.normal) and [*concat] == loose_ends(entries)
            if not fits or any(op not in names for op, _ in entries):
                raise FastdartsError(
                    f"the {self.kinds[kind]} is not one of space {self.name}: expected two [operation, source] pairs "
                    f"per node, as many nodes in both cells, operations among {', '.join(names)}, and {kind}_concat to "
                    "name the nodes that no other reads"
                )
            for (op1, source1), (op2, source2) in zip(entries[::2], entries[1::2], strict=True):
                indices += [source1, source2, names.index(op1), names.index(op2)]
        return indices

    def decode(self, indices: Sequence[int], nodes: int) -> Genotype:
        """The inverse of :meth:`encode`."""
        self.check_values(indices, nodes)
        values, pairs = iter(indices), {}
        for kind, table in self.primitives(nodes).items():
            pairs[kind] = []
            for _ in range(nodes):
                sources, ops = [next(values), next(values)], [next(values), next(values)]
                pairs[kind] += [(table[0][op], source) for op, source in zip(ops, sources, strict=True)]
        return self.assembled(pairs)

    def assembled(self, pairs: Mapping[str, Sequence[tuple[str, int]]]) -> Genotype:
        """The nodes that no other reads make the output."""
        normal, reduce = pairs["normal"], pairs["reduce"]
        return self._checked(Genotype(normal, loose_ends(normal), reduce, loose_ends(reduce)))

    def fields(self, genotype: Genotype) -> dict[str, Any]:
        """See :func:`fastdarts.spaces.cells.genotype.to_dict`."""
        return to_dict(self._checked(genotype))

    def genotype(self, fields: dict[str, Any]) -> Genotype:
        """See :func:`fastdarts.spaces.cells.genotype.from_dict`; operations are those that the networks have."""
        return self._checked(from_dict(fields, reduces_inputs=True))

    def cells(self, genotype: Genotype) -> Cells:
        """Both cells."""
        normal, normal_concat, reduce, reduce_concat = cleaned(self._checked(genotype))
        return {"normal": (normal, normal_concat), "reduce": (reduce, reduce_concat)}

    def _checked(self, genotype: Genotype) -> Genotype:
        genotype = check_genotype(genotype, reduces_inputs=True)
        for kind, entries in (("normal", genotype.normal), ("reduce", genotype.reduce)):
            strange = [op for op, *_ in entries if op not in BUILDERS]
            if strange or len(entries[0]) != 2:
                what = f"operation {strange[0]}" if strange else "entries of three"
                raise FastdartsError(
                    f"{kind} has {what}, which networks of space {self.name} do not have: expected two [operation, "
                    f"source] pairs per node, with operations among {', '.join(BUILDERS)}"
                )
        return genotype


SHORT = {
    "id": "identity", "1x1": "conv_1x1", "3x3": "bottleneck_3x3", "1x7": "bottleneck_1x7_7x1",
    "sep3": "sep_conv_3x3", "sep5": "sep_conv_5x5", "sep7": "sep_conv_7x7", "avg3": "avg_pool_3x3",
    "max2": "max_pool_2x2", "max3": "max_pool_3x3", "skip": "skip_connect",
}  # fmt: skip


def _cell(operations: str, sources: str, output: str, swapped: bool = True) -> tuple[list[tuple[str, int]], list[int]]:
    """A cell as its authors write it: operations, their sources, and the states of the output.

    ``swapped``: whether they call the output of the last cell state 0, and that of the cell before it state 1.
    """
    states = (1, 0) if swapped else (0, 1)
    renamed = {old: new for new, old in enumerate(states)}
    pairs = [
        (SHORT[op], renamed.get(source, source))
        for op, source in zip(operations.split(), map(int, sources.split()), strict=True)
    ]
    return pairs, sorted(renamed.get(state, state) for state in map(int, output.split()))


def _genotype(*cells: tuple[list[tuple[str, int]], list[int]]) -> Genotype:
    (normal, normal_concat), (reduce, reduce_concat) = cells
    fields = to_dict(Genotype(normal, normal_concat, reduce, reduce_concat))
    return from_dict(fields, reduces_inputs=True)


# The cells of the public code: slim/nasnet and tpu/amoeba_net of TensorFlow.
NASNET_A = _genotype(
    _cell("sep5 sep3 sep5 sep3 avg3 id avg3 avg3 sep3 id", "0 1 1 1 0 1 1 1 0 0", "1 2 3 4 5 6"),
    _cell("sep5 sep7 max3 sep7 avg3 sep5 id avg3 sep3 max3", "0 1 0 1 0 1 3 2 2 0", "3 4 5 6"),
)
AMOEBANET_A = _genotype(
    _cell("avg3 max3 sep3 id id avg3 sep3 sep5 avg3 sep3", "0 0 1 1 0 1 0 2 5 0", "1 3 4 6"),
    _cell("sep3 avg3 max3 sep7 max3 max3 sep3 1x7 avg3 sep7", "1 0 0 2 1 0 4 0 1 0", "2 3 4 5 6"),
)
# The file calls the fifth operation of the reduction cell dilated, and the code that reads it leaves that out.
AMOEBANET_B = _genotype(
    _cell("1x1 max3 id sep3 1x1 sep3 1x1 id avg3 1x1", "1 1 1 0 1 0 2 2 1 5", "0 3 4 6"),
    _cell("max2 max3 id 3x3 sep5 max3 id sep3 avg3 1x1", "0 0 2 1 2 2 3 1 4 3", "5 6"),
)
AMOEBANET_C = _genotype(
    _cell("avg3 sep3 id sep3 avg3 sep3 id sep3 avg3 sep3", "0 0 0 0 2 1 0 1 3 0", "1 2 4 5 6"),
    _cell("max3 max3 sep7 sep3 sep7 max3 sep5 sep5 max3 sep3", "0 0 2 0 0 1 4 4 1 1", "0 2 3 4 5 6"),
)
AMOEBANET_D = _genotype(
    _cell("1x1 max3 id 1x7 1x1 1x7 max3 id avg3 1x1", "1 1 1 0 0 0 2 2 1 5", "0 3 4 6"),
    _cell("max2 max3 id 3x3 1x7 max3 id max2 avg3 1x1", "0 0 2 1 2 2 3 1 2 3", "4 5 6"),
)
# scripts/cifar10_micro_final.sh of ENAS (Pham et al. 2018).
ENAS_MICRO = _genotype(
    _cell("avg3 sep3 skip sep5 skip sep5 sep3 sep5 avg3 sep5", "0 0 0 0 0 1 1 0 0 1", "2 3 4 5 6", swapped=False),
    _cell("sep3 sep3 max3 avg3 sep5 sep5 sep3 skip max3 sep5", "1 1 0 0 1 3 1 0 0 1", "2 4 5 6", swapped=False),
)

NASNET = NASNetSpace(
    "nasnet",
    (
        "identity", "bottleneck_1x3_3x1", "bottleneck_1x7_7x1", "bottleneck_dil_3x3", "avg_pool_3x3", "max_pool_3x3",
        "max_pool_5x5", "max_pool_7x7", "conv_1x1", "bottleneck_3x3", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7",
    ),
)  # fmt: skip
AMOEBANET = NASNetSpace(
    "amoebanet",
    (
        "identity", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "avg_pool_3x3", "max_pool_3x3", "dil_conv_3x3",
        "bottleneck_1x7_7x1",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class ENASSpace(NASNetSpace):
    """The micro space of ENAS (Pham et al. 2018, section 2.4), whose cells take their inputs in another way."""

    variants = ("cifar",)
    published = {  # noqa: RUF012 - of the class
        "cifar": {"channels": 36, "layers": 15, "epochs": 630, "batch_size": 144, "drop_path_prob": 0.4},
    }


ENAS = ENASSpace("enas", ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "skip_connect"))
