"""The recurrent cell of a genotype and the one that mixes all of them (DARTS, section 3.1.2)."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.functional import recurrent
from fastdarts.nn.fusion.call import track, unobserved
from fastdarts.nn.fusion.kinks import active
from fastdarts.nn.fusion.recognise import watched
from fastdarts.spaces.recurrent.genotype import ACTIVATIONS, PRIMITIVES, STEPS, Genotype

INITRANGE = 0.04


def dropout_mask(like: Tensor, shape: tuple[int, ...], probability: float) -> Tensor:
    """0 with ``probability``, else 1 / (1 - probability): of ``shape``, with the type and on the device of ``like``."""
    keep = 1 - probability
    return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(keep).div_(keep)


class DARTSCell(nn.Module):
    r"""The cell of a genotype, over a sequence.

    With [c | h] = s W split in halves, every state is a highway around an activation f: s' = s + sigmoid(c) (f(h) - s).
    State 0 comes from the input and the last output, [c | h] = [x | h_{t-1}] W_0 with f = tanh, node i from the state
    its genotype names, with the matrix W_i. The output h_t is the mean of the states in ``concat``.

    In training the inputs of W_0 and W_i are dropped by masks [B, ninp] (probability ``dropoutx``) and [B, nhid]
    (``dropouth``), drawn once per call and the same at all time steps and nodes.

    ``forward(inputs [T, B, ninp], hidden [B, nhid])``: outputs [T, B, nhid] and the last of them.
    """

    def __init__(
        self, ninp: int, nhid: int, dropouth: float, dropoutx: float, genotype: Genotype | None, steps: int = STEPS
    ):
        super().__init__()
        self.ninp, self.nhid, self.dropouth, self.dropoutx = ninp, nhid, dropouth, dropoutx
        self.genotype = genotype
        steps = steps if genotype is None else len(genotype.recurrent)
        self._W0 = nn.Parameter(torch.empty(ninp + nhid, 2 * nhid).uniform_(-INITRANGE, INITRANGE))
        self._Ws = nn.ParameterList(torch.empty(nhid, 2 * nhid).uniform_(-INITRANGE, INITRANGE) for _ in range(steps))

    def forward(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self._unfold(inputs, hidden)

    def _start(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the inputs give to the gates of state 0, [T, B, 2 nhid], and the mask of the states."""
        mask = None
        if self.training:
            batch = inputs.shape[1]
            if self.dropoutx:
                inputs = inputs * dropout_mask(inputs, (batch, self.ninp), self.dropoutx)
            if self.dropouth:
                mask = dropout_mask(hidden, (batch, self.nhid), self.dropouth)
        return inputs @ self._W0[: self.ninp], mask  # all time steps in one product

    def _unfold(self, inputs: Tensor, hidden: Tensor, *mixture: Tensor) -> tuple[Tensor, Tensor]:
        from_input, mask = self._start(inputs, hidden)
        outputs = []
        for x in from_input.unbind():
            gates = x + self._masked(hidden, mask) @ self._W0[self.ninp :]
            carry, new = gates.chunk(2, dim=-1)
            first = hidden + carry.sigmoid() * (new.tanh() - hidden)
            hidden = self._nodes(first, mask, *mixture)
            outputs.append(hidden)
        return torch.stack(outputs), hidden

    def _nodes(self, state: Tensor, mask: Tensor | None) -> Tensor:
        """The output [B, nhid] from state 0."""
        states = [state]
        for (name, source), weight in zip(self.genotype.recurrent, self._Ws, strict=True):
            state = states[source]
            carry, new = (self._masked(state, mask) @ weight).chunk(2, dim=-1)
            states.append(state + carry.sigmoid() * (ACTIVATIONS[name](new) - state))
        return torch.stack([states[i] for i in self.genotype.concat]).mean(0)

    @staticmethod
    def _masked(state: Tensor, mask: Tensor | None) -> Tensor:
        return state if mask is None else state * mask


class DARTSCellSearch(DARTSCell):
    r"""The cell of the supernet: node i is the weighted sum over all states before it and all activations,

    .. math:: s_i = BN\Big(\sum_{j<i} \sum_f p_{ij,f}\,(s_j + \sigma(c_j)\,(f(h_j) - s_j))\Big),\quad
              [c_j\,|\,h_j] = s_j W_i

    with one BatchNorm without affine parameters, the same for state 0 and for all nodes. ``none`` has a share of p and
    contributes nothing. The output is the mean of the nodes.

    ``forward(inputs [T, B, ninp], hidden [B, nhid], weights [E, 5])``, whose row i(i-1)/2 + j is of node i
    and state j. In training all of it is one op, unless somebody watches the BatchNorm.
    """

    def __init__(self, ninp: int, nhid: int, dropouth: float, dropoutx: float, steps: int = STEPS):
        super().__init__(ninp, nhid, dropouth, dropoutx, None, steps)
        self.bn = nn.BatchNorm1d(nhid, affine=False)

    def forward(self, inputs: Tensor, hidden: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        if not self._fuses(inputs, hidden):
            return self._unfold(inputs, hidden, weights)
        from_input, mask = self._start(inputs, hidden)
        matrices = [self._W0[self.ninp :], *self._Ws]
        mixing = weights[:, 1:].to(torch.float64 if hidden.dtype is torch.float64 else torch.float32)
        out, mean, var = recurrent(from_input, hidden, matrices, mixing, mask=mask, eps=self.bn.eps)
        track([self.bn] * mean.shape[:2].numel(), mean.flatten(0, 1), var.flatten(0, 1))
        return out, out[-1].clone()  # not a view, which would keep all outputs alive

    def _fuses(self, inputs: Tensor, hidden: Tensor) -> bool:
        bn = self.bn
        return (
            type(self) is DARTSCellSearch
            and type(bn) is nn.BatchNorm1d
            and bn.training
            and bn.weight is None
            and not watched(bn)
            and unobserved()
            and active() is None  # the op can keep no kinks
            and inputs.dtype is hidden.dtype is self._W0.dtype
            and not torch.is_autocast_enabled(hidden.device.type)
        )

    def _nodes(self, state: Tensor, mask: Tensor | None, weights: Tensor) -> Tensor:
        states, first = self.bn(state).unsqueeze(0), 0
        for node, weight in enumerate(self._Ws, start=1):
            p = weights[first : first + node].unsqueeze(-1).unsqueeze(-1)  # [node, 5, 1, 1]
            carry, new = (self._masked(states, mask) @ weight).chunk(2, dim=-1)
            # sum_f p_f (s + c (f(h) - s)) = P s + c (sum_f p_f f(h) - P s), P being the sum of p over all but none.
            stay = p[:, 1:].sum(1) * states
            mixed = sum(p[:, k] * ACTIVATIONS[name](new) for k, name in enumerate(PRIMITIVES) if name != "none")
            state = (stay + carry.sigmoid() * (mixed - stay)).sum(0)
            states = torch.cat((states, self.bn(state).unsqueeze(0)))
            first += node
        return states[1:].mean(0)
