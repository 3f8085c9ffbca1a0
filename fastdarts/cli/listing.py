"""What can be named, for people and for programs: the methods with their settings, and the spaces."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fastdarts.cli.flags import texts_of
from fastdarts.cli.help import shown
from fastdarts.registry import Method, find_method, methods
from fastdarts.runs.settings import RunConfig
from fastdarts.spaces import SPACES, Space, add_installed
from fastdarts.tasks.images.settings import SEARCH_RECIPE, DataConfig, ImageSupernetConfig
from fastdarts.tasks.settings import resolve
from fastdarts.tasks.validation import searches_in

OURS = {field.name for kind in (RunConfig, DataConfig, ImageSupernetConfig) for field in dataclasses.fields(kind)} - {
    *SEARCH_RECIPE, "epochs", "nodes", "momentum", "weight_decay", "grad_clip", "stem",
}  # fmt: skip
"""Settings about which no paper says anything."""


def method_facts(method: Method) -> dict[str, Any]:
    """``name``, ``summary``, ``paper``, ``needs``, the ``spaces`` that have it, and of all ``settings`` the default and
    the published value.

    The default is what a run without the setting uses, in the space of DARTS: the published value where there is one.
    Of settings about which no paper says anything, the published value is None.
    """
    used = resolve(method.settings())
    settings = {}
    for field in dataclasses.fields(used):
        if field.name != "method":
            default = getattr(used, field.name)
            published = None if field.name in OURS else default
            settings[field.name] = {
                "default": default,
                "published": published,
                "help": texts_of(type(used))[field.name],
            }
    return {
        "name": method.name,
        "summary": (method.settings.__doc__ or "").strip().splitlines()[0],
        "paper": method.paper,
        "needs": sorted(method.settings.needs),
        "spaces": _spaces_of(method),
        "settings": settings,
    }


def _spaces_of(method: Method) -> list[str]:
    """The spaces that have what the method needs, and that its settings do not refuse when all others are left out.

    A method that needs another search first refuses all of them; those that have what it needs stand for it.
    """
    taken = [space.name for space in _spaces() if searches_in(method, space)]
    return taken or [space.name for space in _spaces() if not method.settings.lacking(space)]


def space_facts(space: Space) -> dict[str, Any]:
    """``name``, kinds of cells, published size, what its supernets can do, and how many architectures it has.

    ``candidates`` are in the order of alpha's columns: one list for all edges, or one list for each.
    """
    tables = space.primitives(space.nodes)
    return {
        "name": space.name,
        "task": space.task,
        "cells": list(space.kinds),
        "nodes": space.nodes,
        "layers": space.layers,
        "edges": {kind: len(table) for kind, table in tables.items()},
        "candidates": {
            kind: list(table[0]) if len({*table}) == 1 else [list(row) for row in table]
            for kind, table in tables.items()
        },
        "has": sorted(space.has),
        "architectures": space.size(space.nodes),
    }


def all_methods() -> list[dict[str, Any]]:
    """The facts of all methods, in alphabetical order."""
    return [method_facts(method) for method in methods().values()]


def all_spaces() -> list[dict[str, Any]]:
    """The facts of all spaces."""
    return [space_facts(space) for space in _spaces()]


def _spaces() -> list[Space]:
    add_installed()
    return [*SPACES.values()]


@dataclass(frozen=True)
class Methods:
    """List the methods, or the settings of one."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Method whose settings are listed; without it all methods are."""
    plugin: tuple[str, ...] = ()
    """Python files of your own that register methods."""
    json: bool = False
    """JSON instead of a table: a list of objects with name, summary, paper, needs, spaces and settings."""

    def run(self) -> None:
        """Print the list."""
        facts = all_methods() if self.name is None else [method_facts(find_method(self.name, "name"))]
        if self.json:
            print(json.dumps(facts, indent=2, default=str))
        elif self.name is None:
            for method in facts:
                print(f"{method['name']:14} {method['paper']:36} {method['summary']}")
        else:
            (method,) = facts
            print(f"{method['summary']}\n{method['paper']}")
            if method["needs"]:
                print(f"needs a space with {', '.join(method['needs'])}")
            print(f"searches in {', '.join(method['spaces']) or 'no space of those there are'}")
            for name, values in method["settings"].items():
                print(f"  --{name.replace('_', '-'):22} {shown(values['default']) or '–'}".rstrip())


@dataclass(frozen=True)
class Spaces:
    """List the search spaces."""

    plugin: tuple[str, ...] = ()
    """Python files of your own that add spaces."""
    json: bool = False
    """JSON instead of a table: a list of objects."""

    def run(self) -> None:
        """Print the list."""
        facts = all_spaces()
        if self.json:
            print(json.dumps(facts, indent=2))
            return
        for space in facts:
            rows = [row for names in space["candidates"].values() for row in names]
            ops = ", ".join(sorted({op for row in rows for op in ([row] if isinstance(row, str) else row)}))
            count = space["architectures"]
            size = f"{count:,}" if count < 1e15 else f"{count:.4g}"
            print(f"{space['name']:12} {space['task']:10} {size} architectures of {ops}")
