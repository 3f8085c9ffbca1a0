"""Who watches a run from Python: a function that is called after every epoch, and loggers that are objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdarts.runs.loggers import PARTS, Logger


class StopSearch(Exception):
    """Raised by ``on_epoch``: the search ends after this epoch as after its last one, with a genotype and a result."""


@dataclass(frozen=True)
class Epoch:
    """An epoch that is over.

    run: the folder. epoch: its number, from 0. epochs: how many there are. row: what metrics.jsonl has of it, such as
    ``train_loss`` and ``valid_error``. genotype: what would be derived now, as genotype.json holds it, None where the
    row has none. part: ``("seed", 3)`` of a training among several, else None.
    """

    run: Path
    epoch: int
    epochs: int
    row: Mapping[str, Any]
    genotype: Mapping[str, Any] | None
    part: tuple[str, int] | None

    @classmethod
    def of(cls, run: Path, row: Mapping[str, Any], epochs: int) -> Epoch:
        """The record of a row."""
        part = next(((name, row[name]) for name in PARTS if name in row), None)
        return cls(run, row["epoch"], epochs, dict(row), row.get("genotype"), part)


@dataclass(frozen=True)
class Watch:
    """What a script gives beside the settings.

    on_epoch: called after each epoch, once its row is recorded, on the first of several ranks. loggers: beside those of
    the settings. how: how to go on with the run, where that is not the usual command.
    """

    on_epoch: Callable[[Epoch], object] | None = None
    loggers: Sequence[Logger] = ()
    how: str = ""


NOBODY = Watch()
