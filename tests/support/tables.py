"""Made-up tables: how good each architecture of a space is."""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

from fastdarts.spaces import SPACES, Space, parse_architecture

NB201, TINY_SPACE = SPACES["nasbench201"], SPACES["tiny"]


def accuracy(choice: Sequence[int]) -> float:
    """The third value of every decision is best, and the last decision counts most."""
    return 50 + 40 * (1 - sum(abs(index - 3) * place for place, index in enumerate(choice, 1)) / 63)


def accuracy_of(text: str, space: Space = NB201) -> float:
    """The same of an architecture as histories name it."""
    return accuracy(space.encode(parse(text, space)))


def parse(text: str, space: Space):
    """The genotype that a history names."""
    found = space.from_text(text)
    return found if found is not None else parse_architecture(text).genotype


def write_table(path: Path, space: Space = NB201) -> Path:
    """Write the accuracy of all architectures to ``path``."""
    sizes = [range(decision.size) for decision in space.decisions(space.nodes)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["architecture", "accuracy"])
        for choice in itertools.product(*sizes):
            table.writerow([space.text(space.decode(choice, space.nodes)), f"{accuracy(choice):.6f}"])
    return path
