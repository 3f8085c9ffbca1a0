"""The language model around a recurrent cell, with the dropouts of AWD-LSTM, and its supernet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.nn.fusion.call import unobserved
from fastdarts.nn.fusion.recognise import watched
from fastdarts.nn.supernet import Supernet, initial_alphas
from fastdarts.spaces.recurrent.cell import INITRANGE, DARTSCell, DARTSCellSearch, dropout_mask
from fastdarts.spaces.recurrent.genotype import PRIMITIVES, STEPS, Genotype, derive_genotype, edges_of
from fastdarts.spaces.recurrent.likelihood import likelihood


class RNNModel(nn.Module):
    """Embedding, one recurrent cell, and a decoder that shares the embedding's matrix.

    In training the embedding drops whole words (``dropoute``). Its outputs (``dropouti``) and those of the cell
    (``dropout``) are dropped by masks [1, B, n] that all time steps share. The cell drops by ``dropouth`` and
    ``dropoutx``.

    Args:
        ntoken: words of the vocabulary.
        ninp, nhid, nhidlast: widths; equal, as the matrix is shared.
        genotype: of the cell.

    ``forward(input [T, B] int64, hidden [B, nhid])``: log probabilities [T, B, ntoken] and the next hidden state.
    """

    def __init__(
        self,
        ntoken: int,
        ninp: int,
        nhid: int,
        nhidlast: int,
        dropout: float = 0.5,
        dropouth: float = 0.5,
        dropoutx: float = 0.5,
        dropouti: float = 0.5,
        dropoute: float = 0.1,
        genotype: Genotype | None = None,
    ):
        super().__init__()
        if not ninp == nhid == nhidlast:
            raise FastdartsError(
                f"ninp, nhid, nhidlast are {ninp}, {nhid}, {nhidlast}: expected the same, as the decoder shares the "
                "embedding's matrix"
            )
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnns = nn.ModuleList([self._build_cell(ninp, nhid, dropouth, dropoutx, genotype)])
        self.decoder = nn.Linear(ninp, ntoken)
        self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -INITRANGE, INITRANGE)
        nn.init.zeros_(self.decoder.bias)
        self.nhid, self.dropout, self.dropouti, self.dropoute = nhid, dropout, dropouti, dropoute

    def _build_cell(
        self, ninp: int, nhid: int, dropouth: float, dropoutx: float, genotype: Genotype | None
    ) -> DARTSCell:
        return DARTSCell(ninp, nhid, dropouth, dropoutx, genotype)

    def _run_cell(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.rnns[0](inputs, hidden)

    def init_hidden(self, batch: int) -> Tensor:
        """Zeros [batch, nhid]."""
        return self.encoder.weight.new_zeros(batch, self.nhid)

    def forward(self, input: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        _, dropped, hidden = self.outputs(input, hidden)
        return F.log_softmax(self.decoder(dropped), dim=-1), hidden

    def outputs(self, input: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the cell puts out, [T, B, nhid], the same after dropout, and the next hidden state."""
        embedded = self.encoder(input)
        if self.training and self.dropoute:
            embedded = embedded * dropout_mask(embedded, (self.encoder.num_embeddings, 1), self.dropoute)[input]
        raw, hidden = self._run_cell(self._locked(embedded, self.dropouti), hidden)
        return raw, self._locked(raw, self.dropout), hidden

    def loss(self, input: Tensor, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The mean negative log likelihood, in nats, of ``target`` [T, B], and the next hidden state."""
        _, dropped, hidden = self.outputs(input, hidden)
        return self.nll(dropped, target), hidden

    def nll(self, dropped: Tensor, target: Tensor) -> Tensor:
        """The mean negative log likelihood of ``target`` [T, B] given outputs [T, B, nhid]."""
        decoder, x = self.decoder, dropped.flatten(0, 1)
        plain = type(decoder) is nn.Linear and not watched(decoder) and unobserved()
        if not plain or x.dtype is not decoder.weight.dtype or torch.is_autocast_enabled(x.device.type):
            return F.cross_entropy(decoder(x), target.flatten())
        return likelihood(x, decoder.weight, decoder.bias, target.flatten())

    def training_loss(
        self, input: Tensor, hidden: Tensor, target: Tensor, ar: float, tar: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Likelihood with penalties on the activations, as weights learn from it; likelihood alone; next hidden state.

        nll + ar mean(dropped^2) + tar mean((h_{t+1} - h_t)^2), the latter of the cell's outputs before dropout (Merity
        et al., ICLR 2018, section 4.7).
        """
        raw, dropped, hidden = self.outputs(input, hidden)
        loss = nll = self.nll(dropped, target)
        if ar:
            loss = loss + ar * dropped.square().mean()
        if tar and len(raw) > 1:
            loss = loss + tar * raw.diff(dim=0).square().mean()
        return loss, nll, hidden

    def _locked(self, x: Tensor, probability: float) -> Tensor:
        if not self.training or not probability:
            return x
        return x * dropout_mask(x, (1, *x.shape[1:]), probability)


@dataclass
class Segment:
    """Tokens [T, B] of B streams and the hidden state [B, nhid] in which they were left before them.

    ``after`` is the state behind the last token, detached, of the last pass over the segment.
    """

    tokens: Tensor
    hidden: Tensor
    after: Tensor | None = None

    def __len__(self) -> int:
        """How many streams."""
        return self.tokens.shape[1]

    @property
    def device(self) -> torch.device:
        """That of the tokens."""
        return self.tokens.device

    def to(self, device: torch.device) -> Segment:
        """The segment on ``device``; itself if it is there."""
        if self.tokens.device == device:
            return self
        return Segment(self.tokens.to(device), self.hidden.to(device))


class RNNModelSearch(RNNModel, Supernet):
    """The recurrent supernet; its alphas [nodes (nodes + 1) / 2, 5] are as of :class:`fastdarts.nn.supernet.Supernet`.

    Args:
        nodes: searched nodes of the cell; the paper counts its 12 with the two inputs, state 0 and the output.
        others: as of :class:`RNNModel`.
    """

    def __init__(
        self,
        ntoken: int,
        ninp: int,
        nhid: int,
        nhidlast: int,
        dropout: float = 0.5,
        dropouth: float = 0.5,
        dropoutx: float = 0.5,
        dropouti: float = 0.5,
        dropoute: float = 0.1,
        nodes: int = STEPS,
    ):
        self.nodes = nodes
        super().__init__(ntoken, ninp, nhid, nhidlast, dropout, dropouth, dropoutx, dropouti, dropoute)
        self.primitives = {"recurrent": (PRIMITIVES,) * edges_of(nodes)}
        self.alphas = initial_alphas(edges_of(nodes), len(PRIMITIVES), self.encoder.weight.device)
        self._arch_parameters = [self.alphas]

    @property
    def weights(self) -> Tensor:
        """The alphas by their name in the public code, to be read and set."""
        return self.alphas

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__("alphas" if name == "weights" else name, value)

    def _build_cell(
        self, ninp: int, nhid: int, dropouth: float, dropoutx: float, genotype: Genotype | None
    ) -> DARTSCell:
        return DARTSCellSearch(ninp, nhid, dropouth, dropoutx, self.nodes)

    def _run_cell(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.rnns[0](inputs, hidden, *self._pass_weights())

    def mixed_ops(self) -> dict[str, list[Sequence[nn.Module]]]:
        """None: one kernel computes all candidates of the cell."""
        return {"recurrent": []}

    def _loss(self, input: Segment, target: Tensor) -> Tensor:
        loss, after = self.loss(input.tokens, input.hidden, target)
        input.after = after.detach()
        return loss

    def genotype(self) -> Genotype:
        """The cell derived from the alphas."""
        return derive_genotype(*self.mixing_weights())
