"""Text files are UTF-8 wherever they are opened, whatever the locale: a linter finds only some of the places."""

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT

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
    ]
    assert undeclared("\n".join(text)) == [*range(1, len(text) + 1)]
    assert not undeclared("\n".join(fine))
