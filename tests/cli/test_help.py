"""The help texts of all flags of all commands: a noun first, and sentences that can be read at once."""

import dataclasses
import re
from typing import get_type_hints

import pytest

from fastdarts.cli.commands import COMMANDS, find_command
from fastdarts.cli.flags import BySettings, texts_of
from fastdarts.registry import methods
from fastdarts.study.config import StudyConfig
from fastdarts.tasks.task import tasks

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
