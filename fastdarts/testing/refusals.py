"""What is refused, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastdarts.errors import FastdartsError

MOST = 1000
"""Characters of a sentence."""


def check_refused(what: str, work: Callable[[], Any], named: str = "") -> None:
    """Raise AssertionError unless ``work`` raises :class:`FastdartsError` with one sentence that has ``named`` in it;
    ``what`` is refused."""
    try:
        work()
    except FastdartsError as error:
        text = str(error)
        assert named in text and "\n" not in text and len(text) < MOST, f"{what} is refused by: {text}"
    except Exception as error:
        raise AssertionError(f"{what} ends in a {type(error).__name__}: expected a FastdartsError") from error
    else:
        raise AssertionError(f"{what} is not refused")
