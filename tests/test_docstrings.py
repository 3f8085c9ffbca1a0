"""The examples in the docstrings of public names run as they stand."""

import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdarts import Architect, Cell, MixedOp, Network, accelerate, api, load
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.functional import mixed_op, mixed_sum, native, recurrent
from fastdarts.trained.model import Model

JOURNEY = [search, evaluate, load, Model.preprocess, api.search, api.evaluate]
"""These leave folders for one another."""
FUSED = pytest.param(accelerate, marks=pytest.mark.skipif(not native()["loaded"], reason="it says what is fused"))


def run(thing: Callable[..., Any]) -> None:
    """Assert that the docstring of ``thing`` has examples, and that they print what it says."""
    example = doctest.DocTestParser().get_doctest(thing.__doc__, {}, thing.__qualname__, None, 0)
    assert example.examples
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("thing", [Architect, Cell, MixedOp, Network, FUSED, mixed_op, mixed_sum, recurrent])
def test_examples(thing: Callable[..., Any]) -> None:
    with torch.random.fork_rng(devices=()):
        run(thing)


def test_examples_from_a_search_to_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for thing in JOURNEY:
        run(thing)


def test_a_wrong_example_is_found() -> None:
    def wrong() -> None:
        """
        >>> 1 + 1
        3
        """

    with pytest.raises(AssertionError, match="Expected"):
        run(wrong)
