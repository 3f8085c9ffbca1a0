"""The command line: fastdarts search | project | evaluate | study | report | describe | info | bench."""

from __future__ import annotations

import re
import sys
import tomllib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tyro.conf import subcommand

from fastdarts import __version__, distributed
from fastdarts.commands import (
    Bench,
    Command,
    Describe,
    Evaluate,
    EvaluateRecurrent,
    Info,
    Project,
    Report,
    Search,
    SearchRecurrent,
    Study,
)
from fastdarts.config import EvaluateConfig, RunConfig, SearchConfig
from fastdarts.endings import INTERRUPTED, is_unread, say
from fastdarts.errors import FastdartsError
from fastdarts.genotypes import read_fields
from fastdarts.notices import notices_as_lines
from fastdarts.rnn.config import RecurrentEvaluateConfig, RecurrentSearchConfig
from fastdarts.settings import from_toml
from fastdarts.spaces import RECURRENT
from fastdarts.study.config import StudyConfig


def main(arguments: list[str] | None = None) -> None:
    """Entry point: exit code 0; 2 with one sentence on stderr for bad input or no memory; 130 after Ctrl-C.

    During a search, a projection, an evaluation or a study SIGTERM and Ctrl-C save a checkpoint; the exit code is 0 or
    130 then. Where nobody reads the output any more, work goes on and the rest is not printed.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments == ["--version"]:
            print(f"fastdarts {__version__}")
            return
        with notices_as_lines(), distributed.joined() if arguments[:1] in SHARED else nullcontext():
            _run(arguments)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and is_unread(sys.stdout):
            return
        ending = _ending(error, arguments)
        if ending is None:
            raise
        text, code = ending
        if distributed.speaks(error):
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
        return f"cannot read or write{where}, {error.strerror or error}: free it or name another place", 2
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and re.search("can't allocate memory|bad_alloc", str(error))  # by torch's allocator, and by the kernels
    )
    if no_memory:
        sizes = "--hidden or --bptt" if _is_recurrent(arguments) else "--channels or --layers"
        return f"out of memory: lower --batch-size, {sizes}", 2
    return None


SHARED = (["search"], ["project"], ["evaluate"])
"""What several ranks do as one."""


def _run(arguments: list[str]) -> None:
    with distributed.together():
        command = _parse(arguments)
    command.run()


def _parse(arguments: list[str]) -> Command:
    recurrent = _is_recurrent(arguments)
    if recurrent and (method := _value(arguments, "--method")):
        raise FastdartsError(
            f"--method is {method} but recurrent cells (--space {RECURRENT.name}) are searched by DARTS only: leave it "
            "out, or choose a space for images"
        )
    searching, search_config = (SearchRecurrent, RecurrentSearchConfig) if recurrent else (Search, SearchConfig)
    evaluating, evaluate_config = (
        (EvaluateRecurrent, RecurrentEvaluateConfig) if recurrent else (Evaluate, EvaluateConfig)
    )
    settings = {
        command: _defaults(arguments, command, kind)
        for command, kind in (("search", search_config), ("evaluate", evaluate_config), ("study", StudyConfig))
    }
    return tyro.cli(
        Annotated[searching, subcommand("search", prefix_name=False, default=searching(settings["search"]))]
        | Annotated[Project, subcommand("project", prefix_name=False)]
        | Annotated[evaluating, subcommand("evaluate", prefix_name=False, default=evaluating(settings["evaluate"]))]
        | Annotated[Study, subcommand("study", prefix_name=False, default=Study("tiny", settings["study"]))]
        | Annotated[Report, subcommand("report", prefix_name=False)]
        | Annotated[Describe, subcommand("describe", prefix_name=False)]
        | Annotated[Info, subcommand("info", prefix_name=False)]
        | Annotated[Bench, subcommand("bench", prefix_name=False)],
        prog="fastdarts",
        args=arguments,
        description="Differentiable architecture search.",
    )


def _is_recurrent(arguments: list[str]) -> bool:
    """Whether a search or an evaluation is for recurrent cells, which have settings of their own: by --space, by the
    settings it starts from, or by the genotype."""
    if arguments[:1] not in (["search"], ["evaluate"]):
        return False
    if (space := _value(arguments, "--space")) is not None:
        return space == RECURRENT.name
    resume, config, genotype = (_value(arguments, flag) for flag in ("--resume", "--config", "--genotype"))
    try:
        if resume or config:
            from fastdarts.runs import CONFIG, find_checkpoint

            path = find_checkpoint(Path(resume)).parent / CONFIG if resume else Path(config)
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        else:
            found = read_fields(genotype) if genotype else None
    except (OSError, ValueError):
        return False  # what is wrong with them is said where they are read
    return isinstance(found, dict) and found.get("space") == RECURRENT.name


def _defaults(arguments: list[str], command: str, kind: type[RunConfig]) -> RunConfig:
    """What the flags of ``command`` default to: the settings file's, or those of the run to resume."""
    if not arguments or arguments[0] != command:
        return kind()
    config, resume = _value(arguments, "--config"), _value(arguments, "--resume")
    if config and resume:
        raise FastdartsError("got both --config and --resume: a resumed run keeps its settings, so leave --config out")
    if resume and kind is StudyConfig:
        from fastdarts.runs import CONFIG

        return from_toml(Path(resume) / CONFIG, kind)
    if resume:
        from fastdarts.runs import stored_config

        return replace(stored_config(Path(resume), command, kind), run=None)
    return from_toml(Path(config), kind) if config else kind()


def _value(arguments: list[str], flag: str) -> str | None:
    found = None
    for here, after in zip(arguments, [*arguments[1:], None], strict=True):
        if here == flag:
            found = after
        elif here.startswith(flag + "="):
            found = here.partition("=")[2]
    return found  # the last one, as the flags themselves have it
