"""Text as streams of tokens: three files, a vocabulary, batches of streams and where they are cut."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError

SPLITS = ("train", "valid", "test")
NAMES = ("{}.txt", "ptb.{}.txt", "wiki.{}.tokens")
EOS, UNKNOWN = "<eos>", "<unk>"


@dataclass(frozen=True)
class Corpus:
    """Three parts of a text as indices (int64) into ``vocabulary``."""

    vocabulary: tuple[str, ...]
    train: Tensor
    valid: Tensor
    test: Tensor

    @property
    def digest(self) -> str:
        """The same for another text only if all results are the same too."""
        parts = [part.numpy().tobytes() for part in (self.train, self.valid, self.test)]
        return hashlib.sha256(b"".join([repr([*map(len, parts)]).encode(), *parts])).hexdigest()


def load_corpus(folder: Path | None, level: str = "word", limit: int | None = None) -> Corpus:
    """The text of ``folder``: train.txt, valid.txt and test.txt, or the names that PTB and WikiText-2 come with.

    Tokens are what blanks separate (``level`` "word") or single characters ("char"), and ``<eos>`` ends each line. The
    vocabulary is that of all three files in the order of appearance; with a ``limit`` it is the most frequent tokens of
    the training text, ``<eos>`` and ``<unk>`` counted, and all others become ``<unk>``.

    Raises FastdartsError for a missing, empty or unreadable file.
    """
    if folder is None:
        raise FastdartsError("no text given: name with --data a folder that holds train.txt, valid.txt and test.txt")
    if limit is not None and limit < 3:
        raise FastdartsError(f"--vocabulary is {limit}: expected 3 or more, as {EOS} and {UNKNOWN} count")
    texts = {split: _tokens(_find(folder, split), level) for split in SPLITS}
    if limit is None:
        vocabulary = tuple(dict.fromkeys(token for text in texts.values() for token in text))
    else:
        counts = Counter(texts["train"])
        del counts[EOS], counts[UNKNOWN]
        vocabulary = (EOS, UNKNOWN, *(token for token, _ in counts.most_common(limit - 2)))
    index = {token: i for i, token in enumerate(vocabulary)}
    unknown = index.get(UNKNOWN)
    return Corpus(
        vocabulary, **{name: torch.tensor([index.get(t, unknown) for t in text]) for name, text in texts.items()}
    )


def _find(folder: Path, split: str) -> Path:
    if not folder.is_dir():
        raise FastdartsError(
            f"--data is {folder}, which is not a folder: name one with train.txt, valid.txt and test.txt"
        )
    names = [name.format(split) for name in NAMES]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FastdartsError(f"{folder} has no text to {_USES[split]}: expected {names[0]}, {names[1]} or {names[2]} in it")


_USES = {"train": "train weights on", "valid": "validate on", "test": "test on"}


def _tokens(path: Path, level: str) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise FastdartsError(f"{path} cannot be read ({error.strerror}): make it readable") from error
    except UnicodeDecodeError as error:
        raise FastdartsError(f"{path} cannot be read as UTF-8 text ({error}): convert or replace it") from error
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")  # str.splitlines() ends them elsewhere too
    tokens = [token for line in lines for token in (*(line.split() if level == "word" else line), EOS)]
    if len(tokens) == len(lines):
        raise FastdartsError(f"{path} is empty: expected text, a sentence per line")
    return tokens


def streams(tokens: Tensor, batch: int, what: str = "text") -> Tensor:
    """``tokens`` [n] as ``batch`` streams side by side, [n // batch, batch]; what is left over at the end is dropped.

    Raises FastdartsError if the streams are shorter than three tokens; ``what`` names the text there.
    """
    rows = len(tokens) // batch
    if rows < 3:
        raise FastdartsError(
            f"the {what} has {len(tokens):,} tokens, too few for {batch} streams of 3 or more: take a smaller batch or "
            "more text"
        )
    return tokens[: rows * batch].view(batch, rows).t().contiguous()


@dataclass(frozen=True)
class Lengths:
    """How many time steps are unfolded at once.

    Half of ``bptt`` in one of 20 segments, as AWD-LSTM has it; with ``spread`` in the mean only, around which lengths
    are normally distributed with that deviation, from 5 to ``longest``.
    """

    bptt: int
    spread: float = 0.0
    longest: int | None = None

    def draw(self, rows: int, *seed: int) -> list[range]:
        """The rows whose next tokens are predicted together, segment after segment, without the last row of the
        streams; a single row left over is dropped. A function of ``seed``."""
        generator, start, cut = random.Random(repr(seed)), 0, []
        while start < rows - 2:
            length = self.bptt if generator.random() < 0.95 else self.bptt / 2
            if self.spread:
                length = min(max(5, int(generator.gauss(length, self.spread))), self.longest)
            stop = min(start + max(2, int(length)), rows - 1)
            cut.append(range(start, stop))
            start = stop
        return cut


def segment(streams: Tensor, rows: range) -> tuple[Tensor, Tensor]:
    """Tokens [T, B] of these rows and those that follow each of them."""
    return streams[rows.start : rows.stop], streams[rows.start + 1 : rows.stop + 1]


def in_order(streams: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All segments of ``length`` rows, the last one shorter."""
    last = len(streams) - 1
    for start in range(0, last, length):
        yield segment(streams, range(start, min(start + length, last)))
