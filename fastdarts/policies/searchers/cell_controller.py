"""The controller of ENAS for cells, which points at the states that a node reads.

Pham et al., "Efficient Neural Architecture Search via Parameter Sharing", ICML 2018, section 2.4; what the paper leaves
open is as in its public code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

HIDDEN = 64
"""Units of the LSTM, as published."""
BOUND = 0.1
"""All weights begin uniform from minus this to this, as published."""
FAVOUR, CONSTANT = 10.0, 0.25
"""What separable convolutions have on top at the beginning, and in the normal cell for good, as published."""
INPUTS = 2
"""Inputs of a cell, and operations of a node."""


class Drawn(NamedTuple):
    """Architectures that the controller has drawn or was given, B of them.

    Attributes:
        choices: [B, D], of each node of each cell its two sources and its two operations.
        logs: the log-probability of each decision, [B, D].
        entropies: the entropy of each decision, [B, D], without a gradient.
    """

    choices: Tensor
    logs: Tensor
    entropies: Tensor


class CellController(nn.Module):
    r"""An LSTM that decides about the nodes of a normal cell, then of a reduction cell.

    About a node it decides in four steps: two sources, then the operation on each. A fifth step gives the anchor of the
    node. Its input is the anchor of the source that was chosen last, or the embedding of the operation, or ``start``.
    In two steps before each cell it sees ``start`` only.

    The logit of source j is :math:`v^T \tanh(W_1 h_j + W_2 h)`, with the output h of this step and that of the step of
    j's anchor. Operations have logits :math:`W h + b`. Logits are squashed: :math:`t \tanh(l / \tau)` for sources,
    :math:`(t / r) \tanh(l / \tau)` for operations.

    Separable convolutions are favoured: their ``bias`` begins at 10, that of others at 0. In the normal cell their
    squashed logits have a constant 0.25 on top, those of others -0.25.

    Args:
        nodes: of a cell.
        operations: names of the operations, the same on all edges.
        distinct: whether the two operations of a node read different states.
        tanh_constant, op_reduce, temperature: t, r and :math:`\tau`.
        generator: what the weights are drawn from.
    """

    def __init__(
        self,
        nodes: int,
        operations: Sequence[str],
        distinct: bool,
        tanh_constant: float,
        op_reduce: float,
        temperature: float,
        generator: torch.Generator,
    ):
        super().__init__()
        self.nodes, self.distinct = nodes, distinct
        self.scales, self.temperature = (tanh_constant, tanh_constant / op_reduce), temperature
        count, H = len(operations), HIDDEN
        shapes = {
            "lstm": (2 * H, 4 * H), "start": (1, H), "embedding": (count, H), "head": (H, count), "anchor": (H, H),
            "query": (H, H), "score": (H, 1),
        }  # fmt: skip
        for name, shape in shapes.items():
            weight = torch.empty(shape, device="cpu").uniform_(-BOUND, BOUND, generator=generator)
            self.register_parameter(name, nn.Parameter(weight))
        separable = torch.tensor([float(name.startswith("sep_conv")) for name in operations], device="cpu")
        self.bias = nn.Parameter(FAVOUR * separable)
        self.register_buffer("constant", CONSTANT * (2 * separable - 1))

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Drawn:
        """So many architectures."""
        return self._unroll(count, lambda _, logs: torch.multinomial(logs.exp(), 1, generator=generator)[:, 0])

    def forward(self, choices: Tensor) -> Drawn:
        """The same of these architectures, [B, D]; log-probabilities have gradients."""
        return self._unroll(len(choices), lambda number, _: choices[:, number])

    @torch.autocast("cpu", enabled=False)  # a search in bfloat16 draws from within its own
    def _unroll(self, count: int, choose: Callable[[int, Tensor], Tensor]) -> Drawn:
        """Decide by ``choose(decision, log-probabilities [B, K])``, which gives values [B]."""
        start = self.start.expand(count, -1)
        state = torch.zeros_like(start), torch.zeros_like(start)
        rows = torch.arange(count, device=start.device)
        choices: list[Tensor] = []
        logs: list[Tensor] = []
        entropies: list[Tensor] = []

        def decide(logits: Tensor) -> Tensor:
            all_logs = logits.log_softmax(1)
            value = choose(len(choices), all_logs.detach())
            choices.append(value)
            logs.append(all_logs[rows, value])
            entropies.append(torch.special.entr(all_logs.detach().exp()).sum(1))
            return value

        for constant in (self.constant, torch.zeros_like(self.constant)):
            anchors, pointers = [], []
            for _ in range(INPUTS):
                state = self._step(start, state)
                anchors.append(torch.zeros_like(start))
                pointers.append(state[0] @ self.anchor)
            for _ in range(self.nodes):
                x, taken = start, []
                for _ in range(INPUTS):
                    state = self._step(x, state)
                    scores = (torch.stack(pointers, 1) + (state[0] @ self.query)[:, None]).tanh() @ self.score
                    logits = self._squashed(scores[..., 0], 0)
                    if self.distinct and taken:
                        logits = logits.scatter(1, taken[0][:, None], -torch.inf)
                    taken.append(decide(logits))
                    x = torch.stack(anchors, 1)[rows, taken[-1]]
                for _ in range(INPUTS):
                    state = self._step(x, state)
                    x = self.embedding[decide(self._squashed(state[0] @ self.head + self.bias, 1) + constant)]
                state = self._step(x, state)
                anchors.append(state[0])
                pointers.append(state[0] @ self.anchor)
        return Drawn(*(torch.stack(found, 1) for found in (choices, logs, entropies)))

    def _squashed(self, logits: Tensor, of_operations: int) -> Tensor:
        return self.scales[of_operations] * (logits / self.temperature).tanh()

    def _step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The LSTM's next output and cell, without a bias."""
        h, c = state
        i, f, o, g = (torch.cat([x, h], 1) @ self.lstm).chunk(4, 1)
        c = i.sigmoid() * g.tanh() + f.sigmoid() * c
        return o.sigmoid() * c.tanh(), c
