"""The command line: ``fastdarts`` and the name of one of :data:`fastdarts.cli.commands.COMMANDS`."""

from __future__ import annotations

import io
import re
import reprlib
import sys
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from typing import Any

import tyro

from fastdarts import ranks
from fastdarts.cli.arguments import HELP, check
from fastdarts.cli.choosing import (
    check_own,
    defaults,
    flags_of,
    load_plugins,
    method_in,
    read_line,
    space_in,
    task_in,
    with_flag,
)
from fastdarts.cli.commands import COMMANDS, answered, find_command
from fastdarts.cli.flags import BySettings, by
from fastdarts.cli.help import help_page
from fastdarts.cli.streams import readable_streams
from fastdarts.endings import INTERRUPTED, drop, is_no_memory, is_unread, say
from fastdarts.errors import FastdartsError, did_you_mean
from fastdarts.notices import notices_as_lines
from fastdarts.study.config import StudyConfig
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, task_of


def main(arguments: list[str] | None = None) -> None:
    """Entry point: exit code 0; 2 with one sentence on stderr for bad input or no memory; 130 after Ctrl-C.

    During a search, a projection, an evaluation or a study SIGTERM and Ctrl-C save a checkpoint; the exit code is 0 or
    130 then. Where nobody reads the output any more, work goes on and the rest is not printed.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    readable_streams()
    try:
        if answer := answered(arguments):
            print(answer)
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
    if is_no_memory(error):
        smaller = task_of(space_in(arguments, read_line(arguments))).smaller
        return f"out of memory: lower --batch-size, {smaller}", 2
    return None


SHARED = (["search"], ["project"], ["evaluate"])
"""What several ranks do as one."""


def _run(arguments: list[str]) -> None:
    with ranks.fail_together():
        command = _parse(arguments)
    command.run()


SETTINGS = {"search": SearchConfig, "evaluate": EvaluateConfig, "study": StudyConfig}
"""The commands that are made of settings."""


def _parse(arguments: list[str]) -> Any:
    """The command that the arguments give; --help and --help-all are printed and end the program."""
    typed = [argument for argument in arguments if argument not in HELP]
    arguments = with_flag(arguments)
    plugins = load_plugins(arguments)
    reading = read_line(arguments)
    _check(arguments)
    name, *rest = arguments
    kind, given, settings = find_command(name), {}, None
    method, space = method_in(arguments, reading), space_in(arguments, reading)
    if name in SETTINGS:
        settings = defaults(reading, name, SETTINGS[name], method, space, task_in(arguments, reading))
        if plugins and name == "evaluate":  # the run of the genotype may have had some
            settings = replace(settings, plugin=plugins)
        if issubclass(kind, BySettings):
            kind = by(kind, type(settings))
            check_own(arguments, kind)
            given["default"] = kind.having(settings)
        else:
            given["default"] = kind(settings)
    if reading.helps:
        print(help_page(typed, kind, settings, reading.helps == "--help-all"))
        sys.exit(0)
    return _read(kind, f"fastdarts {name}", rest, **given)


def _read(kind: Any, program: str, arguments: list[str], **given: Any) -> Any:
    said = io.StringIO()  # what is wrong fills a frame of many lines
    try:
        with redirect_stderr(said):
            found = tyro.cli(kind, prog=program, args=arguments, **given)
    except SystemExit as stop:
        if not stop.code:
            raise
        words = re.sub(r"[\s\u2500-\u257f]+", " ", said.getvalue()).strip()
        raise FastdartsError(f"the command line cannot be read ({words}): see --help") from None
    sys.stderr.write(said.getvalue())
    return found


def _check(arguments: list[str]) -> None:
    """Raise :class:`FastdartsError` with one sentence for the first mistake in them."""
    command = arguments[0] if arguments else ""
    if command not in COMMANDS:
        got = f"unknown command {reprlib.repr(command)}{did_you_mean(command, (*COMMANDS, '--help', '--version'))}"
        raise FastdartsError(f"{got if command else 'no command given'}: expected one of {', '.join(COMMANDS)}")
    check(arguments[1:], flags_of(command), {})
