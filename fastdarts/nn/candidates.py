"""The candidates of an edge, from what a caller gives for them."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch.nn as nn

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.nn.operations import (
    OPS,
    PRIMITIVES,
    is_operation,
)

Primitive = str | nn.Module | Callable[[int, int, bool], nn.Module]
"""A candidate of an edge: a name in ``OPS``, a module, or a builder ``(C, stride, affine) -> module``."""


Primitives = Sequence[Primitive] | Sequence[Sequence[Primitive]]
"""The candidates of a cell: one list for all edges, or one list per edge."""


def build_candidate(primitive: Primitive, C: int, stride: int) -> nn.Module:
    """The search-time module of one candidate: BatchNorm without affine parameters, and one more after a pool."""
    if isinstance(primitive, nn.Module):
        return primitive
    if not callable(primitive) and not isinstance(primitive, str):
        raise FastdartsError(
            f"a candidate is {brief(primitive)}: expected a name in OPS, a module or a builder (C, stride, affine) "
            "-> module"
        )
    if isinstance(primitive, str):
        if not is_operation(primitive):
            raise FastdartsError(
                f"unknown primitive {brief(primitive)}: expected one of {', '.join(OPS)}; "
                "add your own with register_operation(name)(lambda C, stride, affine: module)"
            )
        op = OPS[primitive](C, stride, False)
        return nn.Sequential(op, nn.BatchNorm2d(C, affine=False)) if "pool" in primitive else op
    try:
        op = primitive(C, stride, False)
    except TypeError as error:
        raise FastdartsError(
            f"the builder {name_of(primitive)} cannot be called: {error}; expected (C, stride, affine) -> module"
        ) from error
    if not isinstance(op, nn.Module):
        raise FastdartsError(f"the builder {name_of(primitive)} gave {type(op).__name__}: expected a torch.nn.Module")
    return op


def name_of(primitive: Primitive) -> str:
    """That of the builtin, of the module's class or of the builder."""
    if isinstance(primitive, str):
        return str(primitive)
    return getattr(primitive, "__name__", type(primitive).__name__)


def whole(**numbers: Any) -> list[int]:
    """``numbers`` as int; raises :class:`FastdartsError` for one that is no whole number."""
    found = []
    for name, number in numbers.items():
        try:
            found.append(operator.index(number))
        except TypeError:
            raise FastdartsError(f"got {name}={brief(number)}: expected a whole number") from None
    return found


_ELSEWHERE = {"none", "identity"}
"""Names that the activations of recurrent cells have too."""


def default_primitives() -> Sequence[str]:
    """The list of fastdarts, for a caller that gives none.

    Raises :class:`FastdartsError` if the code that calls knows another list of candidates by the public name, or the
    same candidates in another order by any name: it would train one candidate and read the alphas of another.
    """
    frame = sys._getframe(1)
    while _of_fastdarts(frame.f_globals.get("__name__")) and frame.f_back is not None:
        frame = frame.f_back
    seen = frame.f_globals
    modules = [(f"{name}.", vars(m)) for name, m in seen.items() if isinstance(m, ModuleType)]
    for prefix, names in [
        ("", seen),
        *((p, names) for p, names in modules if not _of_fastdarts(names.get("__name__"))),
    ]:
        theirs = [*_candidates_in(names.get("PRIMITIVES"))]
        if theirs == list(PRIMITIVES):
            continue
        if any(name in OPS and name not in _ELSEWHERE for name in theirs):
            raise FastdartsError(
                f"got no primitives, but {prefix}PRIMITIVES of module {seen.get('__name__')} is another list than "
                f"fastdarts.PRIMITIVES: pass primitives={prefix}PRIMITIVES, or primitives=fastdarts.PRIMITIVES"
            )
    for name, value in (*seen.items(), *frame.f_locals.items()):
        listed = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
        if listed and sorted(value) == sorted(PRIMITIVES) and list(value) != list(PRIMITIVES):
            raise FastdartsError(
                f"got no primitives, but {name} of module {seen.get('__name__')} lists those of fastdarts in another "
                f"order: pass primitives={name}, or primitives=fastdarts.PRIMITIVES"
            )
    return PRIMITIVES


def _candidates_in(listed: object) -> Iterator[str]:
    """The names in a list of candidates, an array of them, one list per edge or a dict of these."""
    if isinstance(listed, str):
        yield str(listed)
    elif isinstance(listed, Mapping):
        for part in listed.values():
            yield from _candidates_in(part)
    elif isinstance(listed, list | tuple) or hasattr(listed, "tolist"):
        for part in listed if isinstance(listed, list | tuple) else [listed.tolist()]:
            yield from _candidates_in(part)


def _of_fastdarts(module: object) -> bool:
    return str(module).partition(".")[0] == "fastdarts"
