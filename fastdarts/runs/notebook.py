"""The progress of a run in a notebook: one bar that changes in its place, and lines that stay."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from typing import Any

_PAUSE = 0.2  # seconds between two changes of the bar


def find_display() -> Callable[..., Any] | None:
    """IPython's ``display`` in a cell of a notebook; None anywhere else, such as in IPython on a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display


class NotebookBar:
    """A bar with a text beside it, in the output of the cell that runs."""

    def __init__(self, display: Callable[..., Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._display, self._clock = display, clock
        self._handle: Any = None
        self._changed = 0.0

    def show(self, text: str, done: int, total: int) -> None:
        """Show ``done`` of ``total``; changes that come too fast are left out, but for the last one."""
        now = self._clock()
        if self._handle is not None and done < total and now - self._changed < _PAUSE:
            return
        self._changed = now
        said = f"{text}  {done}/{total}"
        bar = f'<progress value="{done}" max="{total}"></progress>'
        content = {"text/plain": said, "text/html": f"{bar} <code>{escape(said)}</code>"}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
