"""What every method must do, whatever it is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastdarts.engine.search import search
from fastdarts.policies.bilevel import Bilevel
from fastdarts.runs import run as runs
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import find_space, parse_architecture
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.testing.outcomes import difference, outcome

TINY: dict[str, Any] = {
    "channels": 4, "layers": 3, "epochs": 2, "samples": 48, "batch_size": 16, "threads": 1, "device": "cpu",
    "checkpoint_minutes": 0,
}  # fmt: skip
"""A search of seconds, with a checkpoint after every step."""


class _Killed(BaseException):
    """What ends a run right after one of its checkpoints."""


def check_method(name: str, folder: Path, space: str = "tiny", kills: int = 6, **settings: Any) -> None:
    """Raise AssertionError unless the method ``name`` does what every method has to do.

    It leaves a whole run: rows, a genotype of its space, a report. It gives the same bits again. Ended after any of its
    checkpoints, ``kills`` of them, and resumed, it gives the same bits. Its strengths draw no random numbers, so that
    the same alphas always give the same genotype.

    Args:
        name: the method, registered.
        folder: an empty one, for the runs.
        space: where to search.
        kills: at how many checkpoints the search is ended and resumed.
        settings: what differs from a tiny search on the digits, see :data:`TINY`.
    """
    config = SearchConfig(**TINY | {"method": name, "space": space} | settings)
    _check_strength(config)
    whole = _check_whole(config, folder / "whole")
    again = _run(config, run=folder / "again")
    assert not (where := difference(again, whole)), f"{name} gives other bits the second time: {where}"
    with _counted() as saves:
        _run(config, run=folder / "counted")
    for place in range(1, len(saves) + 1, max(1, len(saves) // kills)):
        ended, at = folder / f"ended-{place}", f"{name}, ended after checkpoint {place} of {len(saves)}"
        with _counted(place), contextlib.suppress(_Killed):
            _run(config, run=ended)
        resumed = _run(config, **({"resume": ended} if ended.exists() else {"run": ended}))
        assert not (where := difference(resumed, whole)), f"{at}: {where}"


def _check_whole(config: SearchConfig, folder: Path) -> dict[str, Any]:
    found = _run(config, run=folder)
    name = config.method
    epochs = {row["epoch"] for row in read_metrics(folder)}
    assert epochs == {*range(found["result"]["epochs"])}, f"{name} has rows of the epochs {sorted(epochs)} only"
    assert parse_architecture(str(folder)).space.name == config.space, f"{name} derives no genotype of its space"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert name in page and "<svg" in page, f"the report of {name} shows no cell or does not name it"
    return found


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
def _counted(last: int | None = None) -> Iterator[list[int]]:
    """Inside, checkpoints are counted, and number ``last`` ends the run."""
    real, saves = runs.save_checkpoint, []

    def save(*arguments: Any) -> None:
        real(*arguments)
        saves.append(len(saves) + 1)
        if saves[-1] == last:
            raise _Killed

    runs.save_checkpoint = save
    try:
        yield saves
    finally:
        runs.save_checkpoint = real
