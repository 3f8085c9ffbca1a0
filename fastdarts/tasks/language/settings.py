"""Settings of the text, and of searches and evaluations of recurrent cells on it; the defaults are the published
ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from fastdarts.errors import FastdartsError
from fastdarts.runs.kinds import (
    Batch,
    Count,
    Epochs,
    EpochsOrNone,
    Nodes,
    NotNegative,
    Portion,
    Positive,
    Seed,
    Width,
)
from fastdarts.runs.settings import RunConfig
from fastdarts.spaces import Space
from fastdarts.tasks.settings import ArchSideEffects, EvaluateConfig, SearchConfig


@dataclass(frozen=True)
class TextConfig(RunConfig):
    """Which text, the size of the network and its dropouts, and how weights learn."""

    group: ClassVar[str] = "text"

    space: str = "rnn"
    """Space of the cell: recurrent cells on text."""
    data: Path | None = None
    """Folder of train.txt, valid.txt and test.txt (ptb.train.txt, wiki.train.tokens, ... will do)."""
    level: Literal["word", "char"] = "word"
    """Kind of token: a word, as blanks separate them, or a character."""
    vocabulary: Count | None = None
    """Tokens that are kept, the most frequent of the training text, with <eos> and <unk>; by default all."""
    hidden: Width = 300
    """Width of the embedding and of the cell."""
    batch_size: Batch = 256
    """Streams that the training text is cut into."""
    eval_batch_size: Batch = 10
    """Streams that the validation text is cut into to measure the perplexity."""
    bptt: Width = 35
    """Time steps that are unfolded at once; one segment in 20 has half of them."""
    epochs: Epochs = 50
    """Passes over the training text."""
    learning_rate: Positive = 20.0
    """SGD learning rate, for segments of bptt steps; others have it in proportion to their length."""
    weight_decay: NotNegative = 5e-7
    """L2 on the weights."""
    grad_clip: Positive = 0.25
    """Largest norm of the gradient."""
    dropout: Portion = 0.75
    """Dropout of the cell's outputs."""
    dropouth: Portion = 0.25
    """Dropout of the states inside the cell."""
    dropoutx: Portion = 0.75
    """Dropout of the cell's inputs."""
    dropouti: Portion = 0.2
    """Dropout of the embedding's outputs."""
    dropoute: Portion = 0.0
    """Share of the words that the embedding drops."""
    ar: NotNegative = 0.0
    """L2 on the outputs of the cell."""
    tar: NotNegative = 1e-3
    """L2 on the differences between outputs of neighbouring time steps."""


def check_text(config: TextConfig) -> None:
    """Raise :class:`FastdartsError` if the settings of the text make no sense."""
    if config.bptt == 1:
        raise FastdartsError("--bptt is 1, but a segment has two time steps or more: expected 2 or more")


@dataclass(frozen=True)
class TextSearchConfig(TextConfig, SearchConfig):
    """What searches on text add to the settings of every search. The defaults are those of DARTS (ICLR 2019), section
    3.1.2 and its public code."""

    group: ClassVar[str] = "text"
    extends: ClassVar[type] = SearchConfig
    counts_more: ClassVar[bool] = True

    nodes: Nodes = 8
    """Searched nodes of the cell."""
    learning_rate_min: NotNegative | None = None
    """Learning rate at the end of a cosine; by default the rate stays as it is."""
    momentum: Portion = 0.0
    """SGD momentum."""
    seed: Seed = 3
    """Seed of the weights, the alphas, the dropouts and the lengths of the segments."""

    def left_out(self, space: Space) -> dict[str, Any]:
        """What a method has published for images counts here, but for rates, sizes and numbers of epochs."""
        images = {*RATES, *TextConfig.__annotations__, *TextSearchConfig.__annotations__}
        published = {k: v for k, v in self.published.get("cifar", {}).items() if k not in images}
        rate = {"learning_rate_min": self.learning_rate}
        return TEXT_RECIPE | rate | published | dict(self.published.get(space.name, {}))

    def check_task(self, space: Space) -> None:
        """A segment has two time steps or more, and a batch statistics."""
        check_text(self)
        if self.batch_size == 1:
            raise FastdartsError("--batch-size is 1, but one stream has no batch statistics: expected 2 or more")


@dataclass(frozen=True)
class TextArchSideEffects(ArchSideEffects):
    """What they change in the settings of methods that pass the supernet for its alphas alone."""

    group: ClassVar[str] = "alphas"
    extends: ClassVar[type] = ArchSideEffects
    counts_more: ClassVar[bool] = True

    arch_side_effects: bool = False
    """Side effects of the passes for the alphas, as published: each draws dropout masks of its own and moves BatchNorm
    running statistics. Otherwise all passes of a step use the same masks, those of the coming step of the weights."""


RATES = ("learning_rate_min", "learning_rate_warmup", "arch_learning_rate", "arch_grad_clip", "warmup")
TEXT_RECIPE: dict[str, Any] = {
    "warmup": 0,
    "learning_rate_warmup": 0,
    "arch_learning_rate": 3e-3,
    "arch_grad_clip": 0.0,
    "eigenvalue_every": 0,
}
"""The published settings of DARTS for Penn Treebank that have no default of their own."""


@dataclass(frozen=True)
class TextEvaluateConfig(TextConfig, EvaluateConfig):
    """Train the language model of a recurrent cell from scratch and test it. The defaults are those of DARTS for Penn
    Treebank; published for WikiText-2 are --hidden 700 --dropouth 0.15 --weight-decay 5e-7."""

    hidden: Width = 850
    """Width of the embedding and of the cell."""
    batch_size: Batch = 64
    """Streams that the training text is cut into."""
    test_batch_size: Batch = 1
    """Streams that the test text is cut into."""
    epochs: Epochs = 8000
    """Passes over the training text."""
    weight_decay: NotNegative = 8e-7
    """L2 on the weights."""
    dropoute: Portion = 0.1
    """Share of the words that the embedding drops."""
    length_spread: NotNegative = 5.0
    """Standard deviation of the lengths of segments, in time steps; they end at 5 and at bptt + 20."""
    nonmono: Count = 5
    """Number N of epochs: averaging of the weights starts at the first epoch worse than the best of all but the last
    N."""
    finetune_epochs: EpochsOrNone = 0
    """Passes more at most, averaged anew from the best weights; they end by the same rule."""
    seed: Seed = 1267
    """Seed of the weights, the dropouts and the lengths of the segments."""

    task: str = "language"

    data_settings = ("data", "level", "vocabulary")

    def check_task(self) -> None:
        """A segment has two time steps or more."""
        check_text(self)


def search_settings(**settings: Any) -> SearchConfig:
    """Settings of a search for a recurrent cell by DARTS; what ``RecurrentSearchConfig`` was."""
    return SearchConfig(space="rnn", **settings)
