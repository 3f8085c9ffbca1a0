"""Output that no character stops, whatever the locale."""

import codecs
import contextlib
import os
import sys

_PLAIN = {
    "±": "+-", "×": "x", "·": "*", "−": "-", "–": "-", "—": "-", "…": "...", "→": "->", "▶": ">", "─": "-", "━": "-",
    "╸": "-", "╺": "-", "│": "|", "┐": "+", "┤": "+", "┴": "+", "╭": "+", "╮": "+", "╯": "+", "╰": "+", "τ": "tau",
    "‖": "||", "•": "*", "\u00a0": " ",
}  # fmt: skip


def readable_streams() -> None:
    """From now on stdout and stderr write what their encoding lacks as plain characters, or as escapes.

    One that a program was started without takes everything and keeps nothing.
    """
    codecs.register_error("fastdarts", _written)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end of the process
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # no such stream, one of the caller's, or closed
            stream.reconfigure(errors="fastdarts")


def _written(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character) or ascii(character)[1:-1] for character in lacking), error.end
