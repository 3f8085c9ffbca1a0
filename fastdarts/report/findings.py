"""What a run says, in sentences: rules that look at its numbers, each with its threshold, and what to do next.

A rule is a function of the records of a run that returns a :class:`Finding`, or None where it does not hold. What it
compares, and with what, stands in the page too.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from fastdarts.nn.operations import SKIP_CONNECTIONS
from fastdarts.registry import methods
from fastdarts.report.charts import number
from fastdarts.report.curves import guessing
from fastdarts.report.markup import EMPTY, Html, element
from fastdarts.report.page import help_mark
from fastdarts.report.reader import Records, last, points
from fastdarts.tasks.commands import OWN, command, evaluate_command, same_again
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig
from fastdarts.tasks.validation import searches_in

FEW_SEARCH, FEW_TRAINING = 25, 100
"""Epochs of a search, and of a training from scratch on images: half and a sixth of the published 50 and 600."""
UNIFORM = 0.98
"""Of the largest entropy; 0.98 of it with eight candidates is one at 0.23 and seven at 0.11."""
GAP = 5.0
"""Points by which discretisation may raise the error."""
SKIPS = 0.5
"""Share of the operations of a cell that may be skip connections: DARTS_V2 has 2 of 8, collapsed searches 5 or more."""
LATE, LATE_EPOCHS = 0.1, 3
"""The last tenth of the epochs, and no fewer than three, in which the genotype should stay."""
RISE, WINDOW = 4 / 3, 5
"""Growth of the mean of five eigenvalues; R-DARTS stops where the mean before is below 0.75 of it."""
LAG = 5.0
"""Points by which running statistics may raise the supernet's error over that with batch statistics."""
FAR = 10.0
"""Points by which the error on other images may be above that on the training images."""
CHANCE = 0.9
"""Of the error of guessing: from there on a network has learned next to nothing."""


@dataclass(frozen=True)
class Finding:
    """A sentence about a run, what to do next, a command for it, and the rule by which it was found."""

    level: Literal["warning", "note", "next"]
    says: str
    does: str
    rule: str
    command: str = ""


def _again(run: Records, **changes: object) -> str:
    """The command that does the same again with other settings; "" if these would be refused."""
    verb, kind = ("evaluate", EvaluateConfig) if run.is_evaluation else ("search", SearchConfig)
    return same_again(verb, run.folder, run.config, kind, **changes)


def _stopped_early(run: Records) -> str:
    """The command for the same search that ends where the eigenvalue rises; "" for a method without such an end."""
    return _again(run, eigenvalue_stop=True, eigenvalue_every=2)


def _can_be_projected(run: Records) -> bool:
    """Whether `fastdarts project` takes the supernet of the search."""
    method = methods().get(str(run.config.get("method")))
    partial = run.number("partial")
    whole = partial in (None, 1) and not run.config.get("edge_normalisation") and run.config.get("dataset") != OWN
    able = {"fixing", "class logits"} <= run.space.has | run.task.has
    return able and whole and method is not None and bool(method.settings.projected_by)


def _projection(run: Records) -> bool:
    return "supernet" in run.config


def _epochs(run: Records) -> int:
    """Epochs that the run has, or was to have."""
    planned = run.number("epochs")
    return int(planned) if planned is not None else max((len(rows) for rows in run.trainings().values()), default=0)


def unfinished(run: Records) -> Finding | None:
    """There is no result yet."""
    if run.result:
        return None
    done = max((row["epoch"] for row in run.rows), default=0)
    verb = "project" if _projection(run) else "evaluate" if run.is_evaluation else "search"
    own = run.config.get("dataset") == OWN
    how = f"the same call of fastdarts.{verb}()" if own else "it"
    return Finding(
        "warning",
        f"The run is unfinished: {done or 'no'} of {_epochs(run) or '?'} epochs are done."
        if not run.parts
        else "The run is unfinished.",
        f"While it runs, this page follows it. If it has stopped, go on with {how}.",
        "There is no result.json.",
        "" if own else command(verb, "--resume", run.folder),
    )


def few_epochs(run: Records) -> Finding | None:
    """The run is much shorter than published ones."""
    asked = run.config.get("epochs")  # a search may have ended by a rule of its own before
    epochs = asked if isinstance(asked, int) else _epochs(run)
    most, published = (FEW_TRAINING, 600) if run.is_evaluation else (FEW_SEARCH, 50)
    if run.space.task != "images" or run.parts == "sample" or _projection(run) or not 0 < epochs < most:
        return None
    what = "training" if run.is_evaluation else "search"
    return Finding(
        "note",
        f"This {what} has {epochs} epoch{'s' * (epochs != 1)}, and the published one {published}. It shows that all "
        "works; its numbers say little.",
        f"For numbers that count, run it for {published} epochs.",
        f"Fewer than {most} epochs.",
        _again(run, epochs=published),
    )


def learned_nothing(run: Records) -> Finding | None:
    """The error is that of guessing."""
    chance, name = guessing(run), "test_error" if run.is_evaluation else "valid_error"
    errors = [error for error, _ in run.ranking()] if run.parts == "sample" else []
    error = min(errors) if errors else run.result.get(name, last(run.ending(), name))
    if chance is None or not _is_error(error) or error < CHANCE * chance:
        return None
    return Finding(
        "warning",
        f"The error is {error:.4g} %, and guessing has {chance:.4g} %: next to nothing was learned.",
        "Do not trust the architecture of this run. Learn from more images, or for more epochs.",
        f"The error is at least {CHANCE:.0%} of that of guessing.",
        _again(run, epochs=max(2 * _epochs(run), 50)),
    )


def _is_error(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 100


def nearly_uniform(run: Records) -> Finding | None:
    """The alphas have hardly moved."""
    if "arch_learning_rate" not in run.config or _projection(run):
        return None
    shares = {}
    for kind, title in run.space.kinds.items():
        entropies = [_entropy(edge) for _, table in run.weights(kind)[-1:] for edge in table]
        if entropies and None not in entropies:
            shares[title] = statistics.fmean(entropies)
    if not shares or min(shares.values()) < UNIFORM:
        return None
    rate = run.number("arch_learning_rate") or 3e-4
    said = " and ".join(f"{100 * share:.1f} % ({title})" for title, share in shares.items())
    return Finding(
        "warning",
        f"The mixing weights are nearly uniform: their entropy is {said} of the largest. "
        "The architecture rests on tiny differences.",
        "Search longer, or let the alphas learn faster.",
        f"The mean entropy of the edges is at least {UNIFORM:.0%} of that of equal weights, in every kind of cell.",
        _again(run, epochs=max(_epochs(run), 50), arch_learning_rate=10 * rate),
    )


def _entropy(edge: Sequence[float]) -> float | None:
    """Entropy of weights that sum to 1, as a share of the largest; None of others, or of a single one."""
    if len(edge) < 2 or abs(sum(edge) - 1) > 1e-3 or min(edge) < 0:
        return None
    return -sum(weight * math.log(weight) for weight in edge if weight > 0) / math.log(len(edge))


def large_gap(run: Records) -> Finding | None:
    """The derived network does worse than the supernet with the same weights."""
    gap = last(run.ending(), "discretisation_gap")
    if gap is None or gap < GAP:
        return None
    able = _can_be_projected(run)
    does = "Train the architecture from scratch before you judge it."
    if able:
        does = (
            "The supernet says little about this architecture. Let a projection choose instead, candidate by candidate."
        )
    return Finding(
        "warning",
        f"The discretisation gap is {number(gap)} points: with the same weights, the derived network has that much "
        "more error than the supernet.",
        does,
        f"The gap after the last epoch is at least {GAP:g} points.",
        command("project", run.folder) if able else evaluate_command(run.folder, run.config),
    )


def many_skips(run: Records) -> Finding | None:
    """The first kind of cell is made of skip connections."""
    kind, title = next(iter(run.space.kinds.items()))
    if not run.genotype or run.space.cell.made_of:
        return None
    entries = run.cells(run.genotype)[kind][0]
    count = sum(entry[0] in SKIP_CONNECTIONS for entry in entries)
    if not entries or count < SKIPS * len(entries):
        return None
    says = f"{count} of the {len(entries)} operations of the {title} are skip connections"
    rule = f"At least {SKIPS:.0%} of the operations of the {title} are skip connections."
    if run.is_evaluation:
        return Finding("note", f"{says}: the network has few weights.", "Compare it with another one.", rule)
    stopped = _stopped_early(run)
    limiting = [
        f"--method {name}"
        for name, method in methods().items()
        if "most_skips" in {field.name for field in fields(method.settings)} and searches_in(method, run.space)
    ]
    ways = ["with early stopping"] * bool(stopped)
    ways += [f"with a limit for skip connections ({' or '.join(limiting)})"] * bool(limiting)
    learns = "arch_learning_rate" in run.config
    return Finding(
        "warning",
        f"{says}{'. Searches that run too long often collapse like this.' if learns else ': it has few weights.'}",
        f"Search {', or '.join(ways)}." if learns and ways else "Compare it with another one.",
        rule,
        stopped,
    )


def still_changing(run: Records) -> Finding | None:
    """The derived genotype has not come to rest."""
    rows = [row for row in run.ending() if "genotype" in row]
    ruled = run.result.get("decisions") or run.result.get("rollbacks")  # the result is not that of the last epoch
    if run.parts or _projection(run) or ruled or len(rows) <= LATE_EPOCHS:
        return None
    window = max(LATE_EPOCHS, math.ceil(LATE * len(rows)))
    end = rows[-1]["epoch"]
    late = [epoch for epoch, _ in run.changes()[1:] if end - window < epoch <= end]
    if not late:
        return None
    times = "once" if len(late) == 1 else f"{len(late)} times"
    return Finding(
        "warning",
        f"The architecture changed {times} in the last {window} epochs, the last time in epoch {late[-1]}.",
        "Search longer, until it stays the same.",
        f"The derived genotype changed in the last {LATE:.0%} of the epochs, no fewer than {LATE_EPOCHS}.",
        _again(run, epochs=max(50, 2 * _epochs(run))),
    )


def rising_eigenvalue(run: Records) -> Finding | None:
    """The curvature in the alphas grows, which R-DARTS stops at."""
    found = points(run.ending(), "eigenvalue")
    if len(found) < 2 * WINDOW or run.result.get("rollbacks"):
        return None
    means = [statistics.fmean(value for _, value in found[k : k + WINDOW]) for k in range(len(found) - WINDOW + 1)]
    lowest = min(range(len(means)), key=means.__getitem__)
    if means[lowest] <= 0 or means[-1] < RISE * means[lowest]:
        return None
    epoch = found[lowest + WINDOW - 1][0]
    return Finding(
        "warning",
        f"The largest eigenvalue rises: its mean is {means[-1] / means[lowest]:.2f} times that up to epoch {epoch}. "
        "Networks derived after such a rise generalise worse.",
        f"Prefer the architecture of epoch {epoch}, which the player below shows"
        f"{', or search with early stopping' if (stopped := _stopped_early(run)) else ''}.",
        f"The mean of the last {WINDOW} of at least {2 * WINDOW} eigenvalues is at least {RISE:.3g} times the lowest "
        "such mean.",
        stopped,
    )


def lagging_statistics(run: Records) -> Finding | None:
    """The supernet does worse in evaluation because its running statistics lag behind its weights."""
    rows = run.ending()
    running, batch = last(rows, "valid_error"), last(rows, "supernet_error_batch_stats")
    if running is None or batch is None or running - batch < LAG:
        return None
    return Finding(
        "note",
        f"The validation error is {number(running)} % with running statistics and {number(batch)} % with those of the "
        "batch: the running ones lag behind the weights.",
        "Judge the supernet by the curve “batch statistics”. The derived network is not affected: train it.",
        f"The two errors of the last epoch differ by at least {LAG:g} points.",
        evaluate_command(run.folder, run.config),
    )


def overfitted(run: Records) -> Finding | None:
    """Images that were not learned from are recognised far worse."""
    rows = run.ending()
    train = last(rows, "train_error")
    names = ("test_error", "valid_error") if run.is_evaluation else ("supernet_error_batch_stats", "valid_error")
    name, other = next(((name, error) for name in names if (error := last(rows, name)) is not None), ("", None))
    if train is None or other is None or run.task.metric.unit != " %" or other - train < FAR:
        return None
    decay = run.number("weight_decay")
    what = "test" if name == "test_error" else "validation"
    return Finding(
        "note",
        f"The {what} error is {number(other)} % and the training error {number(train)} %: the images were learned by "
        "heart.",
        "Use more images, or more L2 on the weights.",
        f"The two errors of the last epoch differ by at least {FAR:g} points.",
        "" if not decay or _projection(run) else _again(run, weight_decay=3 * decay),
    )


def one_seed(run: Records) -> Finding | None:
    """One training is no measure of small differences."""
    if len(run.result.get("test_errors", ())) != 1:
        return None
    return Finding(
        "note",
        "The error is that of one training. Another seed gives another one, so small differences mean nothing.",
        "Train with three seeds before you compare architectures.",
        "The run has one seed.",
        _again(run, seeds=3),
    )


def next_step(run: Records) -> Finding | None:
    """What usually follows a run that has ended."""
    if not run.result:
        return None
    rule = "There is a result.json."
    if run.is_evaluation:
        if run.space.task != "images":
            return None
        says = "The training is finished, and its networks can be used."
        return Finding("next", says, "Classify images of your own.", rule, command("predict", run.folder, "IMAGE"))
    does = "Train the architecture from scratch."
    return Finding("next", _what_is_known(run), does, rule, evaluate_command(run.folder, run.config))


def _what_is_known(run: Records) -> str:
    """What the numbers of a finished search are about."""
    if "queries" not in run.config:
        known = "Its errors are those of the supernet; the architecture itself is not trained yet."
    elif run.parts == "sample":
        known = "Its errors are those of candidates that were trained for a short time."
    else:
        known = "No network was trained: its numbers are those by which candidates were judged."
    return f"The search is finished. {known}"


RULES = (
    unfinished, learned_nothing, nearly_uniform, still_changing, large_gap, many_skips, rising_eigenvalue,
    lagging_statistics, overfitted, few_epochs, one_seed, next_step,
)  # fmt: skip
"""In the order of the page."""


def findings(run: Records) -> list[Finding]:
    """What the rules find in a run."""
    return [found for rule in RULES if (found := rule(run))]


_BADGE = {"warning": ("look at this", ""), "note": ("good to know", "note"), "next": ("next", "good")}


def findings_block(found: Iterable[Finding]) -> Html:
    """The list of findings; empty without one."""
    items = []
    for finding in found:
        word, kind = _BADGE[finding.level]
        mark = element("span", word, class_=f"badge {kind}".strip())
        text = mark, finding.says, " ", help_mark("the rule", f"Rule: {finding.rule}")
        code = element("code", finding.command) if finding.command else EMPTY
        items.append(element("li", *text, element("p", finding.does), code))
    return element("div", element("ul", *items), class_="says") if items else EMPTY
