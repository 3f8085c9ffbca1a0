"""The part of docs/results.md on regret against trained tables, from benchmarks/results/regret."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.claims import DIFFERENCE, ZELA, Claim, beside, chance, compared, needed, said
from benchmarks.figures import Interval, intervals
from benchmarks.gpu_tables import table
from benchmarks.regret import RESULTS, SPACES
from fastdarts.compare.statistics import expected_best, mean_of, paired, quantile
from fastdarts.study.tiny import kendall_tau

TITLES = {"tiny": "tiny", "nasbench201": "NAS-Bench-201"}
BASE = "darts"
NAMES = {"darts-second-order": "second-order"}
"""Names of methods in claims, where they are others."""
OVER_EPOCHS = (
    ("regrets", "The derived cell gets worse", +1),
    ("valid_errors", "The supernet's validation error falls meanwhile", -1),
)
"""What the searches of a study hold of every epoch, what is claimed of it, and the sign of its change."""

Found = dict[str, Any]


class Result(NamedTuple):
    """What a search has found: how much worse than the best of the table, in points, and the share of the table's
    random architectures that are better, in percent."""

    regret: float
    better: float


def read(folder: Path = RESULTS) -> dict[str, Found]:
    """The results of each space that has any."""
    paths = {space: folder / f"{space}.json" for space in SPACES}
    return {space: json.loads(path.read_text(encoding="utf-8")) for space, path in paths.items() if path.exists()}


def tabled(found: Found) -> dict[str, float]:
    """The test error of every architecture: the mean over its seeds in tiny, that of the first seed in a sample, which
    is the one that all cells have."""
    whole = found["space"] == "tiny"
    return {
        row["architecture"]: statistics.fmean(row["test_errors"]) if whole else row["test_errors"][0]
        for row in found["table"]
    }


def drawn(found: Found) -> list[float]:
    """The test errors of the architectures that no search has put into the table."""
    errors = tabled(found)
    return [errors[row["architecture"]] for row in found["table"] if row["sampled"]]


def results(found: Found) -> dict[str, dict[int, Result]]:
    """Of each method the results by seed, as far as the table has what was found."""
    errors, random = tabled(found), drawn(found)
    by: dict[str, dict[int, Result]] = defaultdict(dict)
    for one in found["searches"]:
        if random and one["architecture"] in errors:
            error = errors[one["architecture"]]
            better = sum(other < error for other in random)
            by[one["method"]][one["seed"]] = Result(error - min(random), 100 * better / len(random))
    return by


def agreement(found: Found) -> tuple[float, int] | None:
    """Kendall's tau between the first two seeds of training, and of how many architectures; None without two seeds."""
    both = [row["test_errors"][:2] for row in found["table"] if row["sampled"] and len(row["test_errors"]) > 1]
    tau = kendall_tau(*map(list, zip(*both, strict=True))) if len(both) > 1 else None
    return None if tau is None else (tau, len(both))


def method_table(found: Found) -> str:
    """A line for each method, from the lowest mean regret to the highest, and lines of random architectures."""
    by, random = results(found), drawn(found)
    base = {seed: one.regret for seed, one in by[BASE].items()}
    lines = []
    for method, ones in by.items():
        regrets = {seed: one.regret for seed, one in ones.items()}
        mean = mean_of([*regrets.values()])
        better = statistics.fmean(one.better for one in ones.values())
        gap = None if method == BASE else paired(regrets, base)
        spread = "" if mean.std is None else f" ± {mean.std:.2f}"
        lines.append(
            (mean.mean, [method, str(mean.n), f"{mean.mean:.2f}{spread}", f"{better:.0f}", said(gap), needed(gap)])
        )
    for k in (1, 4, 16):
        if k <= len(random):
            regret = expected_best(random, k) - min(random)
            name = "one random architecture" if k == 1 else f"best of {k} random ones"
            lines.append((regret, [f"*{name}*", "–", f"{regret:.2f}", "–", "–", "–"]))
    heads = ["method", "n", "regret, points", "better in the table, %", "beside darts, points"]
    return table(
        [*heads, f"pairs for {DIFFERENCE:g} points"], [line for _, line in sorted(lines, key=lambda at: at[0])]
    )


def claims(all_found: dict[str, Found]) -> Iterator[Claim]:
    """What the tables say about each claim."""
    for space, found in all_found.items():
        random, where = drawn(found), TITLES[space]
        for part, claim, sign in OVER_EPOCHS if "study_searches" in found else ():
            first, last = ([one[part][epoch] for one in found["study_searches"]] for epoch in (9, -1))
            what = "epoch 50 − 10"
            yield compared(claim, ZELA, where, sign, what, dict(enumerate(last)), dict(enumerate(first)))
        regrets = {name: {seed: one.regret for seed, one in ones.items()} for name, ones in results(found).items()}
        yield from beside(where, {NAMES.get(name, name): ones for name, ones in regrets.items()})
        if BASE in regrets:
            expected = dict.fromkeys(regrets[BASE], statistics.fmean(random) - min(random))
            yield chance(where, regrets[BASE], expected)


def figures(all_found: dict[str, Found]) -> dict[str, str]:
    """Of each space the mean regrets beside that of a random architecture."""
    made = {}
    for space, found in all_found.items():
        random, by = drawn(found), results(found)
        if not random or not by:
            continue
        chance = statistics.fmean(random) - min(random)
        rows = [_interval(method, [one.regret - chance for one in ones.values()]) for method, ones in by.items()]
        rows += [Interval(f"best of {k} random", expected_best(random, k) - min(random) - chance, None, None)
                 for k in (4, 16) if k <= len(random)]  # fmt: skip
        title = f"Regret in {TITLES[space]} beside that of a random architecture, mean and 95 % interval"
        made[space] = intervals(title, "points of test error", rows, ("better than chance", "worse"))
    return made


def _interval(name: str, values: Sequence[float]) -> Interval:
    found = mean_of(values)
    if found.std is None:
        return Interval(name, found.mean, None, None)
    half = quantile(0.975, found.n - 1) * found.std / math.sqrt(found.n)
    return Interval(name, found.mean, found.mean - half, found.mean + half)


def caption(found: Found) -> str:
    """What the numbers of a space hold for: command, processors, hours."""
    machines = sorted({f"{facts['cpu']} ({facts['isa']})" for facts in found["machines"]})
    seconds = found["core_seconds"] + found.get("core_seconds_of_study", 0.0)
    return (
        f"*`python -m benchmarks.regret {found['space']}`; {len(found['searches'])} searches and {len(found['table'])} "
        f"trained architectures on {'; '.join(machines)}; {seconds / 3600:.1f} hours of one thread.*"
    )


def section(all_found: dict[str, Found]) -> str:
    """The part of the page."""
    parts = [_of_space(found) for found in all_found.values()]
    return "\n\n".join(parts) if parts else "No search is finished yet."


def _of_space(found: Found) -> str:
    """The figure and the table of a space, or what is missing of it."""
    title = f"### {TITLES[found['space']]}"
    count, random = len(found["searches"]), drawn(found)
    if not random or not results(found):
        said = f"{count} searches are finished, and {len(random)} architectures of the table are trained."
        return "\n\n".join((title, f"{said} Regret needs both."))
    parts = [
        title,
        f"![Regret of every method in {TITLES[found['space']]}](regret-{found['space']}.svg)",
        caption(found),
    ]
    if tau := agreement(found):
        parts.append(f"Two seeds of training rank {tau[1]} architectures with Kendall's τ = {tau[0]:.2f}.")
    best, mean = min(random), statistics.fmean(random)
    parts.append(
        f"The best of {len(random)} random architectures has a test error of {best:.2f} %, their mean is {mean:.2f} %."
    )
    parts += ["<details markdown><summary>Every method</summary>", method_table(found), "</details>"]
    parts += ["<details markdown><summary>Every seed</summary>", _seed_table(found), "</details>"]
    if found["refused"]:
        reasons = [[name, reason.replace("|", "\\|")] for name, reason in sorted(found["refused"].items())]
        parts += [
            "<details markdown><summary>Methods that this space cannot have</summary>",
            table(["method", "reason"], reasons), "</details>",
        ]  # fmt: skip
    return "\n\n".join(parts)


def _seed_table(found: Found) -> str:
    rows = [
        [method, str(seed), f"{one.regret:.2f}", f"{one.better:.0f}"]
        for method, by in sorted(results(found).items())
        for seed, one in sorted(by.items())
    ]
    return table(["method", "seed", "regret, points", "better in the table, %"], rows)
