"""Language modelling with recurrent cells: the next token of a text (DARTS, section 3.1.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastdarts.spaces import Space
from fastdarts.spaces.recurrent.model import RNNModel, RNNModelSearch, Segment
from fastdarts.tasks.language.measure import Likelihood, check_same_text, measure
from fastdarts.tasks.language.settings import TEXT_RECIPE, TextArchSideEffects, TextEvaluateConfig, TextSearchConfig
from fastdarts.tasks.language.streams import Carried, segments
from fastdarts.tasks.language.text import Corpus, Lengths, load_corpus, segment, streams
from fastdarts.tasks.schedule import cosine
from fastdarts.tasks.task import Batch, Learned, Metric, Problem, Row, Task, register_task

VARYING = "segments of a text have other lengths in every step"
"""Why a pass of one is not recorded."""


class TextStream:
    """Segments of a text as side-by-side streams; what comes next depends on the state that is carried."""

    def __init__(self, text: Tensor, config: TextSearchConfig):
        self.text, self.bptt, self.seed = text, config.bptt, config.seed
        self.carried = Carried(text, config.hidden)
        self.at_epoch, self.row = 0, 0

    def __len__(self) -> int:
        return len(self._cuts(self.at_epoch))

    def _cuts(self, epoch: int) -> list[range]:
        return Lengths(self.bptt).draw(len(self.text), self.seed, epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Segments of random lengths, for the weights."""
        for rows in self._cuts(epoch)[start:]:
            tokens, target = segment(self.text, rows)
            yield self.carried.segment(tokens), target

    def endless(self, step: int) -> Iterator[Batch]:
        """Segments of equal lengths, for the alphas; the text begins again where fewer than two tokens are left."""
        while True:
            if self.row > len(self.text) - 3:
                self.row = 0
                self.carried.begin()
            rows = range(self.row, min(self.row + self.bptt, len(self.text) - 1))
            tokens, target = segment(self.text, rows)
            self.row = rows.stop
            yield self.carried.segment(tokens), target

    def first(self, epoch: int) -> Batch:
        """As training begins it, with a hidden state of zeros."""
        return self._alone(self._cuts(epoch)[0])

    def batch(self, step: int) -> Batch:
        """With a hidden state of zeros too, wherever it lies in the text."""
        starts = range(0, len(self.text) - 2, self.bptt)
        start = starts[step % len(starts)]
        return self._alone(range(start, min(start + self.bptt, len(self.text) - 1)))

    def _alone(self, rows: range) -> Batch:
        tokens, target = segment(self.text, rows)
        return Segment(tokens, torch.zeros_like(self.carried.state)), target

    def in_order(self) -> Iterator[Batch]:
        """The whole text, the hidden state carried along."""
        return segments(self.text, self.carried.width, self.bptt)


class TextProblem(Problem):
    """Two texts, one that trains the weights and one that trains the alphas and is measured."""

    meter_type = Likelihood

    def __init__(self, corpus: Corpus, config: TextSearchConfig):
        self.corpus, self.label = corpus, f"{config.space}-{config.method}"
        self.texts = {
            "train": streams(corpus.train, config.batch_size, "training text"),
            "arch": streams(corpus.valid, config.batch_size, "validation text"),
            "valid": streams(corpus.valid, config.eval_batch_size, "validation text"),
        }
        self._streams: dict[str, TextStream] = {}

    def facts(self) -> Mapping[str, Any]:
        return {"text": self.corpus.digest}

    def description(self) -> Row:
        tokens = {name: len(getattr(self.corpus, name)) for name in ("train", "valid", "test")}
        return {"vocabulary": len(self.corpus.vocabulary), "tokens": tokens}

    def check_resumed(self, state: Mapping[str, Any] | None, config: TextSearchConfig) -> None:
        check_same_text(self.corpus, None if state is None else state.get("data", {}), config)

    @contextmanager
    def opened(self, config: TextSearchConfig, device: torch.device) -> Iterator[None]:
        self.texts = {name: text.to(device) for name, text in self.texts.items()}
        yield

    def network(self, config: TextSearchConfig, space: Space) -> RNNModelSearch:
        sizes = len(self.corpus.vocabulary), config.hidden, config.hidden, config.hidden
        dropouts = config.dropout, config.dropouth, config.dropoutx, config.dropouti, config.dropoute
        return RNNModelSearch(*sizes, *dropouts, config.nodes)

    def streams(
        self, config: TextSearchConfig, recipe: Any, size: int, epoch: int, epochs: int
    ) -> tuple[TextStream, TextStream | None, TextStream]:
        if not self._streams:
            arch = self.texts["arch" if recipe.held_out else "train"]
            self._streams = {
                "train": TextStream(self.texts["train"], config),
                "arch": TextStream(arch, config),
                "valid": TextStream(self.texts["valid"], config),
            }
        for stream in self._streams.values():
            stream.at_epoch = epoch
        train, arch, valid = self._streams.values()
        return train, None if recipe.order == "together" else arch, valid

    def start_epoch(self) -> None:
        """The training text starts anew; that of the alphas goes on where it is."""
        self._streams["train"].carried.begin()

    def rate_share(self, config: TextSearchConfig, epoch: int) -> float:
        return cosine(config, epoch) / config.learning_rate

    def rate(self, config: TextSearchConfig, rate: float, batch: Batch) -> float:
        """In proportion to the length of the segment."""
        return rate * len(batch[1]) / config.bptt

    def why_not_recorded(self) -> str:
        return VARYING

    def learn(self, config: TextSearchConfig, model: RNNModelSearch, forward: Any, batch: Batch) -> Learned:
        piece, target = batch
        loss, nll, after = model.training_loss(piece.tokens, piece.hidden, target, config.ar, config.tar)
        piece.after = after.detach()
        return Learned(loss, nll, None)

    def measure(self, model: RNNModel, batches: Iterable[Batch], device: torch.device, prefix: str) -> Row:
        return measure(model, batches).summary(prefix)

    def rehearsal(self, config: TextSearchConfig, examples: int) -> Batch:
        steps = min(config.bptt, max(map(len, self.texts.values())) - 1)
        tokens = torch.zeros(steps, examples, dtype=torch.int64)
        return Segment(tokens, torch.zeros(examples, config.hidden)), tokens.clone()

    def state_dict(self) -> dict[str, Any]:
        train, arch, _ = self._streams.values()
        own = {"hidden": train.carried.state, "arch_hidden": arch.carried.state, "arch_row": arch.row}
        return {"text": self.corpus.digest, **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        train, arch, _ = self._streams.values()
        for stream, name in ((train, "hidden"), (arch, "arch_hidden")):
            fresh = torch.zeros_like(stream.carried.state)
            stream.carried.state = fresh.copy_(state[name])
        arch.row = state["arch_row"]


class Language(Task):
    """Language modelling: the likelihood of the next token, measured by the perplexity."""

    name, title = "language", "text"
    metric = Metric("valid_perplexity", "valid perplexity")
    settings = (TextArchSideEffects, TextSearchConfig)
    evaluation = TextEvaluateConfig
    recipe = TEXT_RECIPE
    betas = (0.9, 0.999)
    smaller = "--hidden or --bptt"
    clips_look_ahead = True

    def problem(self, config: TextSearchConfig, space: Space) -> TextProblem:
        return TextProblem(load_corpus(config.data, config.level, config.vocabulary), config)

    def line(self, row: Row, epochs: int) -> str:
        eigenvalue = f"  eigenvalue {row['eigenvalue']:.4g}" if "eigenvalue" in row else ""
        return (
            f"epoch {row['epoch'] + 1}/{epochs}  train perplexity {row['train_perplexity']:.2f}  valid perplexity "
            f"{row['valid_perplexity']:.2f}{eigenvalue}  {row['seconds']:.1f} s"
        )

    def tested(self, result: Row) -> str:
        return f"test perplexity {result['test_perplexity']:.2f}  valid perplexity {result['valid_perplexity']:.2f}"


register_task(Language())
