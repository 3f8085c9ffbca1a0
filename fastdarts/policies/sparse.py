"""Mixing weights of ISTA-NAS (Yang et al. 2020, "ISTA-NAS: Efficient and Consistent Neural Architecture Search by
Sparse Coding", NeurIPS): few of them are not 0, and only these are computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.nn.relaxation import Mixing, Relaxation
from fastdarts.spaces.topology import Topology

SPARSITY = 1e-5
"""The weight γ of the 1-norm."""


def lasso(dictionary: Tensor, b: Tensor, sparsity: float = SPARSITY) -> Tensor:
    r"""The z [n] of the least :math:`\frac{1}{2}\|A z - b\|^2 + \gamma \|z\|_1`, for A [m, n] and b [m] in float64.

    The path of solutions is followed from the γ above which z is 0 down to ``sparsity`` (Efron et al. 2004, "Least
    Angle Regression"), and the last active set is solved for exactly.
    """
    z, residual = b.new_zeros(dictionary.shape[1]), dictionary.T @ b
    level, joining = residual.abs().max().item(), int(residual.abs().argmax())
    active: list[int] = []
    left = -1  # what left last does not join in the same place
    while level > sparsity:
        if joining >= 0:
            active.append(joining)
        columns = dictionary[:, active]
        direction = torch.linalg.solve(columns.T @ columns, residual[active].sign())
        fall = dictionary.T @ (columns @ direction)
        step, joining, leaving = level - sparsity, -1, -1
        for j, (slope, corr) in enumerate(zip(fall.tolist(), residual.tolist(), strict=True)):
            if j in active or j == left:
                continue
            for sign in (1, -1):
                if 1 - sign * slope > 0 and 0 < (until := (level - sign * corr) / (1 - sign * slope)) < step:
                    step, joining = until, j
        for j, value, rate in zip(active, z[active].tolist(), direction.tolist(), strict=True):
            if value * rate < 0 and (until := -value / rate) < step:
                step, joining, leaving = until, -1, j
        z[active] += step * direction
        residual, level = residual - step * fall, level - step
        left = -1
        if leaving >= 0:
            active.remove(leaving)
            z[leaving], left = 0.0, leaving
        if joining < 0 and leaving < 0:
            break
    if active:
        columns = dictionary[:, active]
        signs = z[active].sign()
        z[active] = torch.linalg.solve(columns.T @ columns, columns.T @ b - sparsity * signs)
    return z


class Sparse(Relaxation):
    r"""One vector :math:`b_i` [K] for each node i, in the first row of alpha that belongs to the node. The other rows
    count for nothing.

    Before every epoch, :math:`z_i` is recovered from :math:`b_i` by :func:`lasso`, with a random :math:`A_i` that
    stays. The candidates S of a node that are computed in that epoch are those of the largest :math:`|z|`, as many as
    the cell keeps edges. Two of them may be on one edge. Their weights, of any sign, are
    :math:`w_S = (A_i^T b_i - (A_i^T A_i - I) z_i^S)_S`, with :math:`z^S` being z where it is in S and 0 elsewhere. So
    :math:`b_i` learns by :math:`A_S \, \partial L / \partial w_S`.

    Strengths are :math:`|z|` of the alphas of now.

    Args:
        cell: what the rows of alpha are.
        seed: of A, whose numbers are drawn from 0 to 1.
    """

    draws = same_in_eval = True
    normalised = strength_learns = False

    def __init__(self, cell: Topology, seed: int):
        self._cell, self._seed = cell, seed
        self._dictionaries: dict[tuple[int, int], list[Tensor]] = {}
        self._epoch = self._solved = 0
        self._codes: list[Tensor] = []  # z of each kind of cell where it is in S, 0 elsewhere, [E, K]

    def state_dict(self) -> dict[str, Any]:
        """What was recovered, and before which epoch."""
        return {"codes": self._codes, "solved": self._solved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._codes, self._solved = list(state["codes"]), state["solved"]

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Say which epoch is at work."""
        self._epoch = epoch

    def dictionaries(self, shape: Sequence[int]) -> list[Tensor]:
        """A of each node for alphas of this shape, [K, K times its edges]."""
        rows, count = shape
        if (rows, count) not in self._dictionaries:
            generator = torch.Generator().manual_seed(self._seed)
            self._dictionaries[rows, count] = [
                torch.rand(count, count * len(into), generator=generator, dtype=torch.float64, device="cpu")
                for into in self._nodes(rows)
            ]
        return self._dictionaries[rows, count]

    def _nodes(self, rows: int) -> list[range]:
        """The rows of the edges into each node."""
        cell = self._cell.holding(rows)
        return [cell.into(target) for target in cell.targets]

    def draw(self, alphas: Sequence[Tensor]) -> None:
        """Recover z anew in the first step of an epoch."""
        if not self._codes or self._solved != self._epoch:
            self._codes, self._solved = [self._code(alpha) for alpha in alphas], self._epoch

    def strength(self, alpha: Tensor) -> Tensor:
        """|z|."""
        return self._recovered(alpha).abs().to(alpha)

    def _recovered(self, alpha: Tensor) -> Tensor:
        """z [E, K] in float64 on the CPU."""
        if is_fake(alpha):
            return torch.ones_like(alpha, device="cpu").double()
        b = alpha.detach().cpu().double()
        nodes = zip(self.dictionaries(b.shape), self._nodes(len(b)), strict=True)
        return torch.cat([lasso(A, b[into.start]).view(len(into), -1) for A, into in nodes])

    def _code(self, alpha: Tensor) -> Tensor:
        """z where it is in S, 0 elsewhere."""
        z = self._recovered(alpha)
        code = torch.zeros_like(z)
        for into in self._nodes(len(z)):
            rows = slice(into.start, into.stop)
            kept = self._largest(z[rows].flatten())
            code[rows].view(-1)[kept] = z[rows].flatten()[kept]
        return code

    def _largest(self, z: Tensor) -> Tensor:
        if is_fake(z):  # where memory is estimated, any two stand for them
            return torch.arange(self._cell.kept, device="cpu")
        return z.abs().topk(self._cell.kept).indices

    def mix(self, alpha: Tensor, kind: int) -> Mixing:
        """The weights of S."""
        if not self._codes:
            return self._mixed(alpha, self._code(alpha))
        return self._mixed(alpha, self._codes[kind])

    def _mixed(self, alpha: Tensor, code: Tensor) -> Mixing:
        rows, chosen = [], code != 0
        for A, into in zip(self.dictionaries(alpha.shape), self._nodes(len(alpha)), strict=True):
            z = code[into.start : into.stop].flatten()
            constant = z - A.T @ (A @ z)
            w = alpha[into.start] @ A.to(alpha) + constant.to(alpha)
            rows.append(w.view(len(into), -1))
        weights = torch.cat(rows) * chosen.to(alpha)
        if is_fake(alpha):
            return Mixing(weights, [(alpha.shape[1] - 1,)] * len(alpha))
        return Mixing(weights, [tuple(row.nonzero().flatten().tolist()) for row in chosen])
