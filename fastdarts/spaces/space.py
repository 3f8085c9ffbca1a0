"""What a search space is: kinds of cells, candidates, supernet, discrete network, and how a genotype is written."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.moved import names
from fastdarts.nn.operations import OPS
from fastdarts.nn.supernet import Supernet
from fastdarts.spaces.topology import DARTS_CELL, Entry, Topology

SETTINGS = frozenset({"partial", "edge_normalisation", "stem"})

Table = tuple[tuple[str, ...], ...]
"""The names of the candidates of every edge, in the order of alpha's rows and columns."""

Cells = dict[str, tuple[Sequence[Entry], Sequence[int]]]
"""By kind of cell: its operations, as :meth:`Topology.place` takes them, and the states that make the output."""


class Decision(NamedTuple):
    """One choice of an architecture: a value from 0 to ``size - 1``, whatever the other choices are."""

    name: str
    size: int


class Part(NamedTuple):
    """A piece of a network that costs something by itself.

    name: what tables of latencies call it. input, output: its maps [H, W, C]; [C] for numbers without places. facts:
    what else its cost depends on. build: what makes it. of_cell: whether it is called as cells call candidates.
    """

    name: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    facts: Mapping[str, int]
    build: Callable[[], nn.Module]
    of_cell: bool = True


class Parts(NamedTuple):
    """What the networks that a supernet may become are made of.

    cells: of every cell its kind, and for each of its edges the parts of each candidate, [] where that costs nothing;
    None for what is no operation of a genotype. rest: what all networks have beside candidates; None if only whole
    networks say what that costs.
    """

    cells: Sequence[tuple[str, Sequence[Sequence[Sequence[Part] | None]]]]
    rest: Sequence[Part] | None


def mutated(indices: Sequence[int], sizes: Sequence[int], generator: torch.Generator) -> list[int]:
    """``indices`` with another value of one decision that has several, both drawn uniformly; ``sizes``: how many values
    each decision has."""
    open_ones = [number for number, size in enumerate(sizes) if size > 1]
    number = open_ones[int(torch.randint(len(open_ones), (), generator=generator))]
    value = int(torch.randint(sizes[number] - 1, (), generator=generator))
    changed = [*indices]
    changed[number] = value + (value >= changed[number])
    return changed


class Space(ABC):
    """A search space: how its architectures are written, drawn and counted as decisions, and how they are derived.

    Attributes:
        name: what ``--space`` and genotype.json call it.
        task: what is learned in it, see :mod:`fastdarts.tasks`.
        kinds: its kinds of cells and their titles, in the order of the alphas.
        cell: the states and edges of its cells; the number of nodes is that of the published cell.
        nodes, layers: of the published supernet.
        has: what its supernets can do beside what all can. "partial", "edge_normalisation" and "stem": they take this
            setting of :class:`fastdarts.spaces.cells.supernet.Network`. "cell weights": each cell may have mixing
            weights of its own. "fixing": the weights of an edge may be fixed. "candidates per edge": they can be built
            with other candidates on every edge. "auxiliary candidates": edges take one more candidate, without alpha.
            "priced candidates": what each candidate costs on an image is known. "two operations per node": a node adds
            two operations, and a controller may choose the state that each reads. "free edges": a node may have any
            number of inputs. "binary gates": an edge may compute one candidate, while the gradients of its gates know
            the others.
        copies: how many sets of weights an edge of its supernets has, for as many operations of a single cell on it.
    """

    name: str
    task: str = "images"
    kinds: dict[str, str]
    cell: Topology = DARTS_CELL
    nodes: int
    layers: int
    has: frozenset[str] = frozenset()
    copies: int = 1

    @property
    def single(self) -> Space:
        """The same architectures, over a supernet that may run single ones only: itself, if its supernet runs all."""
        return self

    def topology(self, nodes: int) -> Topology:
        """The states and edges of cells for which ``--nodes`` is ``nodes``."""
        return self.cell.of(nodes)

    def cell_of(self, kind: str) -> Topology:
        """The states and edges of the published cell of this kind: ``cell``, where all kinds have the same."""
        return self.cell

    def topology_of(self, kind: str, nodes: int) -> Topology:
        """The same of cells of this kind for which ``--nodes`` is ``nodes``: by default :meth:`topology`."""
        return self.topology(nodes)

    @abstractmethod
    def fields(self, genotype: Any) -> dict[str, Any]:
        """``genotype`` as JSON-ready data."""

    @abstractmethod
    def genotype(self, fields: dict[str, Any]) -> Any:
        """The genotype of these fields, checked; raises :class:`FastdartsError` naming the offence."""

    def of_entries(self, cells: Mapping[str, Sequence[Entry]], nodes: int) -> Any:
        """The genotype of these operations by kind of cell, as :meth:`cells` gives them, all nodes in the output."""
        fields: dict[str, Any] = {}
        for kind, entries in cells.items():
            fields |= {kind: entries, f"{kind}_concat": [*self.topology_of(kind, nodes).outputs]}
        return self.genotype(fields)

    @abstractmethod
    def cells(self, genotype: Any) -> Cells:
        """What the cells of ``genotype`` are made of."""

    def taken(self, genotype: Any, nodes: int) -> dict[str, list[tuple[int, int]]]:
        """The candidates that ``genotype`` is made of, as rows and columns of the alphas, by kind of cell.

        Raises :class:`FastdartsError` for an operation that its edge does not offer.
        """
        cells = self.cells(genotype)
        found: dict[str, list[tuple[int, int]]] = {}
        for kind, table in self.primitives(nodes).items():
            cell, found[kind] = self.topology_of(kind, nodes), []
            for op, source, target in cell.place(cells[kind][0]):
                row = cell.row(target, source)
                if op not in table[row]:
                    raise FastdartsError(
                        f"the {self.kinds[kind]} has {op} on the edge {cell.arrow(source, target)}, which space "
                        f"{self.name} does not offer there: expected one of {', '.join(table[row])}"
                    )
                found[kind].append((row, table[row].index(op)))
        return found

    def decisions(self, nodes: int) -> tuple[Decision, ...]:
        """The choices that make an architecture; every combination of their values is another one."""
        raise FastdartsError(f"space {self.name} has no decisions: it cannot be searched without gradients")

    def encode(self, genotype: Any) -> list[int]:
        """The value of each decision; raises :class:`FastdartsError` for a genotype that is not of this space."""
        raise FastdartsError(f"space {self.name} has no decisions: it cannot be searched without gradients")

    def decode(self, indices: Sequence[int], nodes: int) -> Any:
        """The genotype of these values of the decisions; raises :class:`FastdartsError` for values out of range."""
        raise FastdartsError(f"space {self.name} has no decisions: it cannot be searched without gradients")

    def size(self, nodes: int) -> int:
        """The exact number of architectures."""
        return math.prod(decision.size for decision in self.decisions(nodes))

    def sample(self, generator: torch.Generator, nodes: int, *, none: bool = False) -> Any:
        """A uniformly random genotype, drawn from ``generator`` (on the CPU) only.

        ``none`` is for spaces whose genotypes hold the operation `none` only if asked.
        """
        sizes = (decision.size for decision in self.decisions(nodes))
        return self.decode([int(torch.randint(size, (), generator=generator)) for size in sizes], nodes)

    def mutate(self, genotype: Any, generator: torch.Generator, nodes: int) -> Any:
        """``genotype`` with another value of one decision, both drawn uniformly from ``generator`` (on the CPU).

        Raises :class:`FastdartsError` for a genotype of another number of nodes, or a space of one architecture.
        """
        indices, decisions = self.encode(genotype), self.decisions(nodes)
        if len(indices) != len(decisions):
            raise FastdartsError(
                f"the genotype has {len(indices)} decisions, but space {self.name} with {nodes} nodes has "
                f"{len(decisions)}: give the number of nodes of the genotype"
            )
        if all(decision.size == 1 for decision in decisions):
            raise FastdartsError(
                f"space {self.name} with {nodes} nodes has one architecture only: choose another space to mutate in"
            )
        return self.decode(mutated(indices, [decision.size for decision in decisions], generator), nodes)

    def check_values(self, indices: Sequence[int], nodes: int) -> None:
        """Raise :class:`FastdartsError` unless there is one value for each decision, in its range."""
        decisions = self.decisions(nodes)
        if not isinstance(indices, Sequence) or isinstance(indices, str):
            raise FastdartsError(f"got {brief(indices)} as values of decisions: expected a list of {len(decisions)}")
        if len(indices) != len(decisions):
            raise FastdartsError(
                f"got {len(indices)} values: space {self.name} with {nodes} nodes has {len(decisions)} decisions"
            )
        for value, decision in zip(indices, decisions, strict=True):
            if not isinstance(value, int) or not 0 <= value < decision.size:
                raise FastdartsError(
                    f"{decision.name} is {brief(value)}: expected a value from 0 to {decision.size - 1}"
                )

    def to_dict(self, genotype: Any) -> dict[str, Any]:
        """What genotype.json holds: the fields of ``genotype`` and the name of the space."""
        return {"space": self.name, **self.fields(genotype)}

    def strongest(self, strengths: Sequence[Tensor], nodes: int) -> Any:
        """The genotype that the rule of the space makes of the strengths of all candidates, [E, K] by kind of cell.

        The same as ``genotype()`` of its supernets. Raises :class:`FastdartsError` if the space has no such rule, or
        for strengths of other shapes.
        """
        raise FastdartsError(f"space {self.name} has no rule that makes a genotype of strengths alone: search in it")

    def check_strengths(self, strengths: Sequence[Tensor], nodes: int) -> None:
        """Raise :class:`FastdartsError` unless there is a table [E, K] for every kind of cell."""
        tables = self.primitives(nodes)
        wanted = {kind: (len(table), len(table[0])) for kind, table in tables.items()}
        found = [tuple(table.shape) for table in strengths]
        if found != list(wanted.values()):
            shapes = ", ".join(f"{kind} {list(shape)}" for kind, shape in wanted.items())
            raise FastdartsError(
                f"got tables of shapes {', '.join(str(list(shape)) for shape in found)}: cells of {nodes} nodes in "
                f"space {self.name} have {shapes}"
            )

    def check(self, nodes: int, layers: int) -> None:  # noqa: B027 - may stay as it is
        """Raise :class:`FastdartsError` if the space has no supernet of so many nodes a cell and so many layers."""

    @abstractmethod
    def primitives(self, nodes: int) -> dict[str, Table]:
        """The candidates of every edge, by kind of cell."""

    def from_text(self, text: str) -> Any | None:
        """The genotype that ``text`` spells in a form of the space's own; None if it is none."""
        return None

    def text(self, genotype: Any) -> str:
        """``genotype`` in one line, as histories and tables name it: by default what genotype.json holds."""
        return json.dumps(self.to_dict(genotype))


class ImageSpace(Space):
    """A space of networks for images; an object of a subclass, put into ``SPACES``, is all that a search in it needs.

    Attributes:
        variants: the evaluation networks, recipes in ``fastdarts.tasks.images.settings.RECIPES``; the first is the
            default.
        fixed_depth: whether a genotype says how many layers its network has, in :meth:`recipe`.
        channels: those of the stem, where the depth is fixed.
        example: outputs, pixels a side and channels of the images for which its networks are described.
    """

    variants: tuple[str, ...]
    fixed_depth: bool = False
    channels: int
    example: tuple[int, int, int] = (10, 32, 3)

    @property
    def has_supernet(self) -> bool:
        """Whether it has a supernet; without one it is searched by its decisions only."""
        return type(self).supernet is not ImageSpace.supernet

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
        """A fresh supernet; it draws from the default generator only. ``options`` are among those of the space."""
        raise FastdartsError(
            f"space {self.name} has no supernet: use a method that trains its networks from scratch, such as random"
        )

    def candidate(self, name: str, C: int, stride: int) -> nn.Module:
        """An operation as it is in a network of the space: [N, C, H, W] -> [N, C, ceil(H/stride), ceil(W/stride)]."""
        return OPS[name](C, stride, True)

    def parts(self, model: Supernet, channels: int, shape: tuple[int, int, int], classes: int) -> Parts:
        """What derived networks of so many ``channels`` are made of, for images [C, H, W] of this ``shape``; ``model``
        is a supernet of the space."""
        raise FastdartsError(f"space {self.name} has no priced candidates: leave --cost out, or choose another space")

    def scaled(self, genotype: Any, channels: int, layers: int, width: float, depth: float) -> tuple[Any, int, int]:
        """The genotype, channels and layers of a network ``width`` times as wide and ``depth`` times as deep: the next
        even number of channels, and no less than so many layers."""
        return genotype, max(2, 2 * round(channels * width / 2)), math.ceil(round(layers * depth, 9))

    def recipe(self, variant: str, genotype: Any) -> Mapping[str, Any]:
        """Published settings of this network of ``genotype`` that differ from those of the variant, such as the sizes
        that a genotype holds itself."""
        return {}

    @abstractmethod
    def network(
        self,
        variant: str,
        channels: int,
        classes: int,
        layers: int,
        auxiliary: bool,
        genotype: Any,
        *,
        in_channels: int,
    ) -> nn.Module:
        """The discrete network of ``genotype``, which gives (logits, logits of the auxiliary head or None)."""

    def check_variant(self, variant: str | None) -> str:
        """``variant``, by default the first; raises :class:`FastdartsError` if the space has no such network."""
        if variant is not None and variant not in self.variants:
            raise FastdartsError(
                f"--variant is {variant} but genotypes of space {self.name} have "
                f"{', '.join(self.variants)}: name one of these or leave it out"
            )
        return variant or self.variants[0]


__getattr__ = names("spaces.space")
