"""One class of settings from those of a method and those of a task."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, get_origin, get_type_hints

Field = tuple[Any, Any]
"""The type of a field, with the range of its values, and its default."""


@functools.cache
def composed(method: type[Any], parts: tuple[type[Any], ...], task: str) -> type[Any]:
    """The settings of ``method`` with those of a task, whose name becomes the default of ``task``.

    ``parts`` are what the task adds. Each is derived from the class of settings that it ``extends``, which ``method``
    is derived from too. In the order of inheritance a part stands before that class, and behind all that is derived
    from it. So a field of the method hides that of the part. Where a part ``counts_more``, its fields hide those of the
    method, whose defaults were published for another task.

    A dataclass takes a field from the last base that has inherited it, which would be the one that the part changes.
    So the class that is made declares all fields itself.
    """
    order = type("Order", (method, *parts), {"task": task}).__mro__[1:]
    first = [
        owner for part in parts if part.counts_more for owner in part.__mro__ if not issubclass(part.extends, owner)
    ]
    fields: dict[str, Field] = {}
    for owner in (*first, *order):
        for name, field in _declared(owner):
            fields.setdefault(name, field)
    names = dict.fromkeys(name for owner in reversed(order) for name, _ in _declared(owner))
    fields["task"] = (str, task)
    kept = ((name, *fields[name]) for name in names if get_origin(fields[name][0]) is not ClassVar)
    made = dataclasses.make_dataclass(
        method.__name__,
        [(name, hint, dataclasses.field(default=default)) for name, hint, default in kept],
        bases=(method, *parts),
        frozen=True,
        namespace={"__doc__": method.__doc__, "__module__": method.__module__},
    )
    made.__qualname__ = method.__qualname__
    return made


@functools.cache  # the same few classes are part of the settings of every method
def _declared(owner: type[Any]) -> tuple[tuple[str, Field], ...]:
    """What a class itself annotates."""
    hints = get_type_hints(owner, include_extras=True)
    named = vars(owner).get("__annotations__", ())
    return tuple((name, (hints[name], vars(owner).get(name, dataclasses.MISSING))) for name in named)
