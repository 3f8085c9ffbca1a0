"""Notices: what was changed, left out or runs slower than it could, said once and refused under FASTDARTS_STRICT=1."""

from __future__ import annotations

import warnings

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
