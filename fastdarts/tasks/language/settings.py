"""Settings of a search for a recurrent cell and of its evaluation; the defaults are the published ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastdarts.engine.settings import check_hypergradient
from fastdarts.errors import FastdartsError
from fastdarts.runs.checks import check_fields
from fastdarts.runs.kinds import (
    Batch,
    Count,
    Epochs,
    EpochsOrNone,
    Few,
    Nodes,
    NotNegative,
    Portion,
    Positive,
    Seed,
    Width,
)
from fastdarts.runs.settings import RunConfig


@dataclass(frozen=True)
class TextConfig(RunConfig):
    """Which text, the size of the network and its dropouts, and how weights learn."""

    space: Literal["rnn"] = "rnn"
    """Recurrent cells on text."""
    data: Path | None = None
    """Folder of train.txt, valid.txt and test.txt (ptb.train.txt, wiki.train.tokens, ... will do)."""
    level: Literal["word", "char"] = "word"
    """What a token is: a word, as blanks separate them, or a character."""
    vocabulary: Count | None = None
    """Keep only the most frequent tokens of the training text, so many with <eos> and <unk>; by default all."""
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


@dataclass(frozen=True)
class RecurrentSearchConfig(TextConfig):
    """Search for a recurrent cell. The defaults are those of DARTS (ICLR 2019), section 3.1.2 and its public code."""

    unrolled: bool = False
    """Second order: differentiate through one step of the weights; --hypergradient unrolled."""
    hypergradient: Literal["first-order", "unrolled", "exact", "neumann"] | None = None
    """How the alphas' gradient is found (first-order by default). unrolled: through one step of the weights, by finite
    differences as published; exact: the same by double backward; neumann: through weights that have converged, by a
    Neumann series."""
    difference_radius: Positive | None = None
    """Radius of the finite difference over the norm of its direction (unrolled; published and default: 0.01)."""
    neumann_terms: Few | None = None
    """Terms of the series (neumann; 3)."""
    arch_side_effects: bool = False
    """Let every pass for the alphas draw dropout masks of its own and move BatchNorm running statistics, as published;
    otherwise all passes of a step use the same masks, those of the coming step of the weights."""
    nodes: Nodes = 8
    """Searched nodes of the cell."""
    arch_learning_rate: Positive = 3e-3
    """Adam learning rate of the alphas."""
    arch_weight_decay: NotNegative = 1e-3
    """L2 on the alphas."""
    momentum: Portion = 0.0
    """SGD momentum."""
    seed: Seed = 3
    """Seed of the weights, the alphas, the dropouts and the lengths of the segments."""


@dataclass(frozen=True)
class RecurrentEvaluateConfig(TextConfig):
    """Train the language model of a recurrent cell from scratch and test it. The defaults are those of DARTS for Penn
    Treebank; published for WikiText-2 are --hidden 700 --dropouth 0.15 --weight-decay 5e-7."""

    genotype: str = ""
    """A name (ENAS, DARTS_V1, DARTS_V2), the folder of a search, a genotype.json, inline JSON, or a printed
    Genotype(...)."""
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
    """Weights are averaged from the first epoch on that is worse than the best but for the last so many."""
    finetune_epochs: EpochsOrNone = 0
    """Up to so many passes more, averaged anew from the best weights; they end by the same rule."""
    seed: Seed = 1267
    """Seed of the weights, the dropouts and the lengths of the segments."""


def validate(config: RecurrentSearchConfig | RecurrentEvaluateConfig) -> None:
    """Raise :class:`FastdartsError` with one sentence for the first setting that makes no sense."""
    check_fields(config)
    if config.bptt == 1:
        raise FastdartsError("--bptt is 1, but a segment has two time steps or more: expected 2 or more")
    if isinstance(config, RecurrentSearchConfig):
        check_hypergradient(config)
        if config.batch_size == 1:
            raise FastdartsError("--batch-size is 1, but one stream has no batch statistics: expected 2 or more")
    elif not config.genotype:
        raise FastdartsError("no genotype given: name one with --genotype NAME, FILE or JSON")
