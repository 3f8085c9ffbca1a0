"""A sentence of the documents has at most 25 words: readers are tired, and English is a foreign language to most."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MOST = 25
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_PROSE = (
    re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL),
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"^ *\|.*$", re.MULTILINE),  # a row of a table
    re.compile(r"^#.*$", re.MULTILINE),
    re.compile(r"^:::.*\n(?: +.*\n)*", re.MULTILINE),  # what mkdocstrings fills in
    re.compile(r"^ *(?:[-*+]|\d+\.) ", re.MULTILINE),  # an item of a list is a paragraph
)
END = re.compile(r"""(?<=[.!?:])[*_)\]"']*\s+|\s·\s""")


def sentences(text: str) -> Iterator[str]:
    """Those of a document in Markdown; inline code is one word, a colon ends a sentence, as a list may follow."""
    for pattern in NOT_PROSE:
        text = pattern.sub("\n\n", text)
    text = re.sub(r"`[^`]+`", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)  # of a link, the words that are read
    for paragraph in re.split(r"\n\s*\n", text):
        yield from filter(None, END.split(" ".join(paragraph.split())))


def words(sentence: str) -> int:
    return sum(any(map(str.isalnum, word)) for word in sentence.split())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_sentences_are_short(path: Path) -> None:
    long = [(words(each), each) for each in sentences(path.read_text(encoding="utf-8")) if words(each) > MOST]
    assert not long, f"{path.name}: say this in several sentences of at most {MOST} words"


def test_what_a_sentence_is() -> None:
    text = """# A heading

One two. *Three four.* A [link of five words](https://example.org/a.b) (see `a b c`).
- an item
  goes on
1. and another: 1.5 × 2 → 3

| a | table |
|---|---|
<!-- a comment. -->
```python
code = "is left out."
```
::: fastdarts.load
    options:
      members: [predict]

last
"""
    found = [*sentences(text)]
    assert found == [
        "One two.",
        "*Three four.",
        "A link of five words (see code).",
        "an item goes on",
        "and another:",
        "1.5 × 2 → 3",
        "last",
    ]
    assert [words(each) for each in found] == [2, 2, 7, 4, 2, 3, 1]
