"""The generated parts and figures of docs/results.md: ``python -m benchmarks.page --write`` writes both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks import (
    beyond_labels,
    beyond_labels_page,
    every_method_page,
    full_length_page,
    regret_page,
    robustness_page,
    second_order_page,
)
from benchmarks.claims import NONE_YET, Claim, claims_table

TINY = "*`fastdarts study tiny`; three searches on a shared AVX-512 EPYC; 0.4 hours of two cores.*"
VERDICTS = "confirmed", "in part", "refuted", "undecided"


def ordered(claims: list[Claim]) -> list[Claim]:
    """Claims that were measured, those about the same thing beside each other, in the order of their first mention."""
    names = list(dict.fromkeys(claim.claim for claim in claims))
    return sorted((claim for claim in claims if claim.why != NONE_YET), key=lambda claim: names.index(claim.claim))


def claims_section(claims: list[Claim]) -> str:
    """How many verdicts there are, the table of what was measured, and the names of what waits for searches."""
    shown = ordered(claims)
    waiting = [claim for claim in claims if claim.why == NONE_YET]
    parts = []
    if shown:
        counts = Counter(claim.verdict for claim in shown)
        said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
        parts += [f"**So far: {said}.**", claims_table(shown)]
    if waiting:
        names = "\n".join(f"- {claim.claim} ({claim.where})." for claim in waiting)
        head = f"<details markdown><summary>{len(waiting)} more wait for searches to finish</summary>"
        parts += [head, names, "</details>"]
    return "\n\n".join(parts)


def hero(pieces: Sequence[full_length_page.Found]) -> str:
    """The figure on top: searches of full length in S2, or those of the study of tiny before there are any."""
    mine = [piece for piece in pieces if (piece["variant"], piece["space"]) == ("darts", "s2")]
    name, about = ("full-length-s2", full_length_page.caption(mine)) if mine else ("tiny-regret", TINY)
    return f"![What DARTS derives, and what its supernet says, over the epochs of a search]({name}.svg)\n\n{about}"


def parts() -> dict[str, str]:
    """The text of every marked part."""
    pieces, groups, tables = full_length_page.finished(), every_method_page.read(), regret_page.read()
    small = robustness_page.read()
    claims = [*full_length_page.claims(pieces), *regret_page.claims(tables)]
    claims += [*robustness_page.claims(small), *every_method_page.claims(groups)]
    return {
        "claims": claims_section(claims),
        "hero": hero(pieces),
        "full-length": full_length_page.section(pieces),
        "second-order": second_order_page.section(pieces),
        "regret": regret_page.section(tables),
        "robustness": robustness_page.section(small),
        "every-method": every_method_page.section(groups),
        "beyond-labels": beyond_labels_page.section([*beyond_labels.finished()]),
    }


def figures() -> dict[str, str]:
    """The drawings by the names of their files."""
    pieces, groups, tables = full_length_page.finished(), every_method_page.read(), regret_page.read()
    made = {f"full-length-{space}": drawing for space, drawing in full_length_page.figures(pieces).items()}
    made |= {f"second-order-{space}": drawing for space, drawing in second_order_page.figures(pieces).items()}
    made |= {f"regret-{space}": drawing for space, drawing in regret_page.figures(tables).items()}
    made |= {f"robustness-{name}": drawing for name, drawing in robustness_page.figures(robustness_page.read()).items()}
    if drawing := beyond_labels_page.figure([*beyond_labels.finished()]):
        made[beyond_labels_page.FIGURE] = drawing
    if groups:
        made["every-method"] = every_method_page.figure(groups)
    return {f"{name}.svg": drawing for name, drawing in made.items()}
