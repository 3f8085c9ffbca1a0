"""Plain values from JSON and TOML files: read and checked once, so that whoever uses them need not check again."""

import json
import tomllib
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from fastdarts.errors import FastdartsError

LARGEST = 1e100  # of a number: products and differences of two are finite
_DEEPEST = 20  # of lists and tables in one another: all code that walks through them by recursion ends
_NAMES = {float: "a number", int: "a whole number", str: "text", bool: "true or false", list: "a list", dict: "a table"}


def read_table(path: Path) -> dict[str, Any] | None:
    """The table in a JSON or TOML file, sound; None if there is no such file.

    Raises FastdartsError, naming the file, if it cannot be read, is malformed or holds something else.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FastdartsError(f"{path} cannot be read ({error.strerror}): make it readable or delete it") from None
    except (ValueError, RecursionError) as error:
        raise FastdartsError(f"{path} cannot be read ({error}): restore it or delete it") from None
    if not isinstance(found, dict):
        raise FastdartsError(f"{path} holds a {type(found).__name__}, not a table: restore it or delete it")
    sound(found, str(path))
    return found


def sound(value: Any, where: str) -> None:
    """Raise FastdartsError if ``value``, plain values at the place ``where``, is nested too deep or holds a whole
    number of more than 64 bits."""
    level, depth = [value], 0
    while level:
        if depth > _DEEPEST:
            raise FastdartsError(f"{where} is damaged: it is nested deeper than {_DEEPEST} levels; restore it")
        if any(isinstance(part, int) and abs(part) >= 2**64 for part in level):
            raise FastdartsError(f"{where} is damaged: it holds a number of more than 64 bits; restore it")
        inside = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list))
        level, depth = [part for parts in inside for part in parts], depth + 1


def is_number(value: object) -> bool:
    """Whether a value from a file is a number that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types that a union allows; of any other type that type."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


class _Wrong(ValueError):
    pass


def check(value: Any, kind: Any, source: Path, remedy: str = "restore it or delete it", name: str = "") -> None:
    """Raise FastdartsError unless ``value``, called ``name`` in the file ``source``, is what the type ``kind`` says.

    kind: a TypedDict (other keys are ignored), ``list[T]``, ``dict[str, T]``, ``T | None``, a plain type, or
        ``Annotated[int, range(...)]`` and ``Annotated[list[T], range(...)]`` with the values or lengths allowed.
    """
    try:
        _check(value, kind, name)
    except _Wrong as error:
        raise FastdartsError(f"{source} is damaged ({error}): {remedy}") from None


def _check(value: Any, kind: Any, name: str) -> None:
    allowed = None
    if get_origin(kind) is Annotated:
        kind, allowed = get_args(kind)
    kinds = alternatives(kind)
    if len(kinds) > 1:
        if value is None and NoneType in kinds:
            return
        kind = next((k for k in kinds if _fits(value, k)), kinds[0])
    if not _fits(value, kind):
        raise _Wrong(f"{name} is {_shown(value)}, expected {_NAMES.get(get_origin(kind) or kind, 'a table')}")
    if allowed is not None and (value if kind is int else len(value)) not in allowed:
        what = "a whole number" if kind is int else "a length"
        raise _Wrong(f"{name} is {_shown(value)}, expected {what} from {allowed[0]} to {allowed[-1]}")
    if is_typeddict(kind):
        for key, inner in get_type_hints(kind, include_extras=True).items():
            if key in value:
                _check(value[key], inner, f"{name}.{key}" if name else key)
            elif key in kind.__required_keys__:
                raise _Wrong(f"{name or 'it'} has no {key}")
    elif get_origin(kind) is list:
        for number, part in enumerate(value):
            _check(part, get_args(kind)[0], f"{name}[{number}]")
    elif get_origin(kind) is dict:
        for key, part in value.items():
            _check(part, get_args(kind)[1], f"{name}.{key}")


def _fits(value: Any, kind: Any) -> bool:
    if kind is float:
        return is_number(value)
    if kind is Any:
        return True
    plain = dict if is_typeddict(kind) else get_origin(kind) or kind
    return isinstance(value, plain) and (plain is bool or not isinstance(value, bool))


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
