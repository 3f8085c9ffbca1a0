"""The help texts of all flags of all commands: a noun first, and sentences that can be read at once."""

import dataclasses
import re
from typing import get_type_hints

import pytest

from fastdarts.cli import help
from fastdarts.cli.commands import COMMANDS, find_command
from fastdarts.cli.entry import main
from fastdarts.cli.flags import BySettings, texts_of
from fastdarts.cli.listing import all_methods
from fastdarts.registry import find_method, methods
from fastdarts.study.config import StudyConfig
from fastdarts.tasks.task import tasks
from tests.support.paths import ROOT

NO_NOUNS = """
    a an the this these those their its it they he how what which where when why who whose whether of in on at by for
    from to up down with without between behind before after into over under as than if and or but because while only
    also not never always again instead is are was be been has have do does can may must will would should use let keep
    leave read write print say go give take make show list name set add put get count train learn evaluate describe
    derive normalise resize blank draw resume run
"""
"""Articles, pronouns, question words, prepositions, conjunctions, adverbs, auxiliaries, and verbs that command."""
LONGEST = 25


def kinds():
    """The classes whose fields are flags, by what is typed to get them."""
    found = {name: find_command(name) for name in COMMANDS}
    found = {name: kind for name, kind in found.items() if not issubclass(kind, BySettings)}
    found["study (settings)"] = StudyConfig
    found["search --config"] = BySettings
    for task in tasks().values():
        found[f"evaluate ({task.title})"] = task.evaluation
        for name, method in methods().items():
            found[f"search {name} ({task.title})"] = method.settings.of_task(task.name)
    return found


def sentences(text):
    return re.split(r"(?<!\.\.)(?<=[.?!])\s+", text)


@pytest.mark.parametrize(("typed", "kind"), kinds().items(), ids=kinds())
def test_a_help_text_begins_with_a_noun_and_has_short_sentences(typed, kind):
    hints = get_type_hints(kind)
    texts = {field: text for field, text in texts_of(kind).items() if not dataclasses.is_dataclass(hints[field])}
    assert texts
    for field, text in texts.items():
        assert text.endswith("."), (field, text)
        first = re.match(r"[A-Z0-9][A-Za-z0-9-]*", text)
        assert first and first[0].lower() not in NO_NOUNS.split(), (field, text)
        assert all(len(sentence.split()) <= LONGEST for sentence in sentences(text)), (field, text)


def test_dots_in_the_middle_end_no_sentence():
    assert sentences("Device: cpu, cuda:1, ...; auto takes it. store keeps. No?") == [
        "Device: cpu, cuda:1, ...; auto takes it.",
        "store keeps.",
        "No?",
    ]


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    out, err = capsys.readouterr()
    assert stop.value.code == 0 and err == ""
    return out


def flags_in(page):
    return re.findall(r"^  (--\S+)", page, re.M)


@pytest.mark.parametrize(("command", "most"), [("search", 14), ("evaluate", 16), ("study", 10)])
def test_a_short_help_has_what_most_people_need_and_names_the_rest(capsys, monkeypatch, command, most):
    monkeypatch.setenv("COLUMNS", "100")
    short, full = printed(capsys, command, "--help"), printed(capsys, command, "--help-all")
    assert 8 <= len(flags_in(short)) <= most < len(flags_in(full)) // 2
    assert set(flags_in(short)) < set(flags_in(full))
    assert f"`fastdarts {command} --help-all` lists all {len(flags_in(full))} flags." in short
    assert max(map(len, short.splitlines())) <= 100 and len(short.splitlines()) < 60


@pytest.mark.parametrize(
    "typed", ["search gdas", "search --method gdas", "search --space rnn", "search --config t.toml"]
)
def test_the_command_that_lists_all_flags_is_the_one_that_was_typed(capsys, monkeypatch, tmp_path, typed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.toml").write_text('method = "pc-darts"', encoding="utf-8")
    short = printed(capsys, *typed.split(), "--help")
    count = len(flags_in(printed(capsys, *typed.split(), "--help-all")))
    assert f"`fastdarts {typed} --help-all` lists all {count} flags." in short


def test_a_default_that_a_text_names_is_the_one_that_counts():
    """It stands in parentheses at the end: (8). Where it has a word before it, as in (DARTS: 64), it is another's."""
    for method in all_methods():
        for name, setting in method["settings"].items():
            said = re.search(r"\((-?[\d.]+(?:e-?\d+)?)\)\.$", setting["help"])
            if said and setting["default"] is not None:
                assert float(said[1]) == setting["default"], (method["name"], name)
    assert not re.search("half|DARTS", texts_of(find_method("evolution").settings)["epochs"])


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"search"}))
def test_the_page_of_commands_has_every_flag(capsys, command):
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    section = text.partition(f"### fastdarts {command}\n")[2].partition("### ")[0]
    flags = flags_in(printed(capsys, command, "--help-all"))
    assert flags and all(f"`{flag}" in section for flag in flags)


def test_the_groups_come_in_order_and_hold_what_their_titles_say(capsys):
    page = printed(capsys, "search", "gdas", "--help-all")
    titles = re.findall(r"^(\w.*):$", page, re.M)
    assert titles == [
        "data", "network", "search", "method gdas", "run", "speed and memory", "diagnostics", "examples",
    ]  # fmt: skip
    groups = dict(zip(titles, re.split(r"^\w.*:$", page, flags=re.M)[1:], strict=True))
    assert "--tau-start X" in groups["method gdas"] and "--max-memory" in groups["speed and memory"]
    assert "--gap-every" in groups["diagnostics"] and "--train-portion" in groups["data"]


def test_defaults_are_those_that_a_run_uses(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "t.toml").write_text("layers = 5\nunrolled = true", encoding="utf-8")
    flags = ["--config", str(tmp_path / "t.toml"), "--channels", "32"]
    page = " ".join(printed(capsys, "search", "--help-all", "darts", *flags).split())
    assert "Images per step, of all ranks together. [64]" in page  # the published one, which is left out
    assert "Images per step, of all ranks together (DARTS" not in page
    page = " ".join(printed(capsys, "search", *flags, "--help-all").split())
    assert "--layers N Cells; in nasbench201 residual blocks count too. [5]" in page and "unrolled. [on]" in page
    page = " ".join(printed(capsys, "search", "pc-darts", "--help").split())
    assert "Images per step, of all ranks together. [256]" in page
    page = " ".join(printed(capsys, "evaluate", "--help").split())
    assert "Passes over the training images. [600]" in page


def test_every_setting_that_is_named_in_a_group_exists():
    known = {name for kind in kinds().values() for name in texts_of(kind)}
    named = [name for names in (*help.GROUPS.values(), *help.SHORT.values()) for name in names.split()]
    assert set(named) <= known
    assert len(" ".join(help.GROUPS.values()).split()) == len(set(" ".join(help.GROUPS.values()).split()))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_page_with_all_its_flags(capsys, command):
    page = printed(capsys, command, "--help-all")
    assert page.startswith(f"usage: fastdarts {command}") and page.count("\n") > 5


def test_a_flag_that_stands_in_a_class_of_its_own_is_explained_and_has_its_default():
    study = {entry.name: entry for entry in help.entries(find_command("study"), None)}
    assert study["epochs"].text == texts_of(StudyConfig)["epochs"] and study["epochs"].value == str(StudyConfig.epochs)
    assert all(entry.text for entry in study.values())
