"""The command line: ``fastdarts`` and the name of one of :data:`COMMANDS`."""

from __future__ import annotations

import io
import os
import re
import reprlib
import stat
import sys
import tomllib
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, get_type_hints

import torch
import tyro
from tyro.conf import subcommand

from fastdarts import __version__, ranks
from fastdarts.cli.arguments import Reading, check, parameters, read
from fastdarts.cli.commands import (
    Bench,
    Command,
    Derive,
    Describe,
    Evaluate,
    EvaluateRecurrent,
    Info,
    Methods,
    Project,
    Report,
    Search,
    SearchRecurrent,
    Spaces,
    Study,
    search_by,
)
from fastdarts.cli.streams import readable_streams
from fastdarts.endings import INTERRUPTED, drop, is_unread, say
from fastdarts.engine.settings import EvaluateConfig, SearchConfig
from fastdarts.errors import FastdartsError
from fastdarts.notices import notices_as_lines
from fastdarts.registry import find_method, load_plugin, methods
from fastdarts.runs.checks import check_setting
from fastdarts.runs.settings import RunConfig, choices_of, expanded, from_toml
from fastdarts.spaces import RECURRENT
from fastdarts.spaces.cells.reading import read_fields
from fastdarts.study.config import StudyConfig
from fastdarts.tasks.language.settings import RecurrentEvaluateConfig, RecurrentSearchConfig


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
        sizes = "--hidden or --bptt" if _is_recurrent(arguments) else "--channels or --layers"
        return f"out of memory: lower --batch-size, {sizes}", 2
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
    recurrent = _is_recurrent(arguments)
    reading = _read(arguments)
    if recurrent and (method := reading.value("--method")):
        raise FastdartsError(
            f"--method is {method} but recurrent cells (--space {RECURRENT.name}) are searched by DARTS only: leave it "
            "out, or choose a space for images"
        )
    _check(arguments, recurrent)
    method = None if recurrent else _method(arguments, reading)
    searching, search_config = (SearchRecurrent, RecurrentSearchConfig) if recurrent else (Search, SearchConfig)
    evaluating, evaluate_config = (
        (EvaluateRecurrent, RecurrentEvaluateConfig) if recurrent else (Evaluate, EvaluateConfig)
    )
    settings = {
        command: _defaults(reading, command, kind, method) if arguments[:1] == [command] else kind()
        for command, kind in (("search", search_config), ("evaluate", evaluate_config), ("study", StudyConfig))
    }
    if plugins and arguments[:1] == ["evaluate"]:  # the run of the genotype may have had some
        settings["evaluate"] = replace(settings["evaluate"], plugin=plugins)
    if recurrent:
        search_default = SearchRecurrent(settings["search"])
    else:
        searching = search_by(type(settings["search"]))
        _check_method(arguments, searching)
        search_default = searching.having(settings["search"])
    kinds = (
        Annotated[searching, subcommand("search", prefix_name=False, default=search_default)]
        | Annotated[Project, subcommand("project", prefix_name=False)]
        | Annotated[evaluating, subcommand("evaluate", prefix_name=False, default=evaluating(settings["evaluate"]))]
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
OF_RECURRENT: dict[str, type[Command]] = {"search": SearchRecurrent, "evaluate": EvaluateRecurrent}
SHELLS = ("bash", "zsh", "tcsh", "fish")


def _read(arguments: list[str], known_methods: bool = True) -> Reading:
    """What a command's arguments give, for all methods and recurrent cells alike: nothing for an unknown command."""
    kinds = [table[name] for table in (COMMANDS, OF_RECURRENT) for name in arguments[:1] if name in table]
    if known_methods and arguments[:1] == ["search"]:
        kinds += [search_by(method.settings) for method in methods().values()]
    return read(arguments[1:], {name: found for kind in kinds for name, found in parameters(kind).items()})


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


def _check(arguments: list[str], recurrent: bool) -> None:
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
    words = parameters(OF_RECURRENT.get(command, COMMANDS[command]))
    if command == "search" and not recurrent:
        every = {flag: p for m in methods().values() for flag, p in parameters(search_by(m.settings)).items()}
        check(arguments[1:], every, dict.fromkeys(words, f"goes with --space {RECURRENT.name}"))
    elif recurrent:
        images = parameters(COMMANDS[command])
        if command == "search":
            images = {f: p for m in methods().values() for f, p in parameters(search_by(m.settings)).items()}
        check(arguments[1:], words, dict.fromkeys(images, f"is for images, not for --space {RECURRENT.name}"))
    else:
        others = dict.fromkeys(words, f"goes with --space {RECURRENT.name}")
        check(arguments[1:], parameters(COMMANDS[command]), others)


def _check_method(arguments: list[str], searching: type[Search]) -> None:
    """Raise :class:`FastdartsError` for the first flag of a search that another method has, but not this one."""
    if arguments[:1] != ["search"]:
        return
    own, others = parameters(searching), {}
    for name, method in methods().items():
        for flag in parameters(search_by(method.settings)).keys() - own.keys():
            others.setdefault(flag, []).append(name)
    check(arguments[1:], own, {flag: f"goes with --method {', '.join(names)}" for flag, names in others.items()})


def _is_recurrent(arguments: list[str]) -> bool:
    """Whether a search or an evaluation is for recurrent cells, which have settings of their own: by --space, by the
    settings it starts from, or by the genotype."""
    if arguments[:1] not in (["search"], ["evaluate"]):
        return False
    reading = _read(arguments)
    if (space := reading.value("--space")) is not None:
        return space == RECURRENT.name
    resume, config, genotype = (reading.value(flag) for flag in ("--resume", "--config", "--genotype"))
    try:
        if resume is not None or config is not None:
            from fastdarts.runs.run import CONFIG, find_checkpoint

            path = Path(config) if resume is None else find_checkpoint(Path(resume).expanduser()).parent / CONFIG
            path = path.expanduser()
            found = None if _is_pipe(path) else tomllib.loads(path.read_bytes().decode("utf-8-sig"))
        else:
            found = read_fields(genotype) if genotype and not _is_pipe(genotype) else None
    except (OSError, ValueError, RuntimeError):  # the last: no home for "~", or nesting too deep
        return False  # what is wrong with them is said where they are read
    return isinstance(found, dict) and found.get("space") == RECURRENT.name


def _is_pipe(path: str | Path) -> bool:
    """Whether ``path`` is a pipe, as <(...) of a shell: it can be read once, by whoever needs what is in it."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _defaults(reading: Reading, command: str, kind: type[RunConfig], method: str | None) -> RunConfig:
    """What the flags of ``command`` default to: the settings file's, or those of the run to resume."""
    config, resume = reading.value("--config"), reading.value("--resume")
    if config is not None and resume is not None:
        raise FastdartsError("got both --config and --resume: a resumed run keeps its settings, so leave --config out")
    if resume is not None and kind is StudyConfig:
        from fastdarts.runs.run import CONFIG

        found = from_toml(Path(resume) / CONFIG, kind)
    elif resume is not None:
        from fastdarts.runs.run import stored_config

        found = replace(stored_config(Path(resume), command, kind), run=None)
    else:
        named = {} if method is None else {"method": method}
        found = kind(**named) if config is None else from_toml(Path(config), kind, **named)
    if method is not None and method != found.method:
        raise FastdartsError(f"--method is {method} but the run to resume is by {found.method}: leave it out")
    for name, hint in get_type_hints(kind).items():
        if choices_of(hint):  # the parser takes no other defaults
            check_setting(name, getattr(found, name), hint)
    return found
