"""What can be named, for people and for programs: the methods with their settings, and the spaces."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
from typing import Any

from fastdarts.registry import Method, methods
from fastdarts.runs.settings import RunConfig
from fastdarts.spaces import SPACES, Space, Table, add_installed
from fastdarts.tasks.images.settings import SEARCH_RECIPE, DataConfig, ImageSupernetConfig
from fastdarts.tasks.settings import SearchConfig, resolve

OURS = {field.name for kind in (RunConfig, DataConfig, ImageSupernetConfig) for field in dataclasses.fields(kind)} - {
    *SEARCH_RECIPE, "epochs", "nodes", "momentum", "weight_decay", "grad_clip", "stem",
}  # fmt: skip
"""Settings about which no paper says anything."""


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
        "spaces": [space.name for space in SPACES.values() if not method.settings.lacking(space)],
        "settings": settings,
    }


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


def _columns(table: Table) -> list[Any]:
    return list(table[0]) if len({*table}) == 1 else [list(row) for row in table]


def all_methods() -> list[dict[str, Any]]:
    """The facts of all methods, in alphabetical order."""
    return [method_facts(method) for method in methods().values()]


def all_spaces() -> list[dict[str, Any]]:
    """The facts of all spaces."""
    add_installed()
    return [space_facts(space) for space in SPACES.values()]
