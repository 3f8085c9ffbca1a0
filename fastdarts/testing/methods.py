"""What every method must do, whatever it is made of."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import torch

from fastdarts.engine.search import search
from fastdarts.policies.bilevel import Bilevel
from fastdarts.report.charts import number
from fastdarts.runs import run as runs
from fastdarts.runs.stored import alternatives, is_number
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES, find_space
from fastdarts.spaces import architecture as architecture_of
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.validation import validate
from fastdarts.testing.outcomes import difference, outcome
from fastdarts.testing.ranks import check_ranks
from fastdarts.testing.refusals import check_refused

TINY: dict[str, Any] = {
    "channels": 4, "layers": 3, "epochs": 2, "samples": 48, "batch_size": 16, "threads": 1, "device": "cpu",
    "checkpoint_minutes": 0,
}  # fmt: skip
"""A search of seconds, with a checkpoint after every step."""


TINY_TEXT: dict[str, Any] = {
    "hidden": 6, "batch_size": 8, "eval_batch_size": 2, "bptt": 12, "nodes": 2, "epochs": 2, "learning_rate": 1.0,
    "threads": 1, "device": "cpu", "checkpoint_minutes": 0,
}  # fmt: skip
"""The same on a text, whose folder ``data`` names."""


def tiny(space: str) -> dict[str, Any]:
    """Settings of a search of seconds in ``space``."""
    return TINY_TEXT if find_space(space).task == "language" else TINY


class Killed(BaseException):
    """What ends a run right after one of its checkpoints."""


def check_method(
    name: str, folder: Path, space: str = "tiny", kills: int = 6, ranks: Sequence[int] = (1,), **settings: Any
) -> None:
    """Check a search by the method ``name``.

    It asserts:

    - The search leaves a whole run: rows of all epochs, a genotype of its space, and a report. The report draws the
      cells, names the genotype, and shows every number of the last row.
    - The same search gives the same bits again.
    - A search that is ended after a checkpoint and resumed gives the same bits. There is one such end for each kind of
      place where a method saves, and ``kills`` at least. The places are at the beginning, within an epoch, between two
      epochs, where the search goes back to an earlier epoch, and before a decision.
    - The strengths are a function of the alphas and draw no random numbers.
    - Everything that :func:`check_settings` asserts.
    - For every number above 1 in ``ranks``, everything that :func:`check_ranks` asserts.

    Args:
        name: The method, registered.
        folder: An empty one, for the runs.
        space: Where to search.
        kills: At how many checkpoints the search is ended and resumed.
        ranks: How many ranks search. Several are processes of their own, which takes some seconds.
        settings: What differs from a tiny search, see :data:`TINY` and :data:`TINY_TEXT`.

    Raises:
        AssertionError: The method does not do one of these.
        FastdartsError: There is no such method or space, or ``settings`` are refused.

    Example of a test:

        from fastdarts.testing import check_method

        def test_my_method(tmp_path):
            check_method("darts", tmp_path, ranks=(1, 2))
    """
    small = {"method": name, "space": space, **tiny(space), **settings}
    config = SearchConfig(**small)
    check_settings(**{"name": small.pop("method"), **small})
    _check_strength(config)
    whole = _check_whole(config, folder / "whole")
    again = _run(config, run=folder / "again")
    assert not (where := difference(again, whole)), f"{name} gives other bits the second time: {where}"
    with counted() as saves:
        _run(config, run=folder / "counted")
    for place in places(saves, kills):
        ended, at = folder / f"ended-{place}", f"{name}, ended after checkpoint {place} of {len(saves)}"
        with counted(place), contextlib.suppress(Killed):
            _run(config, run=ended)
        resumed = _run(config, **({"resume": ended} if ended.exists() else {"run": ended}))
        assert not (where := difference(resumed, whole)), f"{at} ({saves[place - 1]}): {where}"
    for count in ranks:
        if count > 1:
            (shared := folder / f"{count}-ranks").mkdir(parents=True)
            check_ranks({name: config}, shared, count)


def check_settings(name: str, **settings: Any) -> None:
    """Check what the method ``name`` refuses, with ``settings`` for all else.

    It asserts that each of these is refused with one sentence that names it:

    - a setting that no method has;
    - a number below, above and at an open end of the range of each setting;
    - a space whose supernets lack something that the method ``needs``.

    Raises:
        AssertionError: Something is not refused, or not in one sentence.
        FastdartsError: There is no such method, or ``settings`` are refused.

    Example of a test:

        from fastdarts.testing import check_settings

        def test_my_settings():
            check_settings("darts", space="s3")
    """
    config = SearchConfig(**settings | {"method": name})
    kind = type(config)
    unknown = {"no_such_setting": 1}
    check_refused(f"{unknown} of {name}", lambda: SearchConfig(method=name, **unknown), "no_such_setting")
    hints = get_type_hints(kind, include_extras=True)
    for field in (own.name for own in fields(kind)):
        for value in _outside(hints[field]):
            wrong, flag = {field: value}, f"--{field.replace('_', '-')} is "
            check_refused(f"{wrong} of {name}", lambda wrong=wrong: validate(replace(config, **wrong)), flag)
    for need in sorted(kind.needs & find_space(config.space).has):
        with _lacking(find_space(config.space), need) as bare:
            elsewhere = replace(config, space=bare)
            check_refused(f"a space without {need} for {name}", lambda other=elsewhere: validate(other), need)


def _outside(hint: Any) -> Iterator[Any]:
    """Numbers that are out of the range of a setting of this type; tuples with such a number where it is a tuple."""
    for part in alternatives(hint):
        plain = get_args(part)[0] if get_origin(part) is Annotated else part
        if get_origin(plain) is tuple:
            yield from ((value,) for value in _outside(get_args(plain)[0]))
        elif plain in (int, float):
            for extra in getattr(part, "__metadata__", ()):
                low, high = getattr(extra, "low", 0), getattr(extra, "high", 1)  # the latter of a share
                yield from (plain(low - 1), plain(high * 2 + 1))
                if getattr(extra, "closed", True) is False:
                    yield plain(low)
            yield from (-(10**40), 10**40) if plain is int else (math.nan, math.inf, -math.inf)


@contextlib.contextmanager
def _lacking(space: Any, need: str) -> Iterator[str]:
    """Inside, there is a space of the name that is given, which is ``space`` but for what its supernets can do."""
    bare = copy.copy(space)
    object.__setattr__(bare, "name", f"{space.name}-bare")  # spaces of cells are frozen
    object.__setattr__(bare, "has", space.has - {need})
    SPACES[bare.name] = bare
    try:
        yield bare.name
    finally:
        del SPACES[bare.name]


def _check_whole(config: SearchConfig, folder: Path) -> dict[str, Any]:
    found = _run(config, run=folder)
    name, rows = config.method, read_metrics(folder)
    epochs = {row["epoch"] for row in rows}
    assert epochs == {*range(found["result"]["epochs"])}, f"{name} has rows of the epochs {sorted(epochs)} only"
    architecture = architecture_of(json.loads((folder / "genotype.json").read_text(encoding="utf-8")))
    assert architecture.space.name == config.space, f"{name} derives no genotype of its space"
    _check_report(name, folder, architecture, rows)
    return found


def _check_report(name: str, folder: Path, architecture: Any, rows: list[dict[str, Any]]) -> None:
    page = _Page()
    page.feed((folder / "report.html").read_text(encoding="utf-8"))
    lacking = [title for title in ("Cells", "Curves", "Settings and environment") if title not in page.sections]
    assert not lacking, f"the report of {name} has no section {lacking[0]!r}"
    assert name in page.text, f"the report of {name} does not name it"
    kinds = architecture.space.cells(architecture.genotype)
    assert page.sections["Cells"].count("<svg>") == len(kinds), f"the report of {name} does not draw {', '.join(kinds)}"
    operations = {entry[0] for entries, _ in kinds.values() for entry in entries}
    lacking = [operation for operation in sorted(operations) if operation not in page.sections["Cells"]]
    assert not lacking, f"the report of {name} does not name {lacking[:1]} of its genotype"
    if not any("sample" in row for row in rows):  # several trainings share a chart, which shows their mean
        shown = {text for section in page.sections.values() for text in re.findall("<b>(.*?)[ <]", section)}
        for metric, value in rows[-1].items():
            if metric not in ("epoch", "seconds") and is_number(value):
                assert number(value) in shown, f"the report of {name} has no curve of {metric}, which ends at {value}"


class _Page(HTMLParser):
    """The sections of a report by their titles: text with the tags of numbers (<b>) and drawings (<svg>)."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.sections, self._title, self._heading = "", {}, "", False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "h2":
            self._title, self._heading = "", True
        elif tag in ("b", "svg"):
            self._add(f"<{tag}>")

    def handle_endtag(self, tag: str) -> None:
        if tag == "h2":
            self._heading = False
            self.sections[self._title] = ""
        elif tag == "b":
            self._add("<")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._heading:
            self._title += data
        else:
            self._add(data)

    def _add(self, text: str) -> None:
        if self._title in self.sections:
            self.sections[self._title] += text


def _check_strength(config: SearchConfig) -> None:
    config = resolve(config)
    recipe = config.build(find_space(config.space))
    if isinstance(recipe, Bilevel):
        alpha, state = torch.randn(14, 5), torch.get_rng_state()
        first = recipe.relaxation.strength(alpha)
        recipe.relaxation.draw([alpha])
        second = recipe.relaxation.strength(alpha)
        assert torch.equal(first, second), f"the strengths of {config.method} are not a function of the alphas"
        assert torch.equal(state, torch.get_rng_state()), f"{config.method} draws from torch's generator"
        assert first.shape == alpha.shape, f"the strengths of {config.method} have another shape than its alphas"


def _run(config: SearchConfig, **place: Path) -> dict[str, Any]:
    result = search(SearchConfig.of(vars(config) | place)[0](**vars(config) | place))
    return outcome(Path(result["run"]))


@contextlib.contextmanager
def counted(last: int | None = None) -> Iterator[list[str]]:
    """Inside, the kinds of all checkpoints are noted, and number ``last`` ends the run."""
    real, saves, reached = runs.save_checkpoint, [], (-1, 0)

    def save(path: Path, kind: str, state: dict[str, Any]) -> None:
        nonlocal reached
        real(path, kind, state)
        frame = sys._getframe(1)
        while frame.f_code.co_name == "save":
            frame = frame.f_back
        place = state.get("epoch", 0), state.get("step", 0)
        where = "within an epoch" if place[1] else "back in an epoch" if place < reached else "between epochs"
        saves.append(f"{where}, by {frame.f_code.co_qualname}")
        reached = max(reached, place)
        if len(saves) == last:
            raise Killed

    runs.save_checkpoint = save
    try:
        yield saves
    finally:
        runs.save_checkpoint = real


def places(saves: Sequence[str], kills: int) -> list[int]:
    """The first checkpoint of each kind, and others spread evenly over the run, ``kills`` in all or more."""
    first = {kind: place for place, kind in reversed([*enumerate(saves, 1)])}
    spread = range(1, len(saves) + 1, max(1, len(saves) // kills))
    more = [place for place in spread if place not in first.values()]
    return sorted([*first.values(), *more[: max(0, kills - len(first))]])
