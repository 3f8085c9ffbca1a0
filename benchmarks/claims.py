"""Claims of papers, and verdicts on them that follow from rules: rows of the table on top of docs/results.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from benchmarks.gpu_tables import table
from fastdarts.compare.statistics import CONFIDENCE, Difference, paired, pairs_needed, quantile

DIFFERENCE = 0.5
"""Points of error from which a difference matters here. The numbers of pairs that are needed are for this one."""
HEADS = ["claim", "source", "where", "measured", "n", "needed", "verdict", "why"]
NONE_YET = "no search is finished yet"
ZELA, WANG, LIU, LI = "Zela 2020", "Wang 2021", "Liu 2019", "Li 2019, Yang 2020"
BESIDE = (
    ("darts-es", "darts", "DARTS-ES finds better cells than DARTS", ZELA, -1),
    ("darts-ada", "darts", "DARTS-ADA finds better cells than DARTS", ZELA, -1),
    ("darts-pt", "darts", "DARTS-PT finds better cells than DARTS", WANG, -1),
    ("blank-pt", "darts", "DARTS-PT needs no alphas: a blank supernet gives better cells than DARTS", WANG, -1),
    ("lambda-darts", "darts", "Λ-DARTS finds better cells than DARTS", "Movahedi 2023", -1),
    ("second-order", "darts", "The second order finds better cells than the first", LIU, -1),
    (
        "second-order-exact",
        "second-order",
        "The exact product finds better cells than the difference",
        "asked here",
        -1,
    ),
    ("joint", "darts", "A single level finds worse cells than two", LIU, +1),
)
"""What is claimed of two methods, and the sign of the first one's error minus the second one's."""


class Claim(NamedTuple):
    """What somebody claims, where it was asked, what was measured of how many searches or pairs, how many would show
    :data:`DIFFERENCE`, and what follows."""

    claim: str
    source: str
    where: str
    measured: str
    n: int
    needed: str
    verdict: str
    why: str


def claims_table(claims: Iterable[Claim]) -> str:
    """A row for each; the claim and its source stand in the first row of those about the same thing."""
    rows, before = [], ""
    for claim in claims:
        head = ["", ""] if claim.claim == before else [claim.claim, claim.source]
        rows.append(
            [
                *head,
                claim.where.replace(" ", "\u00a0"),
                claim.measured,
                str(claim.n),
                claim.needed,
                f"**{claim.verdict}**",
                claim.why,
            ]
        )
        before = claim.claim
    return table(HEADS, rows)


def said(found: Difference | None) -> str:
    """A difference with its interval."""
    if found is None:
        return "–"
    return f"{found.mean:+.2f}" + ("" if found.low is None else f" [{found.low:+.2f}, {found.high:+.2f}]")


def spread(found: Difference) -> float:
    """The standard deviation of the differences of pairs, from the interval that it gave."""
    return (found.high - found.mean) * math.sqrt(found.n) / quantile(0.5 + CONFIDENCE / 2, found.n - 1)


def needed(found: Difference | None) -> str:
    """How many pairs would show :data:`DIFFERENCE` in four cases of five, at the spread found so far."""
    if found is None or found.low is None:
        return "–"
    pairs = pairs_needed(spread(found), DIFFERENCE)
    return "over 10,000" if pairs is None else str(pairs)


def verdict(found: Difference | None, claimed: int, margin: float = 0.0) -> tuple[str, str]:
    """Whether a claim about the sign of a difference holds, and why: its 95 % interval lies on that side, on the other,
    or holds 0. With a ``margin`` 0 is moved by it against the claim, which is then one of "no worse than"."""
    if found is None or found.low is None:
        return "undecided", NONE_YET if found is None else "no interval"
    edge = -margin * claimed
    name = f"{edge:+g}" if edge else "0"
    if not margin and max(-found.low, found.high) < DIFFERENCE and found.low <= 0 <= found.high:
        return "undecided", f"holds 0, but not {DIFFERENCE:g}"
    if found.low <= edge <= found.high:
        return "undecided", f"holds {name}"
    side = 1 if found.mean > edge else -1
    return ("confirmed" if side == claimed else "refuted"), f"{('below', 'above')[side > 0]} {name}"


def compared(
    claim: str, source: str, where: str, sign: int, what: str, mine: Mapping, other: Mapping, margin: float = 0.0
) -> Claim:
    """A claim about the sign of ``mine`` minus ``other``, in points, over the keys of both; ``what`` says what that is
    where the claim does not."""
    keys = sorted(mine.keys() & other.keys())
    found = paired(*({n: values[key] for n, key in enumerate(keys)} for values in (mine, other)))
    measured = "–" if found is None else f"{what}: " * bool(what) + said(found).replace(" ", "\u00a0")
    return Claim(claim, source, where, measured, found.n if found else 0, needed(found), *verdict(found, sign, margin))


def counted(claim: str, source: str, where: str, what: str, hits: int, total: int, without: str = NONE_YET) -> Claim:
    """A claim about most searches: confirmed if more than half show it, refuted if none does. ``without`` says why
    there may be none to count."""
    if not total:
        return Claim(claim, source, where, "–", 0, "–", "undecided", without)
    state = "confirmed" if hits > total / 2 else "in part" if hits else "refuted"
    why = {"confirmed": "more than half", "refuted": "none"}.get(state, "at most half")
    return Claim(claim, source, where, f"{what}: {hits} of {total}", total, "–", state, why)


def beside(where: str, errors: Mapping[str, Mapping]) -> Iterator[Claim]:
    """The claims about two methods of which ``errors`` has both, each with its errors by key, in percent."""
    for method, base, claim, source, sign in BESIDE:
        if method in errors and base in errors:
            yield compared(claim, source, where, sign, "", errors[method], errors[base])


def chance(where: str, mine: Mapping, other: Mapping) -> Claim:
    """The claim that DARTS is little better than chance: ``mine`` are its errors, ``other`` those of chance."""
    claim = f"DARTS finds cells at most {DIFFERENCE:g} points better than chance"
    return compared(claim, LI, where, +1, "", mine, other, DIFFERENCE)
