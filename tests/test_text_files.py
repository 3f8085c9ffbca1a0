"""Text files are UTF-8 wherever they are opened, whatever the locale: a linter finds only some of the places. What the
documents name exists."""

import ast
import importlib
import re
import warnings
from pathlib import Path

import pytest

from tests.support.paths import OP_FOLDERS, ROOT

FOLDERS = ("fastdarts", "kernels", "tests", "benchmarks", "examples")
FILES = [ROOT / "setup.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]


def undeclared(source: str) -> list[int]:
    """Lines that open a file as text without an encoding: open(...), x.open(...), x.read_text(), x.write_text(...)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(word.arg in ("encoding", None) for word in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        words = {word.arg: word.value for word in node.keywords}
        mode = words.get("mode", node.args[-1] if node.args else None)
        opens = name == "open" and owner not in ("os", "Image", "tarfile", "zipfile", "gzip")
        own = isinstance(node.func, ast.Attribute) and owner != "io" and node.args
        opens = opens and not (own and not isinstance(node.args[0], ast.Constant))  # Task.open(config, space)
        binary = opens and isinstance(mode, ast.Constant) and isinstance(mode.value, str) and "b" in mode.value
        if (opens and not binary) or (name, len(node.args)) in (("read_text", 0), ("write_text", 1)):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_is_opened_as_utf8(path: Path) -> None:
    assert not undeclared(path.read_text(encoding="utf-8")), f"{path}: say encoding='utf-8'"


def test_what_is_found() -> None:
    text = ["open(p)", "open(p, 'w')", "p.open()", "p.read_text()", "p.write_text('b')", "io.open(p, mode='a')"]
    fine = [
        "open(p, 'rb')",
        "p.open('wb')",
        "p.open(encoding='utf-8')",
        "p.read_text('utf-8')",
        "recorder.write_text(p, 'a')",
        "task.open(config, space)",
    ]
    assert undeclared("\n".join(text)) == [*range(1, len(text) + 1)]
    assert not undeclared("\n".join(fine))


DOCUMENTS = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [path for path in [*ROOT.glob("*"), *(ROOT / "csrc").rglob("*")] if path.is_file()]
SOURCES += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
NAMES = {path.name for path in SOURCES}


def missing(text: str) -> list[str]:
    """Files of code that ``text`` names and that are not there: by their path from the root or below fastdarts/, or by
    their name alone. <op> stands for any op."""
    found = []
    for name in re.findall(r"[\w./<>-]*[\w>]\.(?:py|h|cpp|cu|toml)\b", text):
        name = re.sub(r"^(\.\./)+", "", name)
        ops = OP_FOLDERS if "<op>" in name else [""]
        paths = [folder / name.replace("<op>", op) for op in ops for folder in (ROOT, ROOT / "fastdarts")]
        if not any(path.is_file() for path in paths) and name not in NAMES:
            found.append(name)
    return found


def resolved(name: str) -> object:
    """What the full name of a module or of something in one stands for."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            thing = getattr(thing, part)
        return thing
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(path: Path) -> None:
    assert not missing(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_names_that_a_document_gives_are_where_it_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    names = re.findall(r"\bfastdarts(?:\.\w+)+", text)
    for module, imported in re.findall(r"^from (fastdarts[\w.]*) import ([\w, ]+)", text, re.MULTILINE):
        names += [f"{module}.{name.strip()}" for name in imported.split(",")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # of a name that has moved
        for name in names:
            resolved(name)


def test_what_is_missing() -> None:
    there = "`nn/mixed_op.py`, kernels/mixed_op/contract.py, `kernels/<op>/triton.py` [a](../examples/custom_space.py)"
    assert not missing(there) and not missing("setup.py, program.h, `csrc/cpu/<op>/<op>.cpp`, pyproject.toml")
    assert missing("`hypergradient.py`, nn/search.py and x/<op>/gone.h") == [
        "hypergradient.py", "nn/search.py", "x/<op>/gone.h"
    ]  # fmt: skip
    with pytest.raises(AttributeError):
        resolved("fastdarts.engine.search.no_such_name")
