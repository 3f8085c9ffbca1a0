"""Settings of every run; settings from TOML and from plain values, and back."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from fastdarts.errors import FastdartsError, unknown_setting
from fastdarts.runs.kinds import Count, NotNegative
from fastdarts.runs.stored import alternatives


def expanded(path: str | Path) -> Path:
    """``path`` with the home folder in place of a leading ~; raises :class:`FastdartsError` for an empty one."""
    if not (text := os.fspath(path)) or "\0" in text:
        raise FastdartsError(f"got {text!r} for a path: name a file or folder, or leave it out")
    return Path(os.path.expanduser(text))


@dataclass(frozen=True)
class RunConfig:
    """Where the work is done, and what it leaves. In paths, a leading ~ is the home folder."""

    group: ClassVar[str] = "running"
    """Title of the settings of this class among the flags."""

    device: str = "auto"
    """Device: cpu, cuda, cuda:1, ...; auto takes the GPU if there is one. With cuda, each of several ranks takes a GPU
    of its own."""
    threads: Count | None = None
    """CPU threads; results are bit-identical only for the same number."""
    graphs: Literal["auto", "on", "off"] = "auto"
    """Graphs of CUDA that hold the passes of a step, so that the host starts each by one call. The bits are those
    without; auto has them with cuda where a pass can be recorded, and on insists."""
    checkpoint_minutes: NotNegative = 5.0
    """Minutes between checkpoints within an epoch; one is written after each epoch anyway, and 0 means every step."""
    run: Path | None = None
    """Folder for everything the run leaves; by default a new one under runs/."""
    resume: Path | None = None
    """Folder or checkpoint file of a run to go on with."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """Loggers of the numbers of each epoch: any of tensorboard, wandb (Weights & Biases) and mlflow. The folder has
    them in metrics.jsonl anyway."""
    plugin: tuple[str, ...] = ()
    """Python files of your own that register methods, spaces or operations; the run remembers them."""

    @classmethod
    def of(cls, values: Mapping[str, Any], stored: bool = False) -> tuple[type[RunConfig], dict[str, Any]]:
        """The class of the settings that ``values`` are for, and the values that it takes."""
        return cls, dict(values)

    @classmethod
    def family(cls) -> type[RunConfig]:
        """The class that makes settings of this command from what a run has stored."""
        return cls

    def filled(self) -> RunConfig:
        """``self`` with every setting that was left out filled in, where that depends on nothing else."""
        return self

    @classmethod
    def owners(cls) -> tuple[type, ...]:
        """The classes that say what the settings are, each in the order in which it counts."""
        return cls.__mro__

    free_on_resume: ClassVar[frozenset[str]] = frozenset(
        {
            "data", "workers", "graphs", "run", "resume", "checkpoint_minutes", "plugin", "loggers", "processes",
            "storage", "study",
        }
    )  # fmt: skip
    """What may differ between a run and the command that resumes it: where things lie and who works on them, and how
    often they are saved."""

    def __post_init__(self) -> None:
        if isinstance(self.plugin, tuple):  # what it is else is said when the settings are checked
            paths = (os.path.abspath(os.path.expanduser(p)) if isinstance(p, str) and p else p for p in self.plugin)
            object.__setattr__(self, "plugin", tuple(paths))
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), Path):
                object.__setattr__(self, field.name, Path(os.path.expanduser(value)))


C = TypeVar("C", bound=RunConfig)
WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "True or False", Path: "a file or a folder",
    tuple: "a list",
}  # fmt: skip
"""What the values of a type are called in errors."""


def choices_of(hint: Any) -> tuple[str, ...]:
    """The strings that a Literal, or a Literal | None, allows; empty for any other type."""
    parts = alternatives(hint)
    return next((get_args(part) for part in parts if get_origin(part) is Literal), ())


def plain_values(config: RunConfig) -> dict[str, Any]:
    """The settings by name, paths as text."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(config).items()}


def to_toml(config: RunConfig) -> str:
    """The settings as TOML, but for those that are None and for ``run`` and ``resume``: another run has its own."""
    import tomli_w

    return tomli_w.dumps(
        {k: v for k, v in plain_values(config).items() if v is not None and k not in ("run", "resume")}
    )


def from_toml(path: Path, kind: type[C], stored: bool = False, **instead: Any) -> C:
    """Read settings of ``kind``, some of them ``instead`` of those in the file.

    Raises :class:`FastdartsError` on a missing or broken file, an unknown key or a wrong type.
    """
    path = expanded(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FastdartsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also of encodings and of numbers that are too long
        raise FastdartsError(f"{path} is not valid TOML: {error}") from error
    if "resume" in values:
        raise FastdartsError(f"{path} sets resume: say --resume on the command line, where a run has its own settings")
    return from_dict(values | instead, kind, str(path), stored)


def from_dict(values: dict[str, Any], kind: type[C], source: str, stored: bool = False) -> C:
    """Build settings of ``kind`` from plain values; ``source`` names their origin in errors, and ``stored`` says that
    they are of a run."""
    try:
        kind, values = kind.of(values, stored)
    except FastdartsError as error:
        raise FastdartsError(f"{source} cannot be used: {error}") from error
    known, hints = {field.name for field in dataclasses.fields(kind)}, get_type_hints(kind)
    hints = {name: hint for name, hint in hints.items() if name in known}  # without constants of the class
    if unknown := sorted(set(values) - set(hints)):
        raise FastdartsError(f"{source} has the {unknown_setting(unknown[0], values[unknown[0]], hints)}")
    return kind(**{name: _typed(name, value, hints[name], source) for name, value in values.items()})


def _typed(name: str, value: Any, hint: Any, source: str) -> Any:
    parts = alternatives(hint)
    kinds = {str if get_origin(part) is Literal else part for part in parts}
    if type(value) in kinds:
        return value
    one = next((get_args(kind)[0] for kind in kinds if get_origin(kind) is tuple), None)
    allowed = (float, int) if one is float else (one,)
    if one is not None and isinstance(value, list | tuple) and all(type(v) in allowed for v in value):
        return tuple(_typed(name, v, one, source) for v in value)
    if Path in kinds and isinstance(value, str | Path):
        try:
            return expanded(value)
        except FastdartsError as error:
            raise FastdartsError(f"{source} sets {name}: {error}") from error
    if float in kinds and type(value) is int and abs(value) < 2**1000:
        return float(value)
    names = " or ".join(sorted(WORDS.get(get_origin(k) or k, str(k)) for k in kinds - {type(None)}))
    raise FastdartsError(f"{source} sets {name} to {value!r}: expected {names}")
