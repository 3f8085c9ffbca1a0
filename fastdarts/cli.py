"""The command line: fastdarts search | project | evaluate | study | report | describe | info | bench."""

from __future__ import annotations

import os
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
from fastdarts.errors import FastdartsError
from fastdarts.genotypes import read_fields
from fastdarts.rnn.config import RecurrentEvaluateConfig, RecurrentSearchConfig
from fastdarts.settings import from_toml
from fastdarts.spaces import RECURRENT
from fastdarts.study.config import StudyConfig


def main(arguments: list[str] | None = None) -> None:
    """Entry point: exit code 0; 2 with one sentence on stderr for bad input or no memory; 130 after Ctrl-C.

    SIGTERM during a search, a projection, an evaluation or a study saves a checkpoint and exits with 0.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"fastdarts {__version__}")
        return
    try:
        with distributed.joined() if arguments[:1] in SHARED else nullcontext():
            _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ConnectionError, FastdartsError) as error:  # a BrokenPipeError is a ConnectionError too
        if distributed.speaks(error):
            print(f"fastdarts: {error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        said = re.search("can't allocate memory|bad_alloc", str(error))  # by torch's allocator, and by the kernels
        if not (said or isinstance(error, MemoryError | torch.OutOfMemoryError)):
            raise
        sizes = "--hidden or --bptt" if _is_recurrent(arguments) else "--channels or --layers"
        print(f"fastdarts: out of memory: lower --batch-size, {sizes}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        reason = f"{error.strerror or error}: free it or name another place"
        print(f"fastdarts: cannot read or write{where}, {reason}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        resumable = arguments[:1] in SHARED
        how = "; go on with --resume and the run's folder" if resumable else ""
        how = "; the same command goes on" if arguments[:1] == ["study"] else how
        print(f"fastdarts: interrupted{how}", file=sys.stderr)
        sys.exit(130)


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
