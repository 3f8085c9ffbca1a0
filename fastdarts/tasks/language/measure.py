"""Likelihood and perplexity of language models, and one step of their weights in an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.nn.finite import check_step
from fastdarts.nn.optim import SGD
from fastdarts.spaces.recurrent.model import RNNModel, Segment
from fastdarts.tasks.language.settings import TextConfig
from fastdarts.tasks.language.text import Corpus


def check_same_text(corpus: Corpus, state: dict[str, Any] | None, config: TextConfig) -> None:
    """Raise :class:`FastdartsError` if the run that goes on from ``state`` has read another text."""
    if state is not None and state.get("text") != corpus.digest:
        raise FastdartsError(
            f"the text in {config.data} is not the one that the run to resume has read: name the folder of that one "
            "with --data, or start a new run with --run"
        )


@dataclass
class Likelihood:
    """Mean negative log likelihood, in nats, over the tokens predicted."""

    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        """The mean so far."""
        return self.total / self.count

    def update(self, loss: float, outputs: Tensor | None, target: Tensor) -> None:
        """Count the tokens ``target``, of this mean loss."""
        self.add(loss, target.numel())

    def add(self, loss: float, tokens: int) -> None:
        """Count so many tokens of this mean loss."""
        self.total += loss * tokens
        self.count += tokens

    def summary(self, prefix: str, at: str = "") -> dict[str, float]:
        """``{prefix}_loss`` and ``{prefix}_perplexity``, its exponential; raises NotFinite if that is not a number."""
        loss = self.total / self.count
        return {f"{prefix}_loss": loss, f"{prefix}_perplexity": perplexity(loss, prefix, at)}


def perplexity(loss: float, what: str, at: str = "") -> float:
    """exp(loss); raises :class:`NotFinite` if it is NaN or beyond double precision."""
    value = math.exp(loss) if loss < 709 else loss * math.inf
    if not math.isfinite(value):
        raise NotFinite(f"{what} perplexity", value, what, at)
    return value


@torch.no_grad()
def measure(model: RNNModel, batches: Iterable[tuple[Segment, Tensor]]) -> Likelihood:
    """Of ``model`` in evaluation mode over neighbouring segments and the tokens that follow; the model is left in
    training mode."""
    seen = Likelihood()
    model.eval()
    for piece, target in batches:
        loss, after = model.loss(piece.tokens, piece.hidden, target)
        piece.after = after
        seen.update(loss.item(), None, target)
    model.train()
    return seen


def weight_step(
    model: RNNModel, optimizer: SGD, config: TextConfig, segment: Segment, target: Tensor, epoch: int, step: int
) -> float:
    """One step of the weights on a segment, at the learning rate for its length; returns its likelihood per token."""
    optimizer.zero_grad()
    loss, nll, after = model.training_loss(segment.tokens, segment.hidden, target, config.ar, config.tar)
    loss.backward(inputs=optimizer.param_groups[0]["params"])
    numbers = torch.stack([nll.detach().double(), optimizer.norm().double()])
    optimizer.prepare()
    optimizer.step(sound=numbers.isfinite().all())
    value, norm = numbers.tolist()
    check_step(value, norm, model, optimizer, epoch, step)
    segment.after = after.detach()
    return value


def set_rate(optimizer: SGD, config: TextConfig, length: int) -> float:
    """The learning rate for a segment of this many time steps, in proportion to them; returned and set."""
    rate = config.learning_rate * length / config.bptt
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
