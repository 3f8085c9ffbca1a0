"""Notices: what was changed, left out or runs slower than it could, said once and refused under FASTDARTS_STRICT=1."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastdarts.endings import say
from fastdarts.errors import FastdartsError
from fastdarts.functional import strict


class Notice(UserWarning):
    """Something that the user did not ask for and should know. The command line prints each one once, as a line."""


def notice(text: str, remedy: str, stacklevel: int = 2) -> None:
    """Say ``text`` once, as a :class:`Notice`.

    ``text`` is one sentence without its full stop: what was got, and what is done with it. ``remedy`` says what to do
    instead. Raises :class:`FastdartsError` with both if FASTDARTS_STRICT=1 is set.
    """
    said = f"{text}: {remedy}"
    if strict():
        raise FastdartsError(f"FASTDARTS_STRICT=1 forbids what follows. {said}")
    warnings.warn(said, Notice, stacklevel=stacklevel + 1)


@contextmanager
def notices_as_lines() -> Iterator[None]:
    """Inside, each notice is one line on stderr, once; other warnings look as ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", Notice)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, Notice):
                say(str(message))
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield
