"""Genotypes as people write them: a name, JSON, a file, a printed tuple."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.spaces.cells.genotype import Genotype, from_dict, to_dict
from fastdarts.spaces.cells.named import NAMED

WRAPPERS = re.compile(r"u?int\d*|str_?|list|tuple|array|asarray|tensor")
"""Calls that printed values are wrapped in: np.int64(2), array([2, 3]), list(range(2, 6))."""


def _literal(node: ast.expr) -> object:
    """The value of an expression of literals, ranges and wrappers; read, never evaluated. ValueError for another."""
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(element) for element in node.elts]
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        return {key.value: _literal(value) for key, value in zip(node.keys, node.values, strict=True)}
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    values = [_literal(argument) for argument in node.args]
    if name == "range" and not node.keywords:
        return range(*values)
    if WRAPPERS.fullmatch(name) and len(values) == 1:
        return values[0]
    raise ValueError(f"{name}(...) is no literal")


def _from_repr(text: str) -> dict[str, object]:
    try:
        call = ast.parse(_call(text), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("not Genotype(field=..., ...)")
        given = [*zip(Genotype._fields, call.args, strict=False), *((str(k.arg), k.value) for k in call.keywords)]
        if len(dict(given)) < len(given) or len(call.args) > len(Genotype._fields):
            raise ValueError("a field twice")
        return {name: _literal(value) for name, value in given}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise FastdartsError(
            f"cannot read the genotype {_shorten(text)}: expected Genotype(normal=[('sep_conv_3x3', 0), ...],"
            " normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))"
        ) from error


def _call(text: str) -> str:
    """The last Genotype(...) in ``text``: in the log of a search, that of the last epoch."""
    *_, start = (found.start() for found in re.finditer(r"\bGenotype\(", text))
    depth = 0
    for end, letter in enumerate(text[start:], start + 1):
        depth += (letter in "([") - (letter in ")]")
        if letter == ")" and not depth:
            return text[start:end]
    raise SyntaxError("no end")


def _from_json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            return _literal(ast.parse(text, mode="eval").body)  # a dict as Python prints it
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            pass
        raise FastdartsError(
            f"{where} is not valid JSON ({brief(str(error))[1:-1]}): write it as genotype.json of a run"
        ) from error


def _from_text(text: str, named: Mapping[str, dict[str, list]], where: str) -> object:
    """The fields that ``text`` names or spells."""
    if text in named:
        return named[text]
    return _from_repr(text) if re.search(r"\bGenotype\(", text) else _from_json(text, where)


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _alike(text: str, names: Iterable[str]) -> list[str]:
    """The five names that are most like ``text``."""
    return get_close_matches(text[:60], names, 5, cutoff=0)


def _why_no_genotype(folder: Path) -> str:
    """Why a folder has no genotype.json, and what to do."""
    found = [file.parent.name for file in folder.glob("*/genotype.json")]
    if found:
        names = sorted(found, key=lambda name: (len(name), name))  # seed_2 before seed_10
        return f"{folder} holds the searches {', '.join(names)}: name one of them, as {folder / names[0]}"
    if (folder / "config.toml").is_file():
        return f"the run in {folder} has found no genotype yet: wait for it, or go on with it"
    return f"{folder} has no genotype.json: give the folder of a search"


def read_fields(text: str, named: Mapping[str, dict[str, list]] | None = None) -> object:
    """The fields of the architecture that `text` names or spells, not checked yet: see `parse_genotype`.

    `named`: the fields by name, those of `NAMED` if left out.
    """
    text = text.strip().removeprefix("\ufeff")
    named = named or {name: to_dict(genotype) for name, genotype in NAMED.items()}
    if text in named or text.startswith("{") or "Genotype(" in text:
        return _from_text(text, named, "the genotype")
    try:
        path = Path(text)
        content = (path / "genotype.json" if path.is_dir() else path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        if os.path.isdir(text):
            raise FastdartsError(_why_no_genotype(path)) from error
        raise FastdartsError(
            f"{_shorten(text)} is not a genotype: give a name such as {', '.join(_alike(text, named))}, a readable JSON"
            " file, or the JSON or Genotype(...) text itself"
        ) from error
    return _from_text(content.strip().removeprefix("\ufeff"), named, text if text.isprintable() else brief(text))


def parse_genotype(text: str) -> Genotype:
    """The genotype that `text` names or spells.

    `text` is a name in `NAMED`, inline JSON (`{"normal": ...}`), the repr `Genotype(normal=[...], ...)` that
    DARTS code prints (lists, ranges or numbers of numpy, a log around it; read, never evaluated), the path of a file
    that holds any of these, or a run's folder.
    Raises FastdartsError naming the offence.
    """
    fields = read_fields(text)
    if isinstance(fields, dict):
        fields.pop("space", None)  # that of a run; `fastdarts.spaces.parse_architecture` heeds it
    return from_dict(fields)
