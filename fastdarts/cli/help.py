"""What ``--help`` and ``--help-all`` print: the flags of a command in groups, with the values that they have."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_type_hints

from fastdarts.cli.arguments import Parameter, parameters
from fastdarts.cli.flags import BySettings, texts_of
from fastdarts.registry import methods
from fastdarts.runs.settings import RunConfig, choices_of
from fastdarts.runs.stored import alternatives
from fastdarts.spaces import DARTS
from fastdarts.tasks.settings import SearchConfig, resolve

GROUPS: dict[str, str] = {  # settings in the order in which people ask for them; what is not named here: see _group
    "data": "task dataset data level vocabulary image_size crop_height crop_width pairs max_disparity samples "
    "test_samples test_portion split_seed train_portion validation_portion augment augment_strength cutout mixup "
    "cutmix label_smoothing",
    "network": "genotype space variant stem channels layers nodes hidden partial edge_normalisation auxiliary "
    "auxiliary_weight pretrained target_parameters target_macs target_latency",
    "search": "method epochs batch_size seed seeds",
    "method": "",
    "run": "run resume config checkpoint_minutes loggers plugin",
    "speed and memory": "device threads processes storage study workers graphs precision memory accumulate max_memory "
    "sync_bn",
    "diagnostics": "gap_every alignment_every eigenvalue_every product_error_every",
}
SHORT: dict[str, str] = {  # what most people need, by command
    "search": "task dataset data image_size space hidden channels layers epochs batch_size seed seeds queries table "
    "run resume device",
    "evaluate": "genotype dataset data image_size validation_portion hidden channels layers target_parameters epochs "
    "batch_size seeds pretrained run resume device",
    "study": "dataset data method epochs seeds search_epochs search_seeds run processes",
}
EXAMPLES: dict[str, tuple[str, ...]] = {
    "search": (
        "fastdarts search --dataset digits --epochs 3 --channels 8 --layers 5",
        "fastdarts search pc-darts --dataset folder --data photos --image-size 32 --seeds 3",
    ),
    "evaluate": ("fastdarts evaluate --genotype runs/RUN --dataset digits --epochs 20",),
}
_COLUMN = 26  # where texts begin
_WORDS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


class Entry(NamedTuple):
    """A flag: its group, its setting, how it is typed, what it is, and the value that counts if it is left out."""

    group: str
    name: str
    typed: str
    text: str
    choices: tuple[str, ...]
    value: str


def help_page(typed: Sequence[str], kind: type[Any], settings: RunConfig | None, everything: bool) -> str:
    """The flags of the command that ``typed`` begins with, whose class is ``kind``; with ``settings``, those that it is
    made of. ``typed`` are all words of the command line but --help.

    Only what most people need is shown, unless ``everything`` is asked for or the command has few flags.
    """
    command = typed[0]
    width = min(shutil.get_terminal_size().columns, 100)
    found = [*entries(kind, settings)]
    few = set() if everything else set(SHORT.get(command, "").split())
    own = [entry for entry in found if entry.name in few or (entry.group == "method" and command == "search")]
    shown = [_brief(entry) for entry in own] if few else found
    places = " ".join(entry.typed for entry in found if entry.group == "arguments")
    places = f" {places}" if places else " [METHOD]" * issubclass(kind, BySettings) * (command == "search")
    about = (kind.__doc__ or "").strip().partition("\n\n")[0]
    lines = [f"usage: fastdarts {command}{places} [FLAGS]", "", *textwrap.wrap(" ".join(about.split()), width)]
    if isinstance(settings, SearchConfig):
        names = ", ".join(methods())
        text = (
            f"methods: {names}. The flags below are those of {settings.method}. `fastdarts methods` lists what each is."
        )
        lines += ["", *textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)]
    for group in ("arguments", *GROUPS, "flags"):
        own = [entry for entry in shown if entry.group == group]
        if own:
            lines += ["", f"{_title(group, command, settings)}:"]
            lines += [line for entry in own for line in _lines(entry, width)]
    if len(shown) < len(found):
        count = sum(entry.group != "arguments" for entry in found)
        lines += ["", f"`fastdarts {shlex.join(typed)} --help-all` lists all {count} flags."]
    if examples := EXAMPLES.get(command):
        lines += ["", "examples:", *(f"  {example}" for example in examples)]
    return "\n".join(lines)


def _title(group: str, command: str, settings: RunConfig | None) -> str:
    if group == "method" and isinstance(settings, SearchConfig):
        return f"method {settings.method}"
    return {"search": command if command == "search" else "training", "method": "others"}.get(group, group)


def entries(kind: type[Any], settings: RunConfig | None) -> Iterator[Entry]:
    """The flags of a command, in the order of their groups."""
    texts, values = texts_of(kind), {field.name: field.default for field in dataclasses.fields(kind)}
    for part in filter(dataclasses.is_dataclass, get_type_hints(kind).values()):  # flags in a class of their own
        texts |= texts_of(part)
        values |= {field.name: field.default for field in dataclasses.fields(part)}
    if settings is not None:
        texts, values = texts | texts_of(type(settings)), values | vars(_filled(settings))
    plain = {field.name: field.default for field in dataclasses.fields(settings)} if settings else {}
    owners = type(settings).owners() if settings else ()
    order = {name: place for place, name in enumerate(" ".join(GROUPS.values()).split())}
    found = []
    for parameter in parameters(kind).values():
        group = _group(parameter.setting, owners)
        group = "arguments" if parameter.place else group if settings is not None else "flags"
        text, value = texts.get(parameter.setting, ""), values.get(parameter.setting)
        value = None if value is dataclasses.MISSING else value
        if value is not None and plain.get(parameter.setting, value) is None:
            text = re.sub(r" ?\([^()]*\)\.?$", "", text).rstrip(".") + "."  # the published values: here is the one
        choices = choices_of(parameter.one)
        found.append(Entry(group, parameter.setting, _typed(parameter), text, choices, shown(value)))
    return iter(sorted(found, key=lambda entry: order.get(entry.name, len(order))))


def _brief(entry: Entry) -> Entry:
    """With the first sentence only."""
    return entry._replace(text=re.split(r"(?<!\.\.)(?<=[.?!])\s+", entry.text)[0])


def _filled(settings: RunConfig) -> RunConfig:
    """The settings as a run uses them, with what was left out."""
    if isinstance(settings, SearchConfig):
        return resolve(settings)
    return settings.resolved(DARTS) if hasattr(settings, "resolved") else settings


def _group(name: str, owners: tuple[type, ...]) -> str:
    """The group of a setting: the one that names it, else that of the class that has written it."""
    named = next((group for group, names in GROUPS.items() if name in names.split()), None)
    if named is not None:
        return named
    owner = next((owner for owner in owners if name in vars(owner).get("__annotations__", ())), None)
    written = vars(owner).get("group", "method") if owner else "run"
    return {"data": "data", "supernet": "network", "method": "method", "running": "run"}.get(written, "search")


def _typed(parameter: Parameter) -> str:
    """--batch-size N"""
    if parameter.switch:
        return f"--[no-]{parameter.name[2:]}"
    kinds = [kind for kind in alternatives(parameter.one) if kind is not NoneType]
    word = "NAME" if choices_of(parameter.one) else "True|False" if bool in kinds else _WORDS.get(kinds[0], "TEXT")
    if parameter.place:
        word = parameter.name.removeprefix("the ").upper()
        word = word if parameter.required else f"[{word}]"
    word += " ..." * parameter.many
    return word if parameter.place else f"{parameter.name} {word}"


def shown(value: object) -> str:
    """A value as it is typed, "" for none."""
    if value is None or value in ((), ""):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _lines(entry: Entry, width: int) -> list[str]:
    unsaid = any(choice not in entry.text for choice in entry.choices)
    text = entry.text + f" One of {', '.join(entry.choices)}." * unsaid + f" [{entry.value}]" * bool(entry.value)
    wrapped = textwrap.wrap(text, max(width - _COLUMN, 30), break_on_hyphens=False) or [""]
    head = f"  {entry.typed}"
    if len(head) > _COLUMN - 2:
        return [head, *(" " * _COLUMN + line for line in wrapped)]
    return [f"{head:{_COLUMN}}{wrapped[0]}".rstrip(), *(" " * _COLUMN + line for line in wrapped[1:])]
