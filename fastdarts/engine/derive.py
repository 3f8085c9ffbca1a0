"""From alphas alone to what a method would derive of them: people have alphas in logs and checkpoints."""

from __future__ import annotations

import io
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.policies.base import Selection
from fastdarts.runs.checkpoint import find_checkpoint
from fastdarts.runs.settings import expanded
from fastdarts.spaces import Space, find_space
from fastdarts.tasks.settings import SearchConfig, SupernetConfig, resolve
from fastdarts.tasks.validation import validate

GIVEN = {
    "method": "is named already",
    "space": "is named already",
    "nodes": "follows from the alphas",
}
"""Settings that others of the arguments of :func:`derive` decide."""


def derive(
    method: str, space: str, alphas: Sequence[Tensor], settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What ``method`` derives of alphas [E, K], one table for each kind of cell of ``space``, in double precision.

    ``settings`` of the method, by name, are checked as in a search; those left out are the published ones.

    Returns ``strengths``, how strong each candidate is, [E, K] by kind of cell, and the ``genotype`` as genotype.json
    holds it. Raises :class:`fastdarts.errors.FastdartsError` for an unknown name or setting, for tables of other
    shapes, and for a method that decides by more than the strengths.

    >>> found = derive("darts", "tiny", [torch.eye(2, 3), torch.eye(2, 3)])
    >>> found["genotype"]["normal"]
    [['max_pool_3x3', 0], ['skip_connect', 1]]
    """
    found = find_space(space)
    if not all(isinstance(alpha, Tensor) and alpha.dim() == 2 for alpha in alphas) or len(alphas) != len(found.kinds):
        raise FastdartsError(
            f"got no alphas of space {space}: expected {len(found.kinds)} tensors [E, K], one for each kind of cell"
        )
    given, nodes = dict(settings or {}), nodes_of(space, alphas)
    for name in given.keys() & GIVEN.keys():
        raise FastdartsError(f"got the setting {name}, which {GIVEN[name]}: leave it out")
    published = SearchConfig(method=method, space=space, nodes=nodes)
    if not isinstance(published, SupernetConfig):
        raise FastdartsError(f"--method is {method}, which trains no supernet: there are no alphas to derive from")
    if type(resolve(published).build(found).selection).derive is Selection.derive:
        raise FastdartsError(
            f"--method is {method}, which decides by more than the strengths of the candidates: search by it"
        )
    config = SearchConfig(method=method, space=space, nodes=nodes, **given)
    validate(config)
    found.check_strengths(alphas, nodes)
    recipe = resolve(config).build(found)
    strengths = [recipe.relaxation.strength(alpha.double()) for alpha in alphas]
    genotype = recipe.selection.derive(found, nodes, strengths)
    tables = dict(zip(found.kinds, (table.tolist() for table in strengths), strict=True))
    return {"method": method, "strengths": tables, "genotype": found.to_dict(genotype)}


def read_settings(texts: Sequence[str]) -> dict[str, Any]:
    """The settings that texts NAME=VALUE give; a VALUE is written as in TOML, and text needs no quotes.

    Raises :class:`FastdartsError` for a text of another form, and for a name that comes twice.

    >>> read_settings(["threshold=0.9", "parse=darts", "kept-candidates=[3, 2]"])
    {'threshold': 0.9, 'parse': 'darts', 'kept_candidates': [3, 2]}
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise FastdartsError(f"--set is {brief(text)}: expected NAME=VALUE, such as threshold=0.9")
        if name in found:
            raise FastdartsError(f"--set names {name} twice: name each setting once")
        try:
            (found[name],) = tomllib.loads(f"{name} = {value}").values()
        except (ValueError, RecursionError):  # no value of TOML, or more than one
            found[name] = value
    return found


def nodes_of(space: str, alphas: Sequence[Tensor]) -> int:
    """The nodes of a cell whose alphas have so many rows; raises :class:`FastdartsError` if no cell has as many."""
    found: Space = find_space(space)
    rows = len(alphas[0]) if alphas else 0
    if len(found.topology(found.nodes).edges) == rows:
        return found.nodes
    cell = found.cell.holding(rows)
    if len(cell.edges) == rows and found.topology(cell.nodes) == cell:
        return cell.nodes
    raise FastdartsError(f"got alphas of {rows} rows, one for each edge: no cell of space {space} has so many edges")


def read_alphas(path: Path, space: Space) -> list[Tensor]:
    """The alphas in a file: JSON or a .pt file with one table per kind of cell, or a checkpoint of a search.

    The tables are a list in the order of the kinds, or are named after them: ``normal`` or ``alphas_normal``.

    Raises :class:`FastdartsError` if the file cannot be read or holds something else.
    """
    path = find_checkpoint(expanded(path))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FastdartsError(f"cannot read the alphas in {path}: {error.strerror}") from None
    try:
        found = json.loads(data) if not data.startswith(b"PK") else _load(data)
    except Exception as error:  # torch.load raises a dozen types for what is no file of its own
        raise FastdartsError(
            f"{path} holds no alphas that can be read ({type(error).__name__}): expected JSON, a file by torch.save or "
            "the checkpoint of a search"
        ) from None
    if isinstance(found, Mapping) and isinstance(found.get("supernet"), Mapping):
        found = _of_checkpoint(path, found, len(space.kinds))
    if isinstance(found, Mapping):
        names = {kind: [name for name in (kind, f"alphas_{kind}") if name in found] for kind in space.kinds}
        if missing := [kind for kind, given in names.items() if not given]:
            raise FastdartsError(
                f"{path} has no alphas of the {space.kinds[missing[0]]}: expected {missing[0]!r} in it"
            )
        found = [found[given[0]] for given in names.values()]
    if isinstance(found, list | tuple):
        tables = [_table(table) for table in found]
        if len(tables) == len(space.kinds) and all(table is not None for table in tables):
            return tables
    raise FastdartsError(
        f"{path} holds no alphas of space {space.name}: expected {len(space.kinds)} tables of finite numbers, one row "
        "for each edge"
    )


def _of_checkpoint(path: Path, state: Mapping[str, Any], kinds: int) -> Any:
    """The alphas of a search; raises :class:`FastdartsError` if its genotype follows from more than these."""
    supernet, stages = state["supernet"], state.get("policies", {}).get("stages", {})
    alphas, fixed = supernet.get("alphas"), supernet.get("fixed", ())
    reasons = (
        (isinstance(alphas, list) and len(alphas) > kinds, "betas weigh its edges"),
        (bool(stages.get("kept")), "its edges have lost candidates from stage to stage"),
        (
            any(isinstance(table, Tensor) and bool((table >= 0).any()) for table in fixed),
            "some of its edges are decided",
        ),
    )
    if why := next((reason for holds, reason in reasons if holds), None):
        raise FastdartsError(
            f"the genotype of {path} follows from more than its alphas, as {why}: see its genotype.json"
        )
    return alphas


def _load(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _table(value: Any) -> Tensor | None:
    """``value`` as a matrix in double precision; None if it is none of finite numbers."""
    if not isinstance(value, Tensor):
        rows = value if isinstance(value, list) else []
        width = len(rows[0]) if rows and isinstance(rows[0], list) else 0
        numbers = [number for row in rows if isinstance(row, list) for number in row]
        sound = all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
        if not width or not sound or len(numbers) != width * len(rows) or any(len(row) != width for row in rows):
            return None
        value = torch.tensor(rows, dtype=torch.float64)
    sound = value.dim() == 2 and value.is_floating_point() and bool(value.isfinite().all())
    return value.detach().double() if sound else None
