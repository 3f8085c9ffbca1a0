"""Settings files of any content: read as TOML says, or refused in one sentence."""

from __future__ import annotations

import dataclasses
import tempfile
import tomllib
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from hypothesis import given
from hypothesis import strategies as st

from fastdarts.errors import FastdartsError
from fastdarts.registry import methods
from fastdarts.runs.settings import choices_of, from_toml, to_toml
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig


def hints_of(kind):
    """The types of all settings, and for searches of those of other methods."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


HINTS = {name: hint for method in methods().values() for name, hint in hints_of(method.settings).items()}
LITERALS = st.one_of(
    st.integers().map(str),
    st.integers(0, 500).map("9".__mul__),
    st.floats().map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.text(max_size=8).map(repr),
    st.sampled_from(
        [
            '""',
            '"~"',
            r'"\u0000"',
            r'"a\nb"',
            "[]",
            "[1]",
            '["a"]',
            '["a", 1]',
            "{}",
            "{a = 1}",
            "2026-11-29",
            "07:32:00",
        ]
    ),
    st.sampled_from([f'"{choice}"' for hint in HINTS.values() for choice in choices_of(hint)]),
    st.sampled_from([f'"{name}"' for name in methods()]),
)
LINES = st.one_of(
    st.tuples(st.sampled_from(sorted(HINTS)), LITERALS).map(" = ".join),
    st.tuples(st.text(max_size=5), LITERALS).map(" = ".join),
    st.text(max_size=10),
)
TEXTS = st.lists(LINES, max_size=3).map("\n".join)
CONTENTS = st.one_of(
    TEXTS.map(lambda text: text.encode(errors="replace")),
    st.tuples(TEXTS, st.sampled_from(["utf-16", "latin-1", "utf-8-sig"])).map(
        lambda pair: pair[0].encode(pair[1], "replace")
    ),
    st.binary(max_size=40),
)


@given(CONTENTS)
def test_a_settings_file_is_read_or_refused_in_one_sentence(content):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.toml"
        file.write_bytes(content)
        try:
            config = from_toml(file, SearchConfig)
        except FastdartsError as error:
            assert str(error).isprintable() and str(file) in str(error), error
            return
        meant = tomllib.loads(content.decode("utf-8-sig"))
        own = hints_of(type(config)).keys()
        assert meant.keys() - own <= HINTS.keys()  # of other methods, at their defaults
        for name, value in ((name, value) for name, value in meant.items() if name in own):
            ours = getattr(config, name)
            if isinstance(ours, Path):
                assert ours == Path(value).expanduser()
            elif isinstance(ours, float):
                assert type(value) in (int, float) and str(ours) == str(float(value))
            else:
                assert ours == (tuple(value) if isinstance(value, list) else value)
                assert type(ours) is not bool or type(value) is bool
        plain = SearchConfig(method=config.method)
        assert all(getattr(config, name) == getattr(plain, name) for name in own - meant)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9)


def values_of(hint):
    """Values that a setting of this type can have."""
    if choices := choices_of(hint):
        return st.sampled_from(choices)
    if of := next((get_args(part)[0] for part in (hint, *get_args(hint)) if get_origin(part) is tuple), None):
        return st.lists(values_of(of), max_size=3).map(tuple)
    text = str(hint)
    for name, values in (
        ("bool", st.booleans()),
        ("float", st.floats(allow_nan=False)),
        ("int", st.integers(-(2**63), 2**63 - 1)),
        ("Path", TEXT.map(Path)),
        ("str", TEXT),
    ):
        if name in text:
            return values
    raise AssertionError(hint)


@given(st.data(), st.sampled_from([EvaluateConfig, *(method.settings for method in methods().values())]))
def test_what_is_written_is_read_again(data, kind):
    hints = hints_of(kind)
    # Another method is another class, and plug-ins are files that must exist.
    names = data.draw(
        st.sets(st.sampled_from(sorted(hints.keys() - {"run", "resume", "method", "plugin", "task"})), max_size=6)
    )
    config = kind(**{name: data.draw(values_of(hints[name]), name) for name in sorted(names)})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.toml"
        file.write_text(to_toml(config), encoding="utf-8")
        assert from_toml(file, EvaluateConfig if kind is EvaluateConfig else SearchConfig) == config
