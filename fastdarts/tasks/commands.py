"""What can be typed after a run: commands on the same data, and only those that would not be refused."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdarts.errors import FastdartsError
from fastdarts.runs.run import CONFIG
from fastdarts.runs.settings import RunConfig, from_dict
from fastdarts.tasks.settings import task_of
from fastdarts.tasks.validation import validate

OWN = "own"
"""The dataset of a run whose datasets a script has given."""


def command(*words: object) -> str:
    """A command line of fastdarts, quoted for a shell."""
    return shlex.join(["fastdarts", *map(str, words)])


def evaluate_command(folder: Path, config: Mapping[str, Any]) -> str:
    """What trains the genotype that a search with these stored settings has left in ``folder``, on the same data.

    With datasets of one's own it is a call from Python. It is "" for a task whose networks are not trained.
    """
    if config.get("dataset") == OWN:
        return f"fastdarts.evaluate(genotype={str(folder)!r}, train=..., test=...)"
    try:
        task, usual = task_of(config.get("space"), config.get("task")), task_of(config.get("space"))
    except FastdartsError:  # of a plug-in that is not loaded
        return ""
    if task.evaluation is None:
        return ""
    flags = ["--task", task.name] if task.name != usual.name else []
    left_out = {field.name: field.default for field in dataclasses.fields(task.evaluation)}
    for name in task.evaluation.data_settings:
        if name in config and config[name] != left_out[name]:
            flags += [f"--{name.replace('_', '-')}", config[name]]
    return command("evaluate", "--genotype", folder, *flags)


def same_again(verb: str, folder: Path, config: Mapping[str, Any], kind: type[RunConfig], **changes: Any) -> str:
    """The command that does again what a run with these stored settings did, with ``changes``; "" if it would be
    refused."""
    stored = {name: value for name, value in config.items() if name != "plugin"}  # nobody asked to import one here
    try:
        validate(from_dict(stored | changes, kind, CONFIG))
    except FastdartsError:
        return ""
    if config.get("dataset") == OWN:
        return ""
    flags = []
    for name, value in changes.items():
        number = f"{value:.4g}" if isinstance(value, float) else value
        flags += [f"--{name.replace('_', '-')}", *([] if value is True else [number])]
    return command(verb, "--config", folder / CONFIG, *flags)
