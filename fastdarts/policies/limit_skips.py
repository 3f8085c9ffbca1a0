"""How P-DARTS derives a cell: with few skip connections (Chen et al. 2019, section 3.3; rules of the public code)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastdarts.nn.operations import SKIP_CONNECTIONS
from fastdarts.policies.selection import ByStrength
from fastdarts.spaces import CellSpace, Table
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.topology import Topology


class LimitSkips(ByStrength):
    """The strongest edges of each node, sources ascending, each with its strongest operation.

    While the normal cell has more than ``most`` skip connections, the strength of its weakest one becomes 0, and all is
    chosen anew. As in the public code `none` is never chosen, yet weakens its edge. Of equally strong operations or
    edges the later one is kept. Of equally weak skip connections the first one goes.
    """

    def __init__(self, most: int):
        self.most = most

    def derive(self, space: CellSpace, nodes: int, strengths: Sequence[Tensor]) -> Genotype:
        """The genotype of these strengths, [E, K] for each kind of cell."""
        cell, chosen = space.topology(nodes), {}
        for (kind, names), table in zip(space.primitives(nodes).items(), strengths, strict=True):
            rows = table.detach().cpu().double().tolist()
            kept = choose(cell, names, rows)
            while kind == "normal":
                skips = [row for row, k in kept.items() if names[row][k] in SKIP_CONNECTIONS and rows[row][k] > 0]
                if len(skips) <= self.most:
                    break
                weakest = min(skips, key=lambda row: (rows[row][kept[row]], row))
                rows[weakest][kept[weakest]] = 0.0
                kept = choose(cell, names, rows)
            chosen[kind] = {row: names[row][k] for row, k in kept.items()}
        return space.keeping(chosen, nodes)


def choose(cell: Topology, names: Table, strengths: Sequence[Sequence[float]]) -> dict[int, int]:
    """The rows of the edges that stay, each with the column of its operation."""
    best = [
        max((k for k, name in enumerate(offered) if name != "none"), key=lambda k: (row[k], k))
        for offered, row in zip(names, strengths, strict=True)
    ]
    kept: dict[int, int] = {}
    for target in cell.targets:
        strongest = sorted(cell.into(target), key=lambda row: (strengths[row][best[row]], row))[-cell.kept :]
        kept |= {row: best[row] for row in sorted(strongest)}
    return kept
