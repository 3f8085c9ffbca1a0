"""A command line, read by the fields of the command's dataclass before it is parsed.

It is known then what it gives, and what is wrong with it is one sentence.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from fastdarts.errors import FastdartsError, did_you_mean
from fastdarts.runs.checks import check_text
from fastdarts.runs.settings import WORDS, choices_of
from fastdarts.runs.stored import alternatives

HELP = {"-h": "--help", "--help": "--help", "--help-all": "--help-all"}


@dataclass(frozen=True)
class Parameter:
    """What a command takes: a flag (``name`` --epochs), or what has a place of its own (``name`` the folder)."""

    name: str
    hint: Any
    required: bool
    setting: str
    """The name of its field."""

    @property
    def place(self) -> bool:
        """Whether it stands without a flag."""
        return not self.name.startswith("--")

    @property
    def switch(self) -> bool:
        """Whether it has no value, but a --no-."""
        return self.hint is bool

    @property
    def many(self) -> bool:
        """Whether it has any number of values."""
        return get_origin(self.hint) is tuple

    @property
    def one(self) -> Any:
        """The type of a value."""
        return get_args(self.hint)[0] if self.many else self.hint

    @property
    def expected(self) -> str:
        """What its values are, in words."""
        if choices := choices_of(self.one):
            return f"one of {', '.join(choices)}"
        return " or ".join(WORDS[kind] for kind in alternatives(self.one) if kind is not NoneType)


@cache
def parameters(command: type) -> dict[str, Parameter]:
    """What a command takes: the fields of its dataclass, those of settings in it included."""
    found = {}
    plain, hints = get_type_hints(command), get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        if dataclasses.is_dataclass(plain[field.name]):
            found |= parameters(plain[field.name])
            continue
        extras = getattr(hints[field.name], "__metadata__", ())
        name = next((named for extra in extras if (named := getattr(extra, "name", None))), field.name)
        name = f"the {name}" if Positional in extras else "--" + name.replace("_", "-")
        found[name] = Parameter(name, plain[field.name], field.default is dataclasses.MISSING, field.name)
    return found


class Reading(NamedTuple):
    """What the arguments of a command give.

    occurrences: parameters in their order, each with its texts; none of a flag without a value.
    unknown: what is neither a known flag nor belongs to one.
    switched: flags that take no value and were given one.
    helps: --help or --help-all, where one of them ends the reading.
    """

    occurrences: list[tuple[str, list[str]]]
    unknown: list[str]
    switched: list[str]
    helps: str = ""

    @property
    def given(self) -> dict[str, list[str]]:
        """The texts for each parameter: the last ones of a flag that comes twice."""
        return dict(self.occurrences)

    def value(self, name: str) -> str | None:
        """The text of a parameter that takes one; None without it, and where "None" stands for nothing."""
        text = next(iter(self.given.get(name, ())), None)
        return None if text == "None" else text


def read(arguments: Sequence[str], known: Mapping[str, Parameter]) -> Reading:
    """Read the arguments as the parser does; what is wrong is passed over, as :func:`check` says it."""
    reading, left = Reading([], [], []), deque(arguments)
    places = deque(name for name, parameter in known.items() if parameter.place)
    only_places = False

    def is_value() -> bool:
        return bool(left) and (_is_number(left[0]) or not left[0].startswith("-") or left[0] == "-")

    while left:
        word = left.popleft()
        if word == "--" and not only_places:
            only_places = True
            continue
        if word in HELP and not only_places:
            return reading._replace(helps=HELP[word])
        flag, attached, text = word.partition("=")
        flag = flag.replace("_", "-")
        flags = known if flag.startswith("--") and not only_places else {}
        parameter, opposite = flags.get(flag), flags.get(f"--{flag.removeprefix('--no-')}")
        if parameter is None and opposite is not None and opposite.switch:
            parameter = opposite
        if parameter is None:
            if places and (only_places or not word.startswith("-") or _is_number(word)):
                if not known[places[0]].many:
                    reading.occurrences.append((places.popleft(), [word]))
                elif places[0] in reading.given:
                    reading.given[places[0]].append(word)
                else:
                    reading.occurrences.append((places[0], [word]))
            else:
                reading.unknown.append(word)
            continue
        reading.occurrences.append((parameter.name, texts := [text] if attached else []))
        if parameter.switch:
            if attached:
                reading.switched.append(flag)
        elif parameter.many:
            while is_value():
                texts.append(left.popleft())
        elif not attached and is_value():
            texts.append(left.popleft())
    return reading


def _is_number(word: str) -> bool:
    """Whether a word that begins with "-" is a negative number and no flag."""
    return re.fullmatch(r"-(\d|\.|inf$|nan$|infinity$).*", word, re.IGNORECASE | re.DOTALL) is not None


def check(arguments: Sequence[str], known: Mapping[str, Parameter], others: Mapping[str, str]) -> None:
    """Raise :class:`FastdartsError` with one sentence for the first mistake in the ``arguments`` of a command.

    others: flags that the command takes for other spaces or methods, and what to say of each.
    """
    for argument in arguments:
        check_text("an argument", argument)
    reading = read(arguments, known)
    for word in reading.unknown:
        _refuse_unknown(word, known, others)
    for flag in reading.switched:
        plain = flag[2:].removeprefix("no-")
        raise FastdartsError(f"{flag} got a value: say --{plain} or --no-{plain} alone")
    for number, (name, texts) in enumerate(reading.occurrences):
        _check_texts(known[name], texts)
        if known[name].many and any(name == before for before, _ in reading.occurrences[:number]):
            raise FastdartsError(f"{name} is given twice: put all its values behind one")
    for parameter in known.values():
        if parameter.required and parameter.name not in reading.given and not reading.helps:
            verb = "are" if parameter.place and parameter.many else "is"
            raise FastdartsError(f"{parameter.name} {verb} missing: expected {parameter.expected}")


def _refuse_unknown(word: str, known: Mapping[str, Parameter], others: Mapping[str, str]) -> None:
    flag = _short(word.partition("=")[0].replace("_", "-"))
    if not word.startswith("-"):
        raise FastdartsError(f"got {_short(word)!r} where no value belongs: leave it out, or put quotes around blanks")
    if flag in others:
        raise FastdartsError(f"{flag} {others[flag]}: leave it out")
    like = did_you_mean(flag, [name for name in known if name.startswith("--")])
    raise FastdartsError(f"unknown flag {flag}{like}: --help-all lists the flags")


def _check_texts(parameter: Parameter, texts: list[str]) -> None:
    if not texts and not parameter.switch and not parameter.many:
        raise FastdartsError(f"{parameter.name} has no value: expected {parameter.expected}")
    for text in texts:
        if not _is_readable(text, parameter.one):
            like = did_you_mean(text, choices_of(parameter.one))
            then = ""
            if parameter.name == "--dataset" and os.path.exists(text):
                like, then = "", f"; for images of your own type --dataset folder --data {_short(text)}"
            raise FastdartsError(f"{parameter.name} is {_short(text)!r}{like}: expected {parameter.expected}{then}")


def _is_readable(text: str, hint: Any) -> bool:
    kinds = alternatives(hint)
    if NoneType in kinds and text == "None":
        return True
    if words := choices_of(hint) or ("True", "False") * (bool in kinds):
        return text in words
    if Path in kinds and not text:
        return False
    try:
        return all(kind(text) is not None for kind in kinds if kind in (int, float))
    except ValueError:
        return False


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
