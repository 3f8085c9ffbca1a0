"""Flags that are the fields of a class of settings, in groups, with their help texts."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_type_hints

import tyro
from tyro.conf import OmitArgPrefixes

from fastdarts.runs.settings import RunConfig
from fastdarts.tasks.settings import SearchConfig, resolve


@dataclass(frozen=True)
class BySettings:
    """A command whose flags are the fields of a class of settings, in groups."""

    config: Path | None = None
    """TOML file of settings; flags come on top."""

    parts: ClassVar[Mapping[str, type]] = {}
    """The groups of flags."""
    kind: ClassVar[type[RunConfig]] = RunConfig
    """The settings that they make."""

    @classmethod
    def having(cls, settings: RunConfig) -> BySettings:
        """The command with these settings."""
        values = {field.name: getattr(settings, field.name) for field in fields(settings)}
        return cls(
            **{title: part(**{f.name: values[f.name] for f in fields(part)}) for title, part in cls.parts.items()}
        )

    @property
    def settings(self) -> Any:
        """What the flags say."""
        return self.kind(**{name: value for title in self.parts for name, value in vars(getattr(self, title)).items()})


@functools.cache
def by(command: type[BySettings], settings: type[RunConfig]) -> type[BySettings]:
    """The command for these settings: its flags are their fields, in groups, those of a method first."""
    groups: dict[str, list[tuple[str, Any, Any]]] = {}
    helps, hints = flag_texts(settings), get_type_hints(settings, include_extras=True)
    left = {field.name: field for field in fields(settings)}
    for owner in settings.owners():
        for name in [name for name in vars(owner).get("__annotations__", ()) if name in left]:
            hint = Annotated[hints[name], tyro.conf.arg(help=helps[name])]
            default = dataclasses.field(default=left.pop(name).default)
            groups.setdefault(vars(owner).get("group", "method"), []).append((name, hint, default))
    parts = {title: dataclasses.make_dataclass(title, group, frozen=True) for title, group in groups.items()}
    nested = [(title, OmitArgPrefixes[part], dataclasses.field(default=part())) for title, part in parts.items()]
    namespace = {"__doc__": settings.__doc__, "parts": parts, "kind": settings}
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


def flag_texts(settings: type[RunConfig]) -> dict[str, str]:
    """The same for flags: of a setting that is filled in where it is left out, with the value that it then has."""
    used, texts = settings(), texts_of(settings)
    used = resolve(used) if isinstance(used, SearchConfig) else used
    for field in dataclasses.fields(settings):
        if field.default is None and (value := getattr(used, field.name)) is not None:
            texts = texts | {
                field.name: f"{re.sub(r' [(][^()]*[)][.]?$', '', texts[field.name]).rstrip('.')} ({value})."
            }
    return texts
