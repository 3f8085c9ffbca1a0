"""The commands of ``fastdarts`` by name, and the page that lists them.

A command is a dataclass whose fields are its flags, in a file of its own. The file is imported when the command is
asked for: PyTorch takes seconds to import, and the page of commands should not wait for it.
"""

from __future__ import annotations

import importlib
import textwrap
from typing import Any, NamedTuple

from fastdarts import __version__


class Named(NamedTuple):
    """A command: the class ``kind`` in :mod:`fastdarts.cli` ``.module``, and what it does, in a sentence."""

    module: str
    kind: str
    summary: str


GROUPS: dict[str, dict[str, Named]] = {
    "search for an architecture": {
        "search": Named("search", "Search", "Search for a cell and write its genotype and a report."),
        "project": Named("search", "Project", "Derive the genotype of a finished search by perturbation (DARTS-PT)."),
        "derive": Named("derive", "Derive", "Derive the genotype of alphas that you have."),
        "study": Named("study", "Study", "Train every architecture of a small space, and search in it."),
    },
    "train and use its network": {
        "evaluate": Named("evaluate", "Evaluate", "Train a genotype from scratch, test it and leave a model."),
        "predict": Named("predict", "Predict", "Say what is on images, by the model."),
        "export": Named("export", "Export", "Write the model into a file that runs without fastdarts."),
    },
    "look": {
        "compare": Named("compare", "Compare", "Put runs beside each other: methods times seeds, with intervals."),
        "report": Named("report", "Report", "Write the report of a run or of a study anew."),
        "describe": Named("describe", "Describe", "Say how large a network is, and draw its cells."),
        "scale": Named("scale", "Scale", "Scale a network by a number, and say what that costs (EfficientNet)."),
        "methods": Named("listing", "Methods", "List the methods, or the settings of one."),
        "spaces": Named("listing", "Spaces", "List the search spaces."),
        "info": Named("info", "Info", "Say what runs on this machine, and why."),
        "completion": Named("completion", "Completion", "Print a script by which bash or zsh completes commands."),
        "bench": Named("bench", "Bench", "Time fastdarts beside the public DARTS code."),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def find_command(name: str) -> type[Any]:
    """The class of the command of this name, one of :data:`COMMANDS`."""
    command = COMMANDS[name]
    return getattr(importlib.import_module(f"fastdarts.cli.{command.module}"), command.kind)


def page(width: int = 100) -> str:
    """All commands, and how to go on."""
    lines = ["usage: fastdarts COMMAND [FLAGS]", "", "Differentiable architecture search."]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, command in group.items():
            first, *more = textwrap.wrap(command.summary, max(width - 14, 30))
            lines += [f"  {name:<10}  {first}", *(" " * 14 + line for line in more)]
    lines += [
        "",
        "fastdarts COMMAND --help lists the flags of a command.",
        "A first search, in about a minute:",
        "  fastdarts search --dataset digits --epochs 3 --channels 8 --layers 5",
    ]
    return "\n".join(lines)


def answered(arguments: list[str]) -> str | None:
    """The answer to arguments that need no command: the version, or the page of commands. None for others."""
    if arguments == ["--version"]:
        return f"fastdarts {__version__}"
    return page() if arguments[:1] in (["-h"], ["--help"], ["--help-all"]) else None
