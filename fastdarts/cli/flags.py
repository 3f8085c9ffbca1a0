"""Flags that are the fields of a class of settings, with their help texts."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from tyro.conf import OmitArgPrefixes

from fastdarts.runs.settings import RunConfig


@dataclass(frozen=True)
class BySettings:
    """A command whose flags are the fields of a class of settings."""

    config: Path | None = None
    """TOML file of settings; flags come on top."""

    kind: ClassVar[type[RunConfig]] = RunConfig
    """The settings that the flags make."""
    part: ClassVar[type[Any]] = type(None)
    """The class of the field ``flags``, which holds them: a setting may have the name of a method of the command."""

    @classmethod
    def having(cls, settings: RunConfig) -> BySettings:
        """The command with these settings."""
        return cls(flags=cls.part(**{field.name: getattr(settings, field.name) for field in fields(settings)}))

    @property
    def settings(self) -> Any:
        """What the flags say."""
        return self.kind(**vars(self.flags))


@functools.cache
def by(command: type[BySettings], settings: type[RunConfig]) -> type[BySettings]:
    """The command for these settings: its flags are their fields, those of a method first."""
    hints = get_type_hints(settings, include_extras=True)
    left = {field.name: field for field in fields(settings)}
    flags = []
    for owner in settings.owners():
        for name in [name for name in vars(owner).get("__annotations__", ()) if name in left]:
            flags.append((name, hints[name], dataclasses.field(default=left.pop(name).default)))
    part = dataclasses.make_dataclass("Flags", flags, frozen=True)
    nested = [("flags", OmitArgPrefixes[part], dataclasses.field(default=part()))]
    namespace = {"__doc__": settings.__doc__, "part": part, "kind": settings}
    return dataclasses.make_dataclass(command.__name__, nested, bases=(command,), frozen=True, namespace=namespace)


@functools.cache
def texts_of(settings: type[Any]) -> dict[str, str]:
    """The sentences that stand below the fields of a dataclass of settings, by the names of the fields.

    A text of the class itself counts more than that of a class that it is derived from. Empty where a class has no
    source to be read.
    """
    found: dict[str, str] = {}
    for owner in reversed(settings.__mro__):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
        except (OSError, TypeError, SyntaxError):
            continue
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return {field.name: found.get(field.name, "") for field in dataclasses.fields(settings)}
