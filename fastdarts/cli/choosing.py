"""Which settings a command line means: those of its method and of the task of its space, and what they start from."""

from __future__ import annotations

import dataclasses
import os
import stat
import tomllib
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_type_hints

from fastdarts.cli.arguments import Parameter, Reading, check, parameters, read
from fastdarts.cli.commands import COMMANDS, find_command
from fastdarts.cli.flags import BySettings
from fastdarts.errors import FastdartsError
from fastdarts.registry import find_method, load_plugin, methods
from fastdarts.runs.checks import check_setting
from fastdarts.runs.settings import RunConfig, choices_of, expanded, from_dict, from_toml
from fastdarts.runs.stored import alternatives
from fastdarts.spaces import SPACES, find_space, space_named_in
from fastdarts.study.config import StudyConfig
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig
from fastdarts.tasks.task import find_task, tasks


def with_flag(arguments: list[str]) -> list[str]:
    """``arguments`` with --method before a method's name: `search gdas` is `search --method gdas`."""
    if arguments[:1] != ["search"] or not arguments[1:] or arguments[1].startswith("-"):
        return arguments
    return ["search", "--method", *arguments[1:]]


def flags_of(command: str, known_methods: bool = True) -> dict[str, Parameter]:
    """What a command takes, a search of any method on any task, an evaluation on any task; nothing for an unknown
    command."""
    found = dict(parameters(find_command(command))) if command in COMMANDS else {}
    if command == "search":
        owners = [part for task in tasks().values() for part in task.settings]
        owners += [method.settings for method in methods().values()] if known_methods else [SearchConfig]
    else:
        owners = [task.evaluation for task in tasks().values() if task.evaluation] if command == "evaluate" else []
    for owner in owners:
        hints = get_type_hints(owner)
        for name in (field.name for field in dataclasses.fields(owner)):
            flag = "--" + name.replace("_", "-")
            hint = _either(found[flag].hint, hints[name]) if flag in found else hints[name]
            found[flag] = Parameter(flag, hint, flag in found and found[flag].required, name)
    return found


def _either(one: Any, other: Any) -> Any:
    """A type for a flag that tasks give different words: any of these. Which task it is comes out later."""
    words = choices_of(one), choices_of(other)
    if not all(words):
        return one
    both = Literal[tuple(dict.fromkeys([*words[0], *words[1]]))]
    return both | None if NoneType in (*alternatives(one), *alternatives(other)) else both


def read_line(arguments: list[str], known_methods: bool = True) -> Reading:
    """What a command's arguments give, for all methods and tasks alike: nothing for an unknown command."""
    command = arguments[0] if arguments else ""
    return read(arguments[1:], flags_of(command, known_methods))


def load_plugins(arguments: list[str]) -> tuple[str, ...]:
    """Import the plug-ins that the arguments name, and those of the runs and settings files that they name; return
    their paths."""
    reading = read_line(arguments, known_methods=False)
    if texts := reading.given.get("--plugin", ()):  # in place of those that runs remember, which may have moved
        for text in texts:
            load_plugin(expanded(text))
        return tuple(dict.fromkeys(texts))
    texts = []
    for flag in ("--config", "--resume", "--genotype", "the folder"):
        if (text := reading.value(flag)) is None or _is_pipe(text):
            continue
        try:
            path = Path(text).expanduser()
            folder = path if path.is_dir() else path.parent
            found = tomllib.loads((path if flag == "--config" else folder / "config.toml").read_text("utf-8-sig"))
        except (OSError, ValueError, RuntimeError):
            continue  # what is wrong with it is said where it is read
        listed = found.get("plugin", [])
        listed = [text for text in (listed if isinstance(listed, list) else []) if isinstance(text, str)]
        if flag != "--config" and (gone := [text for text in listed if not Path(text).is_file()]):
            raise FastdartsError(
                f"the run in {folder} was made with the plug-in {gone[0]}, which is there no more: give its new place "
                "by --plugin"
            )
        texts += listed
    for text in texts:
        load_plugin(expanded(text))
    return tuple(dict.fromkeys(texts))


def method_in(arguments: list[str], reading: Reading) -> str | None:
    """The method that the arguments name, checked; None without one."""
    if arguments[:1] != ["search"]:
        return None
    named = [texts[0] for name, texts in reading.occurrences if name == "--method" and texts]
    for name in named:
        find_method(name)
    if len({*named}) > 1:
        raise FastdartsError(f"got the methods {' and '.join(named)}: name one of them")
    return named[0] if named else None


def space_in(arguments: list[str], reading: Reading) -> str | None:
    """The space that a search or an evaluation is in: that of --space, of the settings it starts from, or of the
    genotype; None if none of them names one."""
    if arguments[:1] not in (["search"], ["evaluate"]):
        return None
    if (space := reading.value("--space")) is not None:
        return space
    resume, config, genotype = (reading.value(flag) for flag in ("--resume", "--config", "--genotype"))
    try:
        if resume is None and config is None:
            return None if genotype is None or _is_pipe(genotype) else space_named_in(genotype)
        from fastdarts.runs.run import CONFIG, find_checkpoint

        path = Path(config) if resume is None else find_checkpoint(Path(resume).expanduser()).parent / CONFIG
        path = path.expanduser()
        found = {} if _is_pipe(path) else tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RuntimeError):  # the last: no home for "~", or nesting too deep
        return None  # what is wrong with them is said where they are read
    named = found.get("space")
    return named if isinstance(named, str) else None


def task_in(arguments: list[str], reading: Reading) -> str | None:
    """The task that the flags of a search or an evaluation name; None if they name none."""
    if arguments[:1] not in (["search"], ["evaluate"]):
        return None
    task = reading.value("--task")
    return None if task is None else find_task(task).name


def _is_pipe(path: str | Path) -> bool:
    """Whether ``path`` is a pipe, as <(...) of a shell: it can be read once, by whoever needs what is in it."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def defaults(
    reading: Reading,
    command: str,
    kind: type[RunConfig],
    method: str | None,
    space: str | None,
    task: str | None = None,
) -> RunConfig:
    """What the flags of ``command`` default to: the settings file's, or those of the run to resume."""
    config, resume = reading.value("--config"), reading.value("--resume")
    if config is not None and resume is not None:
        raise FastdartsError("got both --config and --resume: a resumed run keeps its settings, so leave --config out")
    named = {} if method is None else {"method": method}
    named |= {} if task is None else {"task": task}
    if command == "evaluate":
        kind, _ = EvaluateConfig.of({"space": space, "task": task})  # what the genotype says is not in the settings yet
        named |= {} if space is None else {"space": space}
        known = {field.name for field in dataclasses.fields(kind)}
        for name in known & {"genotype", "pretrained", "data", *kind.data_settings[:1]}:
            text = reading.value(f"--{name}")
            named |= {} if text is None or _is_pipe(text) else {name: text}
    elif space is not None:
        named["space"] = space
    if resume is not None and kind is StudyConfig:
        from fastdarts.runs.run import CONFIG

        found = from_toml(Path(resume) / CONFIG, kind)
    elif resume is not None:
        from fastdarts.runs.run import stored_config

        found = replace(stored_config(Path(resume), command, kind), run=None)
    else:
        found = from_dict(named, kind, command) if config is None else from_toml(Path(config), kind, **named)
    if method is not None and method != found.method:
        raise FastdartsError(f"--method is {method} but the run to resume is by {found.method}: leave it out")
    if task is not None and task != found.task:
        raise FastdartsError(f"--task is {task} but the run to resume has task {found.task}: leave it out")
    if space is not None and not find_task(found.task).fits(find_space(space)):
        title = find_task(found.task).title
        raise FastdartsError(f"--space is {space} but the run to resume is on {title}: leave it out")
    for name, hint in get_type_hints(type(found)).items():
        if choices_of(hint):  # the parser takes no other defaults
            check_setting(name, getattr(found, name), hint)
    return found


def check_own(arguments: list[str], command: type[BySettings]) -> None:
    """Raise :class:`FastdartsError` for the first flag that belongs to another method or task than the one at hand."""
    own, settings, others = parameters(command), command.kind, {}
    if issubclass(settings, SearchConfig):
        for name, method in methods().items():
            for field in dataclasses.fields(method.settings.of_task(settings.task)):
                others.setdefault("--" + field.name.replace("_", "-"), []).append(name)
    texts = {flag: f"goes with --method {', '.join(names)}" for flag, names in others.items() if flag not in own}
    for task in tasks().values():
        spaces = [space.name for space in SPACES.values() if space.task == task.name and arguments[0] == "search"]
        how = f"--space {spaces[0]}" if spaces else f"--task {task.name}" if task.learns_from else ""
        where = f"{task.title} ({how})" if how else task.title
        for part in filter(None, (*task.settings, task.evaluation)):
            for field in dataclasses.fields(part):
                if (flag := "--" + field.name.replace("_", "-")) not in own:
                    texts.setdefault(flag, f"is for {where}, not for {find_task(settings.task).title}")
    check(arguments[1:], own, texts)
