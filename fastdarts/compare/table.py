"""The comparison as numbers, and as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fastdarts.compare.read import Collected, Compared, collect, groups
from fastdarts.compare.statistics import Difference, Mean, mean_of, paired
from fastdarts.errors import FastdartsError, did_you_mean

NUMBERS = ("test", "valid", "skips", "parameters", "macs", "seconds", "memory")


@dataclass(frozen=True)
class Group:
    """The runs of a method with the same settings.

    means: of every number of :data:`NUMBERS` that some run has.
    difference: of the error that is compared from that of the baseline, over common seeds; None for the baseline.
    """

    name: str
    runs: list[Compared]
    facts: list[dict[str, Any]]
    means: dict[str, Mean | None]
    difference: Difference | None = None

    def by_seed(self, number: str) -> dict[int, float]:
        """A number of each search that has it, by seed."""
        pairs = zip(self.runs, self.facts, strict=True)
        return {run.seed: facts[number] for run, facts in pairs if facts[number] is not None}


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, the first of them or the one that is named as the baseline.

    judged: the number by which they are compared, "test" or "valid".
    unit: of errors: " %", or "" for perplexities.
    notes: what a reader should know, a sentence each.
    """

    groups: list[Group]
    baseline: str
    judged: str
    title: str
    unit: str
    notes: list[str] = field(default_factory=list)


def compare(paths: Sequence[Path], baseline: str | None = None) -> Comparison:
    """The runs in these folders beside each other, see :func:`fastdarts.compare.read.collect`.

    Raises :class:`FastdartsError` if there is no finished run, or none of the method ``baseline``.
    """
    collected = collect(paths)
    named = groups(collected.runs)
    facts = {name: [run.facts() for run in runs] for name, runs in named.items()}
    judged = collected.judged
    chosen = _baseline(baseline, {name: runs for name, runs in named.items() if _has(facts[name], judged)} or named)
    made = []
    for name, runs in named.items():
        means = {key: mean_of([f[key] for f in facts[name] if f[key] is not None]) for key in NUMBERS}
        made.append(Group(name, runs, facts[name], means))
    base = next(group for group in made if group.name == chosen).by_seed(judged)
    made = [_with_difference(group, base if group.name != chosen else None, judged) for group in made]
    evaluated = [one for run in collected.runs for one in run.evaluations]
    metric = (evaluated[0] if judged == "test" else collected.runs[0].records).task.metric
    notes = [*collected.notes, *_about(made, judged, collected)]
    title = metric.title.removeprefix("valid ")
    return Comparison(made, chosen, judged, title, metric.unit, notes)


def _has(facts: list[dict[str, Any]], number: str) -> bool:
    return any(found[number] is not None for found in facts)


def _with_difference(group: Group, base: dict[int, float] | None, judged: str) -> Group:
    found = None if base is None else paired(group.by_seed(judged), base)
    return Group(group.name, group.runs, group.facts, group.means, found)


def _baseline(asked: str | None, named: dict[str, list[Compared]]) -> str:
    if asked is None:
        return next(iter(named))
    fitting = [name for name, runs in named.items() if asked in (name, runs[0].method)]
    if not fitting:
        like = did_you_mean(asked, named)
        raise FastdartsError(f"--baseline is {asked!r}{like}: expected one of {', '.join(named)}")
    return fitting[0]


def _about(made: list[Group], judged: str, collected: Collected) -> list[str]:
    notes = []
    if judged == "valid" and any(run.is_search for run in collected.runs):
        notes.append(
            "Validation errors are those of the supernets, and of searches without gradients that of the best "
            "architecture. They say little of the networks that are derived: evaluate the genotypes, and compare again "
            "with their folders."
        )
    if judged == "test" and (without := [group.name for group in made if not group.means["test"]]):
        notes.append(f"Not evaluated, and so not judged: {', '.join(without)}.")
    if few := [group.name for group in made if len(group.runs) < 3]:
        notes.append(f"Fewer than three seeds, which is too few to tell methods apart: {', '.join(few)}.")
    return notes


class Column(NamedTuple):
    """A column of the table of groups."""

    title: str
    texts: list[str]


def columns(found: Comparison) -> list[Column]:
    """The table of groups; columns of which nothing is known are left out."""
    every = [Column("method", [_named(group) for group in found.groups])]
    every.append(Column("runs", [str(len(group.runs)) for group in found.groups]))
    for number, title in (("test", f"test {found.title}"), ("valid", f"valid {found.title}")):
        every.append(Column(title, [_error(group.means[number], found.unit) for group in found.groups]))
        if number == found.judged and len(found.groups) > 1:
            texts = [
                "baseline" if group.name == found.baseline else _difference(group.difference, found.unit)
                for group in found.groups
            ]
            every.append(Column(f"{number} difference from {found.baseline}", texts))
    shown = {
        "skips": ("skip connections", lambda value: f"{value:.1f}"),
        "parameters": ("parameters", _count),
        "macs": ("MACs", _count),
        "seconds": ("search", _time),
        "memory": ("peak memory", lambda value: f"{value / 2**20:,.0f} MiB"),
    }
    for number, (title, text) in shown.items():
        texts = [text(mean.mean) if (mean := group.means[number]) else "" for group in found.groups]
        every.append(Column(title, texts))
    return [column for column in every if any(column.texts)]


def seed_columns(found: Comparison) -> list[Column]:
    """The table of methods times seeds: the error that is compared, of every search."""
    seeds = sorted({run.seed for group in found.groups for run in group.runs})
    values = [group.by_seed(found.judged) for group in found.groups]
    first = Column(f"{found.judged} {found.title}, seed", [group.name for group in found.groups])
    return [first, *(Column(str(seed), [_number(row.get(seed), found.unit) for row in values]) for seed in seeds)]


def _named(group: Group) -> str:
    return f"{group.name} (random baseline)" if group.runs[0].is_baseline else group.name


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.2f}{unit}"


def _error(mean: Mean | None, unit: str) -> str:
    if mean is None:
        return ""
    return f"{mean.mean:.2f}{f' ± {mean.std:.2f}' if mean.std is not None else ''}{unit} (n={mean.n})"


def _difference(found: Difference | None, unit: str) -> str:
    if found is None:
        return "–"
    interval = "" if found.low is None else f" [{found.low:+.2f}, {found.high:+.2f}]"
    points = " points" if unit == " %" else unit  # of percent
    return f"{found.mean:+.2f}{interval}{points} (n={found.n})"


def _count(value: float) -> str:
    size, letter = (1e6, " M") if value >= 999_500 else (1e3, " k") if value >= 1000 else (1, "")
    return f"{value / size:,.0f}{letter}" if value / size >= 100 else f"{value / size:.3g}{letter}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


HOW = (
    "Means ± sample standard deviation (n - 1) over n searches. Differences are paired by seed, with the 95 % interval "
    "of Student's t in brackets: one that holds 0 is no evidence. Peak memory is that of tensors on a GPU, and "
    "that of the whole process on a CPU."
)


def text(found: Comparison) -> str:
    """Both tables and the notes for a terminal."""
    parts = [_aligned(columns(found)), _aligned(seed_columns(found)), HOW, *found.notes]
    return "\n\n".join(parts)


def _aligned(table: Sequence[Column]) -> str:
    widths = [max(map(len, [column.title, *column.texts])) for column in table]
    rows = [[column.title for column in table], *zip(*(column.texts for column in table), strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def markdown(found: Comparison) -> str:
    """The same as Markdown."""
    return "\n\n".join([_piped(columns(found)), _piped(seed_columns(found)), HOW, *found.notes]) + "\n"


def _piped(table: Sequence[Column]) -> str:
    rows = [[column.title for column in table], ["---"] * len(table), *zip(*(c.texts for c in table), strict=True)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def csv_text(found: Comparison) -> str:
    """A row for each run: method, seed, folder, and all its numbers as they are."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["group", "method", "seed", *NUMBERS, "evaluations", "folder"])
    for group in found.groups:
        for run, facts in zip(group.runs, group.facts, strict=True):
            numbers = ["" if facts[name] is None else facts[name] for name in NUMBERS]
            writer.writerow([group.name, run.method, run.seed, *numbers, len(run.evaluations), run.records.folder])
    return file.getvalue()


def as_json(found: Comparison) -> dict[str, Any]:
    """Everything, plain."""
    return {
        "baseline": found.baseline,
        "judged": found.judged,
        "notes": found.notes,
        "groups": [
            {
                "name": group.name,
                "method": group.runs[0].method,
                "random_baseline": group.runs[0].is_baseline,
                "means": {name: mean and mean._asdict() for name, mean in group.means.items()},
                "difference": group.difference and group.difference._asdict(),
                "runs": [
                    {"seed": run.seed, "folder": str(run.records.folder), "test_errors": run.test_errors(), **facts}
                    for run, facts in zip(group.runs, group.facts, strict=True)
                ],
            }
            for group in found.groups
        ],
    }


def best(found: Comparison) -> str:
    """The comparison in one sentence: the lowest mean, and whether the interval to the baseline excludes 0; that of the
    next one, if the baseline is the lowest."""
    known = [group for group in found.groups if group.means[found.judged]]
    if not known:
        return ""
    least = min(known, key=lambda group: group.means[found.judged].mean)
    error = _error(least.means[found.judged], found.unit)
    text = f"The lowest mean {found.judged} {found.title} is that of {least.name}, {error}"
    if len(known) < 2:
        return text + "."
    other, whose = least, "its difference"
    if least.name == found.baseline:
        other = min((group for group in known if group is not least), key=lambda group: group.means[found.judged].mean)
        whose = f"the difference of the next, {other.name},"
    gap = other.difference
    sure = gap is not None and gap.high is not None and (gap.high < 0 or gap.low > 0)
    return f"{text}; {whose} from {found.baseline} is {'beyond' if sure else 'within'} what seeds alone explain."


def spread(values: Sequence[float]) -> float:
    """Standard deviation of some numbers, 0 for one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
