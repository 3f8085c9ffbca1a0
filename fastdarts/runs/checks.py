"""Values that make no sense for a setting are refused here with one sentence."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import reprlib
from pathlib import Path
from types import NoneType
from typing import Annotated, get_args, get_origin, get_type_hints

from fastdarts.errors import FastdartsError, did_you_mean
from fastdarts.runs.kinds import MOST, Range
from fastdarts.runs.settings import WORDS, RunConfig, choices_of
from fastdarts.runs.stored import alternatives


def check_fields(config: RunConfig) -> None:
    """Raise :class:`FastdartsError` with one sentence for the first field whose value makes no sense on its own."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        check_setting(field.name, getattr(config, field.name), hints[field.name])
    cores = os.cpu_count() or 1
    if config.threads is not None and config.threads > 4 * cores:
        raise FastdartsError(f"--threads is {config.threads}: expected at most {4 * cores} on {cores} cores")


def check_setting(name: str, value: object, hint: object) -> None:
    """Raise :class:`FastdartsError` with one sentence if ``value`` is not of the type ``hint`` or outside the range of
    the setting ``name``."""
    flag = "--" + name.replace("_", "-")
    kinds = tuple(get_args(part)[0] if get_origin(part) is Annotated else part for part in alternatives(hint))
    if value is None and NoneType in kinds:
        return
    if choices := choices_of(hint):
        if not isinstance(value, str) or value not in choices:
            like = did_you_mean(value, choices)
            raise FastdartsError(f"{flag} is {_shown(value)}{like}: expected one of {', '.join(choices)}")
        return
    if not any(_is(value, kind) for kind in kinds):
        names = " or ".join(WORDS.get(get_origin(kind) or kind, "None") for kind in kinds)
        raise FastdartsError(f"{flag} is {_shown(value)} ({type(value).__name__}): expected {names}")
    if isinstance(value, tuple):
        one = next(get_args(kind)[0] for kind in kinds if get_origin(kind) is tuple)
        for part in value:
            check_setting(name, part, one)
    if isinstance(value, str | Path):
        check_text(flag, str(value))
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    ranges = [extra for part in alternatives(hint) for extra in getattr(part, "__metadata__", ())]
    ranges = ranges or [Range(-MOST, MOST) if float in kinds else Range(-(10**9), 10**9)]
    if expected := next(filter(None, (range.expected(value) for range in ranges)), ""):
        raise FastdartsError(f"{flag} is {_shown(value)}: expected {expected}")


def check_text(flag: str, text: str) -> None:
    """Raise :class:`FastdartsError` if ``text``, the value of ``flag``, is none that files and pages can hold."""
    if "\0" in text:
        raise FastdartsError(f"{flag} is {text!r}: expected text without null characters")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise FastdartsError(
            f"{flag} is {text!r}: expected text in UTF-8; rename the file, or set PYTHONUTF8=1 if the name is in UTF-8"
        ) from None


def _is(value: object, kind: object) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(kind) or kind)


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**30:  # Python writes no number of many digits
        return f"a number of about {round(value.bit_length() * math.log10(2))} digits"
    return reprlib.repr(value)


def parse_count(text: str, flag: str) -> float:
    """The number that ``text`` means: 500k, 0.5M, 1.2G or 500000, with powers of 1000.

    Raises :class:`FastdartsError`, naming ``flag``, for anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)", text.strip().replace(",", "").lower())
    amount = float(found[1]) * 1000 ** " kmg".index(found[2] or " ") if found else 0.0
    if not 1 <= amount <= MOST:
        raise FastdartsError(f"{flag} is {text!r}: expected a number above 0, such as 500k, 50M or 1200000")
    return amount


def parse_seconds(text: str, flag: str) -> float:
    """The seconds that ``text`` means: a number with the unit us, ms or s, as in 5ms.

    Raises :class:`FastdartsError`, naming ``flag``, for anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s)", text.strip().lower())
    amount = float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[found[2]] if found else 0.0
    if not 0 < amount <= 1000:
        raise FastdartsError(f"{flag} is {text!r}: expected a time with its unit, such as 5ms or 800us")
    return amount


AUTO = "auto"
"""An amount of memory that is measured: what a GPU has free."""


def parse_bytes(text: str, flag: str) -> int:
    """The bytes that ``text`` means: a number and a unit of powers of 1024, as in 4GiB, 512 MiB or 1.5g.

    Raises :class:`FastdartsError`, naming ``flag``, for anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt])(?:i?b)?\s*", text.lower())
    amount = float(found[1]) * 1024 ** (1 + "kmgt".index(found[2])) if found else 0.0
    if not 1 <= amount <= 2**60:
        raise FastdartsError(f"{flag} is {text!r}: expected a number above 0 with a unit, such as 4GiB or 800MiB")
    return int(amount)
