"""The command line: ``fastdarts`` and the name of one of :data:`COMMANDS`."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import reprlib
import stat
import sys
import tomllib
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, get_type_hints

import torch
import tyro
from tyro.conf import subcommand

from fastdarts import __version__, ranks
from fastdarts.cli.arguments import Parameter, Reading, check, parameters, read
from fastdarts.cli.commands import (
    Bench,
    BySettings,
    Command,
    Derive,
    Describe,
    Evaluate,
    Info,
    Methods,
    Project,
    Report,
    Search,
    Spaces,
    Study,
    by,
)
from fastdarts.cli.streams import readable_streams
from fastdarts.endings import INTERRUPTED, drop, is_unread, say
from fastdarts.errors import FastdartsError
from fastdarts.notices import notices_as_lines
from fastdarts.registry import find_method, load_plugin, methods
from fastdarts.runs.checks import check_setting
from fastdarts.runs.settings import RunConfig, choices_of, expanded, from_toml
from fastdarts.spaces import space_named_in
from fastdarts.study.config import StudyConfig
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, task_of
from fastdarts.tasks.task import find_task, tasks


def main(arguments: list[str] | None = None) -> None:
    """Entry point: exit code 0; 2 with one sentence on stderr for bad input or no memory; 130 after Ctrl-C.

    During a search, a projection, an evaluation or a study SIGTERM and Ctrl-C save a checkpoint; the exit code is 0 or
    130 then. Where nobody reads the output any more, work goes on and the rest is not printed.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    readable_streams()
    try:
        if arguments == ["--version"]:
            print(f"fastdarts {__version__}")
            return
        together = arguments[:1] in SHARED or ranks.launched()
        with notices_as_lines(), ranks.joined() if together else nullcontext():
            ranks.agree({"command": " ".join(arguments[:1])})
            _run(arguments)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and is_unread(sys.stdout):
            drop(sys.stdout)
            return
        ending = _ending(error, arguments)
        if ending is None:
            raise
        text, code = ending
        if ranks.should_print(error):
            say(text)
        sys.exit(code)


def _ending(error: BaseException, arguments: list[str]) -> tuple[str, int] | None:
    """The last line of a command that ``error`` ends, and its exit code; None for a fault of the program."""
    if isinstance(error, KeyboardInterrupt):
        return "; ".join(["interrupted", *map(str, error.args)]), INTERRUPTED
    if isinstance(error, ConnectionError | FastdartsError):
        return str(error), 2
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return f"cannot read or write{where}: {error.strerror or error}; free it or name another place", 2
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        # by torch's allocators of all systems and devices, and by the kernels
        and re.search("can't allocate memory|not enough memory|out of memory|bad_alloc", str(error))
    )
    if no_memory:
        smaller = task_of(_space(arguments, _read(arguments))).smaller
        return f"out of memory: lower --batch-size, {smaller}", 2
    return None


SHARED = (["search"], ["project"], ["evaluate"])
"""What several ranks do as one."""


def _run(arguments: list[str]) -> None:
    with ranks.fail_together():
        command = _parse(arguments)
    command.run()


def _parse(arguments: list[str]) -> Command:
    arguments = _with_flag(arguments)
    plugins = _load_plugins(arguments)
    reading = _read(arguments)
    _check(arguments)
    method, space = _method(arguments, reading), _space(arguments, reading)
    kinds = {"search": SearchConfig, "evaluate": EvaluateConfig, "study": StudyConfig}
    settings = {
        command: _defaults(reading, command, kind, method, space) if arguments[:1] == [command] else kind()
        for command, kind in kinds.items()
    }
    if plugins and arguments[:1] == ["evaluate"]:  # the run of the genotype may have had some
        settings["evaluate"] = replace(settings["evaluate"], plugin=plugins)
    searching, evaluating = by(Search, type(settings["search"])), by(Evaluate, type(settings["evaluate"]))
    _check_own(arguments, {"search": searching, "evaluate": evaluating})
    kinds = (
        Annotated[searching, subcommand("search", prefix_name=False, default=searching.having(settings["search"]))]
        | Annotated[Project, subcommand("project", prefix_name=False)]
        | Annotated[
            evaluating, subcommand("evaluate", prefix_name=False, default=evaluating.having(settings["evaluate"]))
        ]
        | Annotated[Study, subcommand("study", prefix_name=False, default=Study(settings["study"]))]
        | Annotated[Report, subcommand("report", prefix_name=False)]
        | Annotated[Describe, subcommand("describe", prefix_name=False)]
        | Annotated[Derive, subcommand("derive", prefix_name=False)]
        | Annotated[Methods, subcommand("methods", prefix_name=False)]
        | Annotated[Spaces, subcommand("spaces", prefix_name=False)]
        | Annotated[Info, subcommand("info", prefix_name=False)]
        | Annotated[Bench, subcommand("bench", prefix_name=False)]
    )
    said = io.StringIO()  # what is wrong fills a frame of many lines
    try:
        with redirect_stderr(said):
            found = tyro.cli(kinds, prog="fastdarts", args=arguments, description="Differentiable architecture search.")
    except SystemExit as stop:
        if not stop.code:
            raise
        words = re.sub(r"[\s\u2500-\u257f]+", " ", said.getvalue()).strip()
        raise FastdartsError(f"the command line cannot be read ({words}): see --help") from None
    sys.stderr.write(said.getvalue())
    return found


COMMANDS: dict[str, type[Command]] = {
    "search": Search, "project": Project, "evaluate": Evaluate, "study": Study, "report": Report, "describe": Describe,
    "derive": Derive, "methods": Methods, "spaces": Spaces, "info": Info, "bench": Bench,
}  # fmt: skip
SHELLS = ("bash", "zsh", "tcsh", "fish")


def _flags(command: str, known_methods: bool = True) -> dict[str, Parameter]:
    """What a command takes, a search of any method on any task, an evaluation on any task; nothing for an unknown
    command."""
    found = dict(parameters(COMMANDS[command])) if command in COMMANDS else {}
    if command == "search":
        owners = [part for task in tasks().values() for part in task.settings]
        owners += [method.settings for method in methods().values()] if known_methods else [SearchConfig]
    else:
        owners = [task.evaluation for task in tasks().values() if task.evaluation] if command == "evaluate" else []
    for owner in owners:
        hints = get_type_hints(owner)
        for name in (field.name for field in dataclasses.fields(owner)):
            flag = "--" + name.replace("_", "-")
            found.setdefault(flag, Parameter(flag, hints[name], False))
    return found


def _read(arguments: list[str], known_methods: bool = True) -> Reading:
    """What a command's arguments give, for all methods and tasks alike: nothing for an unknown command."""
    command = arguments[0] if arguments else ""
    return read(arguments[1:], _flags(command, known_methods))


def _with_flag(arguments: list[str]) -> list[str]:
    """``arguments`` with --method before a method's name: `search gdas` is `search --method gdas`."""
    if arguments[:1] != ["search"] or not arguments[1:] or arguments[1].startswith("-"):
        return arguments
    return ["search", "--method", *arguments[1:]]


def _load_plugins(arguments: list[str]) -> tuple[str, ...]:
    """Import the plug-ins that the arguments name, and those of the runs and settings files that they name; return
    their paths."""
    reading = _read(arguments, known_methods=False)
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


def _method(arguments: list[str], reading: Reading) -> str | None:
    """The method that the arguments name, checked; None without one."""
    if arguments[:1] != ["search"]:
        return None
    named = [texts[0] for name, texts in reading.occurrences if name == "--method" and texts]
    for name in named:
        find_method(name)
    if len({*named}) > 1:
        raise FastdartsError(f"got the methods {' and '.join(named)}: name one of them")
    return named[0] if named else None


def _check(arguments: list[str]) -> None:
    """Raise :class:`FastdartsError` with one sentence for the first mistake in them."""
    command = arguments[0] if arguments else ""
    if command in ("-h", "--help"):
        return
    if command.replace("_", "-") in ("--tyro-print-completion", "--tyro-write-completion"):
        if not arguments[1:2] or arguments[1] not in SHELLS:
            raise FastdartsError(f"{command} needs a shell: name one of {', '.join(SHELLS)}")
        return
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=1)
        got = f"unknown command {reprlib.repr(command)}{f' (similar is {near[0]})' if near else ''}"
        raise FastdartsError(f"{got if command else 'no command given'}: expected one of {', '.join(COMMANDS)}")
    check(arguments[1:], _flags(command), {})


def _check_own(arguments: list[str], commands: Mapping[str, type[BySettings]]) -> None:
    """Raise :class:`FastdartsError` for the first flag that belongs to another method or task than the one at hand."""
    command = commands.get(next(iter(arguments), ""))
    if command is None:
        return
    own, settings, others = parameters(command), command.kind, {}
    if issubclass(settings, SearchConfig):
        for name, method in methods().items():
            for field in dataclasses.fields(method.settings.of_task(settings.task)):
                others.setdefault("--" + field.name.replace("_", "-"), []).append(name)
    texts = {flag: f"goes with --method {', '.join(names)}" for flag, names in others.items() if flag not in own}
    for task in tasks().values():
        for part in filter(None, (*task.settings, task.evaluation)):
            for field in dataclasses.fields(part):
                if (flag := "--" + field.name.replace("_", "-")) not in own:
                    texts.setdefault(flag, f"is for {task.title}, not for {find_task(settings.task).title}")
    check(arguments[1:], own, texts)


def _space(arguments: list[str], reading: Reading) -> str | None:
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


def _is_pipe(path: str | Path) -> bool:
    """Whether ``path`` is a pipe, as <(...) of a shell: it can be read once, by whoever needs what is in it."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _defaults(
    reading: Reading, command: str, kind: type[RunConfig], method: str | None, space: str | None
) -> RunConfig:
    """What the flags of ``command`` default to: the settings file's, or those of the run to resume."""
    config, resume = reading.value("--config"), reading.value("--resume")
    if config is not None and resume is not None:
        raise FastdartsError("got both --config and --resume: a resumed run keeps its settings, so leave --config out")
    named = {} if method is None else {"method": method}
    if command == "evaluate":
        kind, _ = EvaluateConfig.of({"space": space})  # what the genotype says is not in the settings yet
    elif space is not None:
        named["space"] = space
    if resume is not None and kind is StudyConfig:
        from fastdarts.runs.run import CONFIG

        found = from_toml(Path(resume) / CONFIG, kind)
    elif resume is not None:
        from fastdarts.runs.run import stored_config

        found = replace(stored_config(Path(resume), command, kind), run=None)
    else:
        found = kind(**named) if config is None else from_toml(Path(config), kind, **named)
    if method is not None and method != found.method:
        raise FastdartsError(f"--method is {method} but the run to resume is by {found.method}: leave it out")
    if space is not None and task_of(space).name != getattr(found, "task", ""):
        title = find_task(found.task).title
        raise FastdartsError(f"--space is {space} but the run to resume is on {title}: leave it out")
    for name, hint in get_type_hints(type(found)).items():
        if choices_of(hint):  # the parser takes no other defaults
            check_setting(name, getattr(found, name), hint)
    return found
